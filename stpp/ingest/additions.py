"""Checking new masks of unlabelled images against the data set, and finding their paths in it."""

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from stpp.data.mask_pixels import palette_of, read_mask, to_classes, values_in
from stpp.ingest.catalog import list_images, mask_of
from stpp.ingest.known_layouts import layout
from stpp.ingest.names import is_stray
from stpp.ingest.palettes import PaletteCheck, shown_in
from stpp.params.data import Data
from stpp.store.files import StppError, printable, read_bytes, unicode_forms
from stpp.store.manifest import Dataset, by_colour, rgb_of, value_name
from stpp.store.masks import IGNORE, Mask

Reading = Literal["classes", "values"]
READINGS: tuple[Reading, Reading] = ("classes", "values")
"""How to read the pixels of a new mask: as class ids, which `stpp predict` writes, or as the data set's mask values."""
PARENT = "parent.json"
"""Name of the file beside a split's lists that names its parent and the added masks (`ParentJson`)."""


@dataclass(frozen=True)
class Addition:
    """A new mask made by a person, and where to write it in the data set."""

    id: str
    file: Path
    target: Path
    data: bytes
    """The bytes to write to `target`: a PNG of the data set's mask values."""
    reading: Reading


def read_additions(
    folder: Path, data: Data, dataset: Dataset, unlabeled: set[str], reading: Reading | None = None
) -> tuple[list[Addition], list[str]]:
    """Read the new masks in `folder`; return those that are right, and all problems.

    Each mask is a PNG whose name is the id of an unlabelled image. reading: how to read all masks. None: read each mask
    in the one way that makes sense; it is a problem if both ways do and give different classes.
    """
    if isinstance(data.masks, dict):
        raise StppError(
            "data.masks: an image has a mask file for each class; put the new files beside the others, as the patterns "
            "name them"
        )
    known = layout(data)
    found, problems, _ = list_images(data, known)
    if data.annotations:
        known = replace(known, masks=(data.annotations.added or "",))
    added: list[Addition] = []
    palettes = PaletteCheck(known, Path())
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not is_stray(path.name)):
        written = file.relative_to(folder).with_suffix("").as_posix()
        name = next((form for form in unicode_forms(written) if form in dataset.records), written)
        if file.suffix.lower() != ".png":
            problems.append(f"{file}: not a PNG; export the mask as PNG, or move the file away")
        elif name not in dataset.records or name not in found:
            problems.append(f"{file}: {name} is not an image of {dataset.name}; name the mask after the image's id")
        elif name not in unlabeled:
            problems.append(f"{file}: {name} is not in D_u: only unlabelled images can get new masks")
        else:
            try:
                target = Path(data.root) / mask_of(found[name].image, known)
                one = _addition(file, target, name, dataset, reading)
                if one.reading == "values":
                    shown = shown_in(file, values_in(read_mask(file, dataset.values)), dataset.values)
                    problems += palettes.compared(str(file), shown)
                added.append(one)
            except StppError as error:
                problems.append(str(error))
    if not added and not problems:
        problems.append(f"{folder}: no masks found; put a PNG for each image there, named after the image's id")
    return added, problems


def with_added(data: Data) -> Data:
    """Return `data` with a place for added masks beside annotation files: the images' pattern in the folder `added`."""
    given = data.annotations
    if given is None or given.added:
        return data
    added = f"added/{Path(data.images or '').with_suffix('.png')}"
    return data.model_copy(update={"annotations": given.model_copy(update={"added": added})})


def _addition(file: Path, target: Path, name: str, dataset: Dataset, reading: Reading | None) -> Addition:
    """Read and check one new mask.

    Raises StppError if the mask differs from its image in size, holds values without a class or ignored pixels only,
    can be read in two ways, cannot be written in the data set's format or values, or if the image already has another
    mask.
    """
    if target.suffix.lower() != ".png":
        remedy = "convert the data set's masks to PNG, and set data.masks to match"
        raise StppError(f"{file}: belongs at {target}, but masks are written as PNG only; {remedy}")
    ids: dict[Reading, dict[int, int]] = {
        "classes": {c: c for c in (*range(len(dataset.classes)), IGNORE)},
        "values": dataset.values,
    }
    read, wrong = dict[Reading, Mask](), list[StppError]()
    for one in READINGS if reading is None else (reading,):
        try:
            read[one] = _read(file, ids[one], dataset, name)
        except StppError as error:
            wrong.append(error)
    if not read:
        raise wrong[-1]
    way = _way(file, read, dataset)
    if (read[way] == IGNORE).all():
        raise StppError(f"{file}: no pixel of any class; label some pixels, or remove the mask")
    written = read_bytes(file) if way == "values" else _png(read[way], dataset, file)
    if target.exists() and read_bytes(target) != written:
        raise StppError(f"{file}: {name} already has a different mask, {target}; remove the wrong one")
    return Addition(name, file, target, written, way)


