"""New masks of unlabelled images: checked against the data set, and where they belong in it."""

from dataclasses import dataclass
from pathlib import Path

from stpp.data.catalog import discover, layout, mask_of
from stpp.data.images import present, read_mask, to_classes
from stpp.data.names import stray
from stpp.data.palettes import Palettes, shown_in
from stpp.files import StppError
from stpp.manifest import Dataset
from stpp.params import IGNORE, Data


@dataclass(frozen=True)
class Addition:
    """A mask that a person made, and the path in the data set that it is to have."""

    id: str
    file: Path
    target: Path


def additions(folder: Path, data: Data, dataset: Dataset, unlabeled: set[str]) -> tuple[list[Addition], list[str]]:
    """The masks in `folder`, PNGs named by the ids of unlabelled images, and everything that is wrong with them."""
    known = layout(data)
    found, problems, _ = discover(data, known)
    added: list[Addition] = []
    palettes = Palettes(known, Path())
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not stray(path.name)):
        name = file.relative_to(folder).with_suffix("").as_posix()
        if file.suffix.lower() != ".png":
            problems.append(f"{file}: masks are PNGs; export it as PNG, or move it away")
        elif name not in dataset.records or name not in found:
            problems.append(f"{file}: {name} is no image of {dataset.name}; a mask's file is named by the image's id")
        elif name not in unlabeled:
            problems.append(f"{file}: {name} is not in D_u: only unlabelled images take new masks")
        else:
            try:
                target = Path(data.root) / mask_of(found[name].image, known)
                values = _check(file, target, name, dataset)
                problems += palettes.compared(str(file), shown_in(file, values, dataset.values))
                added.append(Addition(name, file, target))
            except StppError as error:
                problems.append(str(error))
    if not added and not problems:
        problems.append(f"{folder}: no masks there; put a PNG for every image into it, named by the image's id")
    return added, problems


def _check(file: Path, target: Path, name: str, dataset: Dataset) -> list[int]:
    """The values in a mask. Raises StppError if it does not fit its image, or if the image has another one."""
    record, values = dataset.records[name], read_mask(file)
    if values.shape != (record.height, record.width):
        size = f"{values.shape[1]} x {values.shape[0]} pixels, its image {record.width} x {record.height}"
        raise StppError(f"{file}: is of {size}; a mask is as large as its image")
    try:
        classes = to_classes(values, dataset.values)
    except KeyError as value:
        known = ", ".join(map(str, sorted(dataset.values)[:30]))
        raise StppError(f"{file}: value {value} is no class; masks of {dataset.name} hold {known}") from None
    if (classes == IGNORE).all():
        raise StppError(f"{file}: no pixel of any class; a mask that teaches nothing is none")
    if target.exists() and target.read_bytes() != file.read_bytes():
        raise StppError(f"{file}: {name} has another mask, {target}; remove the one that is wrong")
    return present(values)
