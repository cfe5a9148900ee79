"""The data manifest that `stpp prepare` writes: classes, mask values and one record per image.

Lists of ids that a person writes are read here, too.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stpp.store.files import ID, StppError, digest, read_text, write_csv, write_json
from stpp.store.packed import MappedTable
from stpp.store.records import DatasetJson, read

Rgb = tuple[int, int, int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """One image of the data set.

    Paths are relative to the data set's root. Width and height are in pixels, after EXIF rotation. Hashes are of the
    files' bytes.
    """

    id: str
    image: str
    mask: str
    """Empty if the image has no mask. The annotation file if the mask was drawn from one."""
    width: int
    height: int
    image_sha256: str
    mask_sha256: str
    """For a mask that was drawn: of its pixels (`stpp.store.masks.mask_sha256`)."""
    classes: tuple[int, ...]
    """Ids of the classes present in the mask, ascending."""


@dataclass(frozen=True)
class Dataset:
    """The data set that `stpp prepare` found: classes, the meaning of mask values, and one record per image."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[Rgb, ...]
    values: dict[int, int]
    """Mask value -> class id, or 255 for ignore. A mask value that is not a key is invalid."""
    records: Mapping[str, Record]
    """Records by id. Read from a file, this is a `MappedTable`, which leaves the records on disk."""
    drawn: Path | None = None
    """The mask set of all masks if they were drawn from annotation files; else None: each mask is a file."""

    @cached_property
    def digest(self) -> str:
        """The md5 over ids, file hashes, classes and mask values, 32 characters: it identifies this content."""
        return _digest(self, self.records.values())


def digest_of(dataset: Dataset, ids: list[str]) -> str:
    """Return a hash, 32 characters, of the images `ids`, their masks, the classes and the mask values.

    The order of `ids` and repeated ids do not change it.
    """
    return _digest(dataset, (dataset.records[i] for i in sorted(set(ids))))


def _digest(dataset: Dataset, records: Iterable[Record]) -> str:
    drawn = " drawn" if dataset.drawn else ""
    about = f"{dataset.classes} {sorted(dataset.values.items())}{drawn}\n"
    total = hashlib.md5(about.encode(), usedforsecurity=False)
    for r in records:
        total.update(f"{r.id} {r.image_sha256} {r.mask_sha256}\n".encode())
    return total.hexdigest()


def repeated_hashes(hashes: Iterable[str]) -> set[int]:
    """Return the built-in `hash` of every string that occurs more than once, using 8 bytes of memory per string.

    Two different strings may have the same `hash`, so the caller must compare the strings themselves. The hashes are
    valid in this process alone.
    """
    ordered = np.sort(np.fromiter(map(hash, hashes), np.int64))
    return set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


DRAWN = "masks"
"""The folder of the mask set beside dataset.json, if the masks were drawn from annotation files."""
RECORD = ("id", "image", "mask", "width", "height", "image_sha256", "mask_sha256", "classes")
"""The columns of manifest.csv."""


def write_dataset(folder: Path, dataset: Dataset) -> None:
    """Write dataset.json and manifest.csv into a folder."""
    about = {
        "name": dataset.name,
        "digest": dataset.digest,
        "images": len(dataset.records),
        "classes": list(dataset.classes),
        "palette": [list(c) for c in dataset.palette],
        "values": {str(k): v for k, v in sorted(dataset.values.items())},
    } | ({"masks": DRAWN} if dataset.drawn else {})
    write_json(folder / "dataset.json", about)
    write_csv(folder / "manifest.csv", RECORD, map(as_row, dataset.records.values()))


def as_row(r: Record) -> tuple[Any, ...]:
    """Return a record as a row of manifest.csv."""
    return r.id, r.image, r.mask, r.width, r.height, r.image_sha256, r.mask_sha256, " ".join(map(str, r.classes))


def read_dataset(folder: Path) -> Dataset:
    """Read the data set that `write_dataset` wrote.

    Raises StppError naming the folder or file if it is damaged, or if a path leads out of the data set.
    """
    about = read(folder / "dataset.json", DatasetJson)
    try:
        return Dataset(
            name=about["name"],
            classes=tuple(about["classes"]),
            palette=tuple((r, g, b) for r, g, b in about["palette"]),
            values={int(k): v for k, v in about["values"].items()},
            records=MappedTable.read(folder / "manifest.csv", RECORD, record_of),
            drawn=folder / DRAWN if about.get("masks") else None,
        )
    except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise StppError(f"{folder}: not what `stpp prepare` writes ({error}); run `dvc repro` again") from None


def read_table(path: Path, columns: Sequence[str], row_of: Callable[[list[str]], T]) -> MappedTable[T]:
    """Open a CSV table that a stage wrote, keyed by its first column. Raises StppError naming a bad or missing file."""
    try:
        return MappedTable.read(path, columns, row_of)
    except (OSError, ValueError) as error:
        raise StppError(f"{path}: not readable: {error}; rerun the stage that writes it") from None


def record_of(row: list[str]) -> Record:
    """Return the record in a row of manifest.csv; the inverse of `as_row`.

    Raises ValueError if the row is malformed, or if a path leads out of the data set.
    """
    name, image, mask, width, height, image_sha256, mask_sha256, classes = row[: len(RECORD)]
    if not ID.match(name):
        raise ValueError(f"{name!r} is not a valid id")
    for path in (image, mask):
        if path.startswith("/") or (".." in path and ".." in path.split("/")):
            raise ValueError(f"{path} points outside the data set")
    shown = tuple(map(int, classes.split()))
    return Record(name, image, mask, int(width), int(height), image_sha256, mask_sha256, shown)


def read_user_list(path: Path, dataset: Dataset) -> tuple[dict[str, int], list[str]]:
    """Read a list of images written by a person, and return its ids with their line numbers, and its problems.

    A line holds an id or an image's path. A second column is allowed, since published lists have one. Each problem is
    a line of text; a list that cannot be read or is empty is a problem, too.
    """
    try:
        lines = read_text(path, encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        return {}, [f"{path}: not readable: {error}; save it as UTF-8"]
    except OSError as error:
        return {}, [f"{path}: not readable: {error.strerror}"]
    words = {line.split()[0] for line in lines if line.strip()}
    if all(word in dataset.records for word in words):
        words.clear()
    by_image = {r.image: i for i, r in dataset.records.items() if r.image in words} if words else {}
    ids: dict[str, int] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        word = line.split()[0]
        found = word if word in dataset.records else by_image.get(word)
        if found is None and len(line.split()) > 2:
            problems.append(f"{path}:{number}: expected one id or image path (and a mask), without spaces")
        elif found is None:
            problems.append(f"{path}:{number}: {word} is neither an id nor an image of the data set")
        elif found in ids:
            problems.append(f"{path}:{number}: {word} is listed twice; remove one line")
        else:
            ids[found] = number
    if not any(line.strip() for line in lines):
        problems.append(f"{path}: the list is empty")
    return ids, problems


def split_digest(split: Path) -> str:
    """Return a hash, 32 characters, of a split: of its ids, their sets, and the hashes of images and masks."""
    return digest([split / "manifest.csv"])[:32]
