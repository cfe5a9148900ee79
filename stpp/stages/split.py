"""The `split` stage: divides the images into labelled, unlabelled, val and test; and `split pin` and `split diff`."""

import filecmp
import re
import tempfile
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from stpp.ingest.splits import SETS, check, draw
from stpp.params.file import load
from stpp.run.git import git
from stpp.stages import options
from stpp.store.files import (
    StppError,
    atomic_folder,
    publish,
    raise_problems,
    scan_csv,
    write_csv,
    write_ids,
    write_text,
)
from stpp.store.manifest import read_dataset, split_digest

Lists = Annotated[Path, Option(help="Folder of your own lists and of pinned splits.")]
MANIFEST = ("id", "set", "image_sha256", "mask_sha256")
SPLITS, MADE = Path("splits"), Path("runs/split")
SHOWN = 10
Sets = dict[str, tuple[str, str, str]]
"""By id: the name of its set, the sha256 of its image, and the sha256 of its mask, empty if the mask is not used."""


def split(data: options.Data, lists: Lists, out: options.Out, params: options.Params = None) -> None:
    """Draw or read the split, check it, and write its lists and manifest.

    All problems are reported at once (exit code 2). A split whose name is
    pinned must have the pinned content.
    """
    p = load(options.params_files(params))
    dataset = read_dataset(data)
    sets, problems = draw(dataset, p.split, lists)
    more, warnings = check(sets, dataset, p.split, p.train.batch_size)
    raise_problems([*dict.fromkeys(problems + more)], f"split {p.split.name}")
    for warning in warnings:
        print(f"warning: {warning}")
    rows = (
        (i, name, record.image_sha256, record.mask_sha256 if name != "unlabeled" else "")
        for name, ids in sorted(sets.items())
        for i, record in ((i, dataset.records[i]) for i in ids)
    )
    with atomic_folder(out) as partial:
        for name, ids in sets.items():
            write_ids(partial / f"{name}.txt", ids)
        write_csv(partial / "manifest.csv", MANIFEST, rows)
        _keep_to_pin(lists, p.split.name, partial / "manifest.csv")
    counts = ", ".join(f"{len(sets[n])} {n}" for n in reversed(SETS) if n in sets)
    print(f"split {p.split.name}: {counts}; {out} (manifest.csv, digest {split_digest(out)})")


def _keep_to_pin(lists: Path, name: str, manifest: Path) -> None:
    """Raise StppError if the name is pinned with another content."""
    path = _pin_of(lists, name)
    if not path.is_file() or filecmp.cmp(path, manifest, shallow=False):
        return
    if (pinned := _read(path)) != (sets := _read(manifest)):
        raise StppError(
            "\n".join(
                (
                    f"split {name}: differs from the split that {path} pins:",
                    *_moved(pinned, sets),
                    "Choose another split.name, or restore the data and split parameters that were pinned",
                )
            )
        )


def pin(
    name: Annotated[str, Argument(help="Name of the split, as in split.name.")],
    split: options.Split = MADE,
    lists: Lists = SPLITS,
) -> None:
    """Freeze the current split: later runs refuse other content under its name.

    The pin is a copy of the split's manifest: ids, sets, and hashes of images
    and masks. Commit it to git.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):
        raise StppError(
            f"{name}: not a valid split name; use at most 100 letters, digits and . _ -, not beginning with a dot"
        )
    path, sets = _pin_of(lists, name), _read(split / "manifest.csv")
    if path.is_file() and _read(path) != sets:
        raise StppError(f"{path}: already pins other content, and a pin cannot change; choose another name")
    publish(split / "manifest.csv", path)
    print(f"{name}: {len(sets)} images, {split_digest(split)}; `git add {path} && git commit` keeps it")


def diff(
    one: Annotated[str, Argument(help="A pinned name, a folder that `stpp split` wrote, or a commit of git.")],
    other: Annotated[str, Argument(help="The split to compare it with, named in the same way.")] = str(MADE),
    lists: Lists = SPLITS,
) -> None:
    """Compare two splits: images that moved, were added, removed or changed."""
    lines = _moved(_named(one, lists), _named(other, lists), shown=None)
    print("\n".join(lines) or f"{one} and {other} are equal")


def _named(name: str, lists: Path) -> Sets:
    """Return the split that a name stands for: a pinned name, a folder, or a git commit."""
    for path in (_pin_of(lists, name), Path(name) / "manifest.csv"):
        if path.is_file():
            return _read(path)
    place = f"{MADE.as_posix()}/manifest.csv"
    text = "" if name.startswith("-") else git("show", f"{name}:./{place}")
    if not text:
        pins = ", ".join(sorted(path.stem for path in (lists / "pinned").glob("*.csv"))) or "none"
        raise StppError(f"{name}: neither pinned ({pins}), nor a folder of a split, nor a commit that holds {place}")
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder) / "manifest.csv", f"{text}\n")
        return _read(Path(folder) / "manifest.csv")


def _read(manifest: Path) -> Sets:
    return {i: (name, image, mask) for i, name, image, mask in scan_csv(manifest, MANIFEST)}


def _moved(before: Sets, after: Sets, shown: int | None = SHOWN) -> list[str]:
    """Return the differences of two splits: a line for each kind of difference, and below it a line for each image.

    shown: the number of images listed for each kind; None lists all of them.
    """
    kinds: dict[str, list[str]] = {}
    for i in sorted(before.keys() | after.keys()):
        (was, image, mask), (now, image_now, mask_now) = before.get(i, ("", "", "")), after.get(i, ("", "", ""))
        if was != now:
            kinds.setdefault(f"{was or 'nowhere'} -> {now or 'nowhere'}", []).append(i)
        if was and now and image != image_now:
            kinds.setdefault(f"another image in {now}", []).append(i)
        elif was == now and mask != mask_now:
            kinds.setdefault(f"another mask in {now}", []).append(i)
    lines = []
    for kind, ids in kinds.items():
        lines += [f"{kind}: {len(ids)}", *(f"  {i}" for i in ids[:shown])]
        lines += [f"  ... and {len(ids) - len(ids[:shown])} more"] if len(ids[:shown]) < len(ids) else []
    return lines


def _pin_of(lists: Path, name: str) -> Path:
    return lists / "pinned" / f"{name}.csv"
