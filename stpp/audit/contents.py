"""What is inside a folder of a run, against its own manifest: images, lists, pseudo masks."""

import csv
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from stpp.files import StppError, read_csv, read_ids, sha256
from stpp.manifest import read_dataset

SHOWN = 20


@cache
def examine(folder: Path, project: Path, data_root: str) -> tuple[str, list[str]]:
    """What a folder holds, in words, and what in it contradicts its manifest; looked at once in a process.

    data_root: where the images are, below the project's folder or absolute; looked at if there.
    """
    try:
        if (folder / "dataset.json").is_file():
            return _images(folder, project, data_root)
        if (folder / "labeled.txt").is_file():
            return _lists(folder)
        if (folder / "manifest.csv").is_file():
            return _masks(folder)
    except (StppError, ValueError, KeyError, csv.Error) as error:
        return "", [str(error)]
    return "", []


def _images(folder: Path, project: Path, data_root: str) -> tuple[str, list[str]]:
    dataset, root = read_dataset(folder), project / data_root
    about = f"{len(dataset.records)} images, digest {dataset.digest}"
    if not data_root or not root.is_dir():
        return f"{about}; the images are not here", []
    problems, found = [], 0
    wanted = [(r.image, r.image_sha256) for r in dataset.records.values()]
    wanted += [(r.mask, r.mask_sha256) for r in dataset.records.values() if r.mask]

    def look(one: tuple[str, str]) -> str | None:
        path = root / one[0]
        if ".." in Path(one[0]).parts or not path.is_file():
            return None
        return sha256(path)

    with ThreadPoolExecutor() as pool:
        for (name, said), now in zip(wanted, pool.map(look, wanted), strict=True):
            found += now == said
            if now is None:
                problems.append(f"{data_root}/{name}: is gone; the manifest has it with sha256 {said[:12]}")
            elif now != said:
                problems.append(f"{data_root}/{name}: was changed: sha256 {now[:12]}, in the manifest {said[:12]}")
    return f"{about}; {found} of {len(wanted)} files have the manifest's sha256", _cut(problems)


def _lists(folder: Path) -> tuple[str, list[str]]:
    rows = read_csv(folder / "manifest.csv", ("id", "set", "image_sha256", "mask_sha256"))
    by_set: dict[str, list[str]] = {}
    for row in rows:
        by_set.setdefault(row["set"], []).append(row["id"])
    problems = []
    for path in sorted(folder.glob("*.txt")):
        said, listed = set(by_set.get(path.stem, ())), read_ids(path)
        problems += [f"{path}: {i} was added after the split was made" for i in listed if i not in said]
        problems += [f"{path}: {i} was removed after the split was made" for i in sorted(said - set(listed))]
    for name in sorted(set(by_set) - {path.stem for path in folder.glob("*.txt")}):
        problems.append(f"{folder / name}.txt: is gone; the split's manifest has it")
    return ", ".join(f"{len(ids)} {name}" for name, ids in sorted(by_set.items())), _cut(problems)


def _masks(folder: Path) -> tuple[str, list[str]]:
    from stpp.masks import MaskSet

    masks, problems = MaskSet(folder), []
    for name in masks.ids:
        try:
            masks.read(name)
        except StppError as error:
            problems.append(str(error))
    return f"{len(masks.ids)} pseudo masks, each read and compared with the manifest", _cut(problems)


def _cut(problems: list[str]) -> list[str]:
    more = len(problems) - SHOWN
    return problems[:SHOWN] + ([f"... and {more} more of this kind"] if more > 0 else [])
