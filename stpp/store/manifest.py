"""The data manifest: what `prepare` found, and lists of its ids."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from stpp.store.files import ID, StppError, digest, read_text, write_csv, write_json
from stpp.store.packed import Table

Rgb = tuple[int, int, int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """One image of the data set: paths below the root, size in pixels once upright, hashes of the files' bytes."""

    id: str
    image: str
    mask: str
    """Empty where there is none."""
    width: int
    height: int
    image_sha256: str
    mask_sha256: str
    classes: tuple[int, ...]
    """Ids of the classes present in the mask, ascending."""


@dataclass(frozen=True)
class Dataset:
    """What `prepare` found: classes, the meaning of mask values, and one record an image."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[Rgb, ...]
    values: dict[int, int]
    """Mask value -> class id, or 255 for ignore; values not named are invalid."""
    records: Mapping[str, Record]
    """By id. What is read from a file is a `Table`: it stays there."""

    @cached_property
    def digest(self) -> str:
        """md5 over ids, hashes and the meaning of masks: a name for this content, 32 characters."""
        return _digest(self, self.records.values())


def digest_of(dataset: Dataset, ids: list[str]) -> str:
    """A name for images with masks and the meaning of these, whatever their order; 32 characters."""
    return _digest(dataset, (dataset.records[i] for i in sorted(set(ids))))


def _digest(dataset: Dataset, records: Iterable[Record]) -> str:
    total = hashlib.md5(f"{dataset.classes} {sorted(dataset.values.items())}\n".encode(), usedforsecurity=False)
    for r in records:
        total.update(f"{r.id} {r.image_sha256} {r.mask_sha256}\n".encode())
    return total.hexdigest()


def twins(hashes: Iterable[str]) -> set[int]:
    """What `hash` makes of those that come more than once (and, perhaps, of others). 8 bytes each."""
    import numpy as np

    ordered = np.sort(np.fromiter(map(hash, hashes), np.int64))
    return set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


RECORD = ("id", "image", "mask", "width", "height", "image_sha256", "mask_sha256", "classes")


def write_dataset(folder: Path, dataset: Dataset) -> None:
    about = {
        "name": dataset.name,
        "digest": dataset.digest,
        "images": len(dataset.records),
        "classes": list(dataset.classes),
        "palette": [list(c) for c in dataset.palette],
        "values": {str(k): v for k, v in sorted(dataset.values.items())},
    }
    write_json(folder / "dataset.json", about)
    write_csv(folder / "manifest.csv", RECORD, map(as_row, dataset.records.values()))


def as_row(r: Record) -> tuple[Any, ...]:
    """A record as the manifest has it."""
    return r.id, r.image, r.mask, r.width, r.height, r.image_sha256, r.mask_sha256, " ".join(map(str, r.classes))


def read_dataset(folder: Path) -> Dataset:
    """What `write_dataset` wrote. Raises StppError naming the folder if it was damaged or leads out of the data set."""
    from stpp.store.records import DataSet, read

    about = read(folder / "dataset.json", DataSet)
    try:
        return Dataset(
            name=about["name"],
            classes=tuple(about["classes"]),
            palette=tuple((r, g, b) for r, g, b in about["palette"]),
            values={int(k): v for k, v in about["values"].items()},
            records=Table.read(folder / "manifest.csv", RECORD, record_of),
        )
    except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise StppError(f"{folder}: not what `stpp prepare` writes ({error}); run `dvc repro` again") from None


def read_table(path: Path, columns: Sequence[str], row_of: Callable[[list[str]], T]) -> Table[T]:
    """A table that a stage wrote, by its first column. Raises StppError naming a file that is damaged or not there."""
    try:
        return Table.read(path, columns, row_of)
    except (OSError, ValueError) as error:
        raise StppError(f"{path}: not readable: {error}; run the stage that makes it again") from None


def record_of(row: list[str]) -> Record:
    """What `as_row` wrote. Raises ValueError if it is no such thing, or leads out of the data set."""
    name, image, mask, width, height, image_sha256, mask_sha256, classes = row[: len(RECORD)]
    if not ID.match(name):
        raise ValueError(f"{name!r} is no id")
    for path in (image, mask):
        if path.startswith("/") or (".." in path and ".." in path.split("/")):
            raise ValueError(f"{path} leads out of the data set")
    shown = tuple(map(int, classes.split()))
    return Record(name, image, mask, int(width), int(height), image_sha256, mask_sha256, shown)


def listed(path: Path, dataset: Dataset) -> tuple[dict[str, int], list[str]]:
    """The ids that a list of a person names, with the numbers of their lines, and the problems of the other lines.

    A line is an id or an image's path; a second column is allowed, as published lists have.
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
            problems.append(f"{path}:{number}: an id with spaces? Expected one id or image path (and a mask) a line")
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
    """A name for a split's content: 32 characters, of ids, sets and hashes of images and masks."""
    return digest([split / "manifest.csv"])[:32]