def _read(file: Path, meaning: Mapping[int, int], dataset: Dataset, name: str) -> Mask:
    """Return the class ids (H, W) of a new mask. Raises StppError if it cannot be read so, or if its size is wrong."""
    pixels, record = read_mask(file, meaning), dataset.records[name]
    if pixels.shape != (record.height, record.width):
        size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels, but its image has {record.width} x {record.height}"
        raise StppError(f"{file}: {size}; a mask must be as large as its image")
    try:
        return to_classes(pixels, meaning)
    except KeyError as error:
        numbers, wrong = ", ".join(map(value_name, sorted(meaning)[:30])), value_name(error.args[0])
        raise StppError(f"{file}: value {wrong} is not a class; masks of {dataset.name} use {numbers}") from None


def _way(file: Path, read: dict[Reading, Mask], dataset: Dataset) -> Reading:
    """Return how to read a mask. Raises StppError if both ways make sense and give different classes.

    read: the class ids (H, W) of the mask for each way that makes sense.
    """
    if len(read) == 1:
        return next(iter(read))
    if np.array_equal(read["classes"], read["values"]):
        return "values"
    if palette_of(file)[: len(dataset.palette)] == [*dataset.palette]:
        return "classes"  # `stpp predict` and `stpp masks extract` write class ids with this palette
    at = np.argwhere(read["classes"] != read["values"])[0]
    one, other = (_named(int(read[way][tuple(at)]), dataset) for way in READINGS)
    raise StppError(
        f"{file}: could hold class ids ({one} at {at[1]}, {at[0]}) or the data set's values ({other}); choose "
        "one: `--as classes` for corrected predictions, or `--as values`"
    )


def _named(label: int, dataset: Dataset) -> str:
    return "ignored" if label == IGNORE else dataset.classes[label]


def _png(classes: Mask, dataset: Dataset, file: Path) -> bytes:
    """Encode class ids as a PNG of the data set's mask values; a class with several values gets the smallest.

    Raises StppError if a class has no value.
    """
    value_of = {label: value for value, label in sorted(dataset.values.items(), reverse=True)}
    if missing := set(np.unique(classes).tolist()) - set(value_of):
        label = _named(min(missing), dataset)
        raise StppError(f"{file}: has {label} pixels, but masks of {dataset.name} have no value for them")
    table = np.zeros(256, np.int32)
    for known, value in value_of.items():
        table[known] = value
    out = io.BytesIO()
    if by_colour(dataset.values):
        pixels = np.array([rgb_of(value) for value in table.tolist()], np.uint8)[classes]
        Image.fromarray(pixels).save(out, format="PNG")
    else:
        values = table[classes]
        Image.fromarray(values.astype(np.uint16 if values.max() > 255 else np.uint8)).save(out, format="PNG")
    return out.getvalue()


def corrections(parent: Mapping[str, Any]) -> list[str]:
    """Return what parent.json says of masks that were proposed: who corrected them, and the largest changes.

    The worst classes and images come first. The list is empty if no masks were proposed.
    """
    if not (kept := parent.get("as_proposed")):
        return []
    by = Counter(parent["annotated_by"].values()).most_common()
    unknown = len(kept) - sum(count for _, count in by)
    said = [f"annotated by {', '.join(f'{name} ({count})' for name, count in by)}"] if by else []
    said += [f"{unknown} of {len(kept)} masks have no author in the export"] if unknown else []
    classes = sorted(parent["iou"].items(), key=lambda one: (one[1], one[0]))
    said.append("IoU (%) of proposals and new masks: " + ", ".join(f"{name} {100 * iou:.1f}" for name, iou in classes))
    worst = sorted(kept.items(), key=lambda one: (one[1], one[0]))
    changed = [f"{name} ({100 * (1 - equal):.1f} % of the pixels)" for name, equal in worst if equal < 1]
    said += [f"most changed: {', '.join(changed[:3])}"] if changed else []
    same = [name for name, equal in worst if equal == 1]
    said += [f"{len(same)} masks equal their proposals, such as {same[0]}: were they looked at?"] if same else []
    return [*map(printable, said)]
