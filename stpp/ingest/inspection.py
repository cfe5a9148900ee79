"""Inspection of a data set: read every image and mask once, record what is there and collect all problems."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from stpp.data.images import read_image, read_mask, to_classes, values_in
from stpp.ingest.catalog import ImagePair, list_images
from stpp.ingest.inspection_cache import Inspected, InspectionCache, MaskColours, States, old_enough, state_of
from stpp.ingest.known_layouts import Layout, layout
from stpp.ingest.palettes import PaletteCheck, shown_in
from stpp.params.models import Data
from stpp.run.parallel import ordered_map
from stpp.run.progress import progress
from stpp.store.files import StppError, sha256
from stpp.store.manifest import Dataset, Record, as_row, record_of, repeated_hashes
from stpp.store.masks import IGNORE
from stpp.store.packed import MappedRows, MappedTable

Looked = tuple[Record | None, list[str], list[str], MaskColours]
"""The result for one image: a record (None after a problem), problems, notes on conversions, and the mask's values."""


def inspect(data: Data, workers: int, cache_folder: Path | None = None) -> tuple[Dataset, list[str], list[str]]:
    """Read every image and mask of a data set; return the data set, warnings and problems.

    With `data.annotations` no mask is read: a record names the annotation file if each image or folder has its own.

    Warnings tell what is handled (grey-scale images, EXIF orientation, files passed over ...). Problems must be fixed
    by the user. workers: threads that read files. cache_folder: where `stpp.ingest.inspection_cache` keeps the results
    of unchanged files; None: read all files. Raises StppError if the data set cannot be listed.
    """
    known = layout(data)
    found, problems, passed = list_images(data, known)
    root = Path(data.root)
    remedy = (
        "add it to data.values (`{value}: ignore`, or a class id)"
        if data.kind == "folder"
        else f"the values of kind {data.kind} are fixed: correct the mask, or use data.kind: folder and data.values"
    )
    notes: dict[str, list[Any]] = {}  # note -> [number of images with it, id of the first one]
    classes: set[int] = set()
    palettes = PaletteCheck(known, root)
    masks = 0

    with InspectionCache(cache_folder, root, [len(known.classes), sorted(known.values.items())]) as cache:

        def items() -> Iterator[tuple[str, ImagePair, States, Inspected | None]]:
            for name, pair in found.items():
                one = replace(pair, mask="") if data.annotations else pair
                states = state_of(root / one.image), state_of(root / one.mask) if one.mask else ""
                yield name, one, states, cache.get(name, one.image, one.mask, states)

        def look(item: tuple[str, ImagePair, States, Inspected | None]) -> tuple[Looked, States | None]:
            name, one, states, before = item
            if before:
                return (before[0], [], *before[1:]), states
            start = time.time_ns()
            looked = _look(root, known, remedy, name, one)
            after = state_of(root / one.image), state_of(root / one.mask) if one.mask else ""
            return looked, states if states == after and old_enough(states, start) else None

        def rows() -> Iterator[tuple[Any, ...]]:
            nonlocal masks
            for (record, wrong, said, shown), states in progress(
                ordered_map(look, items(), workers), "prepare", len(found)
            ):
                problems.extend(wrong)
                if record is None:
                    continue
                if states:
                    cache.put((record, said, shown), states)
                for note in said:
                    notes.setdefault(note, [0, record.id])[0] += 1
                classes.update(record.classes)
                problems.extend(palettes.compared(record.mask, shown))
                masks += bool(record.mask)
                yield as_row(replace(record, mask=found[record.id].mask) if data.annotations else record)

        records = MappedTable(MappedRows.spooled(rows()), record_of)
    dataset = Dataset(data.name, known.classes, known.palette, known.values, records)
    problems += _twice(dataset, root)
    if data.annotations is None:
        problems += _absent(classes, palettes.values, masks, known, data, all_read=not problems)
    warnings = [f"{note}: {count} image(s), such as {first}" for note, (count, first) in sorted(notes.items())]
    return dataset, passed + warnings, problems


def _look(root: Path, known: Layout, remedy: str, name: str, found: ImagePair) -> Looked:
    """Read one image and its mask, and check them. remedy: the advice for a mask value without a class."""
    try:
        image, notes = read_image(root / found.image)
    except StppError as error:
        return None, [str(error)], [], {}
    height, width = image.shape[:2]
    mask_hash = ""
    classes: tuple[int, ...] = ()
    shown: MaskColours = {}
    if found.mask:
        path = root / found.mask
        try:
            values = read_mask(path)
            mask = to_classes(values, known.values)
            shown = shown_in(path, values_in(values), known.values)
        except StppError as error:
            return None, [str(error)], [], {}
        except KeyError as error:
            value = error.args[0]
            what = f"value {value} is not one of the {len(known.classes)} classes"
            return None, [f"{path}: {what}; {remedy.format(value=value)}"], [], {}
        if mask.shape != (height, width):
            size = f"{mask.shape[1]} x {mask.shape[0]}"
            return None, [f"{path}: {size} pixels, but its image has {width} x {height}; make them equal"], [], {}
        mask_hash = sha256(path)
        classes = tuple(sorted({known.values[value] for value in shown} - {IGNORE}))
    image_hash = sha256(root / found.image)
    return Record(name, found.image, found.mask, width, height, image_hash, mask_hash, classes), [], notes, shown


def _twice(dataset: Dataset, root: Path) -> list[str]:
    """Return a problem for every image whose bytes equal those of an earlier one."""
    twice = repeated_hashes(record.image_sha256 for record in dataset.records.values())
    first: dict[str, str] = {}
    problems = []
    for record in dataset.records.values() if twice else ():
        if hash(record.image_sha256) in twice:
            other = first.setdefault(record.image_sha256, record.image)
            if other != record.image:
                problems.append(f"{root / record.image}: the same image as {root / other}: remove one")
    return problems


def _absent(occurring: set[int], values: set[int], masks: int, known: Layout, data: Data, all_read: bool) -> list[str]:
    """Return a problem for every class without a pixel in any mask, or one problem if there are no masks.

    occurring, values: class ids and values in the masks. masks: the number of masks. all_read: no file had a problem.
    """
    if not masks:
        remedy = "some are needed for training and validation: check data.masks"
        return [f"no image has a mask; {remedy}"] if all_read else []
    where = "mask" if all_read else "valid mask"
    absent = [
        f"class {label} ({c}) has no pixel in any {where}; check data.classes and data.values"
        for c, label in enumerate(known.classes)
        if c not in occurring
    ]
    if absent and values <= {0, 255} and known.values.get(255) == IGNORE and data.kind == "folder":
        found = "0 and 255" if 0 in values else "255"
        what = f"masks contain only {found}, and 255 is read as `ignore`"
        return [f"{what}; for binary masks set data.values: {{255: 1}} and data.ignore: null"]
    return absent
