"""Checks of the folders of a run against their own manifests: images, split lists, pseudo masks. The networks."""

import csv
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from stpp.params.models import Model
from stpp.run.parallel import THREADS, ordered_map
from stpp.store.files import StppError, read_ids, scan_csv, sha256
from stpp.store.manifest import Dataset, read_dataset
from stpp.store.masks import MaskSet
from stpp.store.packed import PackedStrings

SHOWN = 20
"""Problems that are listed for a folder; further ones are only counted."""


@cache
def examine(folder: Path, project: Path, data_root: str) -> tuple[str, list[str]]:
    """Return a description of a folder's contents, and the contradictions to its manifest.

    data_root: the folder of the images, relative to the project's folder or absolute. The images are checked if it
    exists. Each folder is examined once per process. A folder without a manifest has an empty description.
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


def network_of(path: Path) -> str:
    """Return which network a file of weights says that it is for; empty if it does not say it."""
    try:
        with safe_open(path, "np") as file:
            about = json.loads((file.metadata() or {})["stpp"])
        return Model.model_validate_json(json.dumps(about["model"])).title
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, ValidationError):
        return ""


def _images(folder: Path, project: Path, data_root: str) -> tuple[str, list[str]]:
    dataset, root = read_dataset(folder), project / data_root
    about = f"{len(dataset.records)} images, digest {dataset.digest}"
    if not data_root or not root.is_dir():
        return f"{about}; the images are not here", []
    problems, files, found = _Problems(), 0, 0

    def wanted() -> Iterator[tuple[str, str]]:
        for r in dataset.records.values():
            yield r.image, r.image_sha256
            if r.mask and not dataset.drawn:
                yield r.mask, r.mask_sha256
        if dataset.drawn:
            yield from ((file, said) for file, said in scan_csv(folder / "annotations.csv", ("file", "sha256")))

    def look(one: tuple[str, str]) -> tuple[str, str, str | None]:
        name, said = one
        path = root / name
        return name, said, sha256(path) if path.is_file() else None

    for name, said, now in ordered_map(look, wanted(), THREADS):
        files += 1
        found += now == said
        if now is None:
            problems.add(f"{data_root}/{name}: is missing; the manifest lists it with sha256 {said[:12]}")
        elif now != said:
            problems.add(f"{data_root}/{name}: was changed: sha256 {now[:12]}, in the manifest {said[:12]}")
    about = f"{about}; {found} of {files} files have the manifest's sha256"
    return f"{about}{_drawn(folder, dataset, problems)}", problems.lines


def _drawn(folder: Path, dataset: Dataset, problems: "_Problems") -> str:
    """Return a description of the masks that were drawn from annotation files; compare each with both manifests."""
    if not dataset.drawn:
        return ""
    masks, records = MaskSet(dataset.drawn), dataset.records
    names = PackedStrings(record.id for record in records.values() if record.mask)

    def look(name: str) -> str | None:
        try:
            if masks.rows[name]["sha256"] != records[name].mask_sha256:
                return f"{masks.folder}: mask {name}: differs from {folder / 'manifest.csv'}"
            masks.read(name)
        except StppError as error:
            return str(error)
        except KeyError:
            return f"{masks.folder}: mask {name}: is missing"
        return None

    for problem in ordered_map(look, names, THREADS):
        if problem:
            problems.add(problem)
    objects = sum(1 for _ in scan_csv(folder / "objects.csv", ("id",)))
    files = PackedStrings(file for (file,) in scan_csv(folder / "annotations.csv", ("file",)))
    of = f"{len(files)} files, such as {files[0]}" if len(files) > 1 else "".join(files)
    return f"; {len(names)} masks drawn from {objects} objects in {of}: {folder.name}/objects.csv names those of each"


def _lists(folder: Path) -> tuple[str, list[str]]:
    by_set: dict[str, set[str]] = {}
    for i, name in scan_csv(folder / "manifest.csv", ("id", "set")):
        by_set.setdefault(name, set()).add(i)
    problems = _Problems()
    lists = sorted(folder.glob("*.txt"))
    for path in lists:
        said, listed = by_set.get(path.stem, set()), read_ids(path)
        for i in listed:
            if i not in said:
                problems.add(f"{path}: {i} was added after the split was made")
        for i in sorted(said.difference(listed)):
            problems.add(f"{path}: {i} was removed after the split was made")
    for name in sorted(set(by_set) - {path.stem for path in lists}):
        problems.add(f"{folder / name}.txt: is missing; the split's manifest lists it")
    return ", ".join(f"{len(ids)} {name}" for name, ids in sorted(by_set.items())), problems.lines


def _masks(folder: Path) -> tuple[str, list[str]]:
    masks, problems = MaskSet(folder), _Problems()

    def look(name: str) -> str | None:
        try:
            (masks.read_levels if masks.soft else masks.read)(name)
        except StppError as error:
            return str(error)
        return None

    for problem in ordered_map(look, masks.rows, THREADS):
        if problem:
            problems.add(problem)
    return f"{len(masks.rows)} pseudo masks, each read and compared with the manifest", problems.lines


class _Problems:
    """A list of problems that keeps the first SHOWN and counts the others."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._more = 0

    def add(self, problem: str) -> None:
        if len(self._shown) < SHOWN:
            self._shown.append(problem)
        else:
            self._more += 1

    @property
    def lines(self) -> list[str]:
        return [*self._shown, *([f"... and {self._more} more of this kind"] if self._more else [])]
