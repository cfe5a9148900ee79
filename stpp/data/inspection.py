"""Look at every image and mask of a data set once: what is there, and all that is wrong with it."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from stpp.data.catalog import Found, Layout, discover, layout
from stpp.data.images import read_image, read_mask, to_classes
from stpp.files import StppError, sha256
from stpp.manifest import Dataset, Record
from stpp.params import IGNORE, Data
from stpp.progress import progress


def inspect(data: Data, workers: int) -> tuple[Dataset, list[str], list[str]]:
    """The data set as found, warnings of what is handled (grey-scale, EXIF ...), and problems that must be mended."""
    known = layout(data)
    found, problems = discover(data, known)
    root = Path(data.root)
    remedy = (
        "name it in data.values (`{value}: ignore`, or a class id)"
        if data.kind == "folder"
        else f"that of kind {data.kind} are known: mend the mask, or describe the data by kind folder and data.values"
    )

    def look(item: tuple[str, Found]) -> tuple[Record | None, list[str], list[str]]:
        return _look(root, known, remedy, *item)

    records: dict[str, Record] = {}
    notes: dict[str, list[str]] = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for record, wrong, said in progress(pool.map(look, found.items()), "prepare", len(found)):
            problems += wrong
            if record:
                records[record.id] = record
                for note in said:
                    notes.setdefault(note, []).append(record.id)
    problems += _twice(records.values(), root)
    problems += _absent(records.values(), known, all_read=not problems)
    warnings = [f"{note}: {len(ids)} image(s), such as {ids[0]}" for note, ids in sorted(notes.items())]
    return Dataset(data.name, known.classes, known.palette, known.values, records), warnings, problems


def _look(
    root: Path, known: Layout, remedy: str, name: str, found: Found
) -> tuple[Record | None, list[str], list[str]]:
    try:
        image, notes = read_image(root / found.image)
    except StppError as error:
        return None, [str(error)], []
    height, width = image.shape[:2]
    mask_hash = ""
    classes: tuple[int, ...] = ()
    if found.mask:
        path = root / found.mask
        try:
            mask = to_classes(read_mask(path), known.values)
        except StppError as error:
            return None, [str(error)], []
        except KeyError as error:
            value = error.args[0]
            what = f"value {value} is none of the {len(known.classes)} classes"
            return None, [f"{path}: {what}; {remedy.format(value=value)}"], []
        if mask.shape != (height, width):
            size = f"{mask.shape[1]} x {mask.shape[0]}"
            return None, [f"{path}: {size} pixels, but its image has {width} x {height}; make them equal"], []
        mask_hash = sha256(path)
        classes = tuple(int(c) for c in np.unique(mask) if c != IGNORE)
    image_hash = sha256(root / found.image)
    return Record(name, found.image, found.mask, width, height, image_hash, mask_hash, classes), [], notes


def _twice(records: Iterable[Record], root: Path) -> list[str]:
    first: dict[str, str] = {}
    problems = []
    for record in records:
        other = first.setdefault(record.image_sha256, record.image)
        if other != record.image:
            problems.append(f"{root / record.image}: the same image as {root / other}: remove one")
    return problems


def _absent(records: Iterable[Record], known: Layout, all_read: bool) -> list[str]:
    if not any(r.mask for r in records):
        remedy = "some are needed for training and validation: check data.masks"
        return [f"no image has a mask; {remedy}"] if all_read else []
    masks = "mask" if all_read else "mask that is right"
    present = {c for r in records for c in r.classes}
    return [
        f"class {label} ({c}) has no pixel in any {masks}; check data.classes and data.values"
        for c, label in enumerate(known.classes)
        if c not in present
    ]
