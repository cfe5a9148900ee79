"""The data manifest: what `prepare` found, and lists of its ids."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from stpp.files import StppError, digest, read_csv, read_json, write_csv, write_json

Rgb = tuple[int, int, int]


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
    records: dict[str, Record]

    @property
    def digest(self) -> str:
        """md5 over ids, hashes and the meaning of masks: a name for this content, 32 characters."""
        lines = [f"{self.classes} {sorted(self.values.items())}\n"]
        lines += [f"{r.id} {r.image_sha256} {r.mask_sha256}\n" for r in self.records.values()]
        return hashlib.md5("".join(lines).encode(), usedforsecurity=False).hexdigest()


def digest_of(dataset: Dataset, ids: list[str]) -> str:
    """A name for images with masks and the meaning of these, whatever their order; 32 characters."""
    chosen = {i: dataset.records[i] for i in sorted(ids)}
    return replace(dataset, records=chosen).digest


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
    rows = [
        (r.id, r.image, r.mask, r.width, r.height, r.image_sha256, r.mask_sha256, " ".join(map(str, r.classes)))
        for r in dataset.records.values()
    ]
    write_csv(folder / "manifest.csv", RECORD, rows)


def read_dataset(folder: Path) -> Dataset:
    """What `write_dataset` wrote. Raises StppError naming the folder if it was damaged or leads out of the data set."""
    about = read_json(folder / "dataset.json")
    try:
        records = {row["id"]: _record(row) for row in read_csv(folder / "manifest.csv", RECORD)}
        return Dataset(
            name=about["name"],
            classes=tuple(about["classes"]),
            palette=tuple((r, g, b) for r, g, b in about["palette"]),
            values={int(k): v for k, v in about["values"].items()},
            records=records,
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise StppError(f"{folder}: not what `stpp prepare` writes ({error}); run `dvc repro` again") from None


def _record(row: dict[str, str]) -> Record:
    for path in (row["image"], row["mask"]):
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ValueError(f"{path} leads out of the data set")
    return Record(
        id=row["id"],
        image=row["image"],
        mask=row["mask"],
        width=int(row["width"]),
        height=int(row["height"]),
        image_sha256=row["image_sha256"],
        mask_sha256=row["mask_sha256"],
        classes=tuple(int(c) for c in row["classes"].split()),
    )


def listed(path: Path, dataset: Dataset) -> tuple[dict[str, int], list[str]]:
    """The ids that a list of a person names, with the numbers of their lines, and the problems of the other lines.

    A line is an id or an image's path; a second column is allowed, as published lists have.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        return {}, [f"{path}: not readable: {error}; save it as UTF-8"]
    except OSError as error:
        return {}, [f"{path}: not readable: {error.strerror}"]
    by_image = {record.image: i for i, record in dataset.records.items()}
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
