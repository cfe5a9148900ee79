"""The folders of a new data set: their common root, the files in them, and whether patterns stay within them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stpp.ingest.catalog import LINK, ImagePair, files_below
from stpp.ingest.names import ARRAYS, READ, UNREAD, ending
from stpp.store.files import UNSEEN, StppError


@dataclass(frozen=True)
class Folders:
    """The folders of a data set: the root as data.root names it, the others as paths below it ("" is the root)."""

    root: Path
    images: str
    masks: str
    more: str | None

    def beside(self) -> list[Path]:
        """Return the folders in which a file about the data set may lie: those given, those above, and the root."""
        given = [self.root / one for one in (self.images, self.masks, self.more or self.images)]
        return [self.root, *(folder for one in given for folder in (one, one.parent))]

    def owner(self, file: str) -> str | None:
        """Return which of `images`, `masks` and `more` holds a file: the innermost one; None if it is outside."""
        given = {one for one in (self.images, self.masks, self.more) if one is not None}
        return max((one for one in given if not one or file.startswith(f"{one}/")), key=len, default=None)


def common_root(images: Path, masks: Path, more: Path | None) -> Folders:
    """Return the folders of a data set, with the folder that holds them all as their root.

    Raises StppError if one is no folder, and if the root holds more than this data set: the project, its folder data/,
    or a folder more than two levels above one of them.
    """
    given = [images, masks, *([] if more is None else [more])]
    for one in given:
        if UNSEEN.search(str(one)):
            raise StppError(f"{one}: rename the folder without control characters, in UTF-8")
        if one.is_symlink():
            raise StppError(f"{one}: {LINK}")
        if not one.is_dir():
            raise StppError(
                f"{one}: {'is not a folder' if one.exists() else 'no such folder'}; give a folder of images"
            )
    places = [Path(os.path.abspath(one)) for one in given]  # noqa: PTH100 - resolve() would follow links
    if more is not None and places[2] in places[:2]:
        raise StppError(f"{more}: the same folder is given twice; --unlabeled takes another folder, without masks")
    root, here = Path(os.path.commonpath(places)), Path.cwd()
    if here.is_relative_to(root) or root == here / "data" or any(root not in [p, *p.parents][:3] for p in places):
        raise StppError(
            f"{', '.join(map(str, dict.fromkeys(given)))}: their common folder {root} holds more than one data set; "
            "move them into a folder of their own, such as data/NAME, and give them from there"
        )
    relative = not any(one.is_absolute() for one in given)
    named = Path(os.path.relpath(root)) if relative or root.is_relative_to(here) else root
    inside = ["" if place == root else place.relative_to(root).as_posix() for place in places]
    return Folders(named, inside[0], inside[1], inside[2] if more else None)


def images_and_masks(folders: Folders) -> tuple[list[str], list[str]]:
    """Return the files that may be images, and those that may be masks. Raises StppError if there are none.

    A .npy is an image only if there is no picture.
    """
    images, masks, arrays = [], [], []
    for file in files_below(folders.root, lambda stray: None):
        kind = ending(file)
        owner = folders.owner(file) if kind in (*READ, *ARRAYS) else None
        if kind in READ and owner is not None and owner in (folders.images, folders.more):
            images.append(file)
        if kind == ".npy" and owner in (folders.images, folders.more):
            arrays.append(file)
        if owner is not None and owner == folders.masks:
            masks.append(file)
    images = images or arrays
    for what, found, where in (("image", images, folders.images), ("mask", masks, folders.masks)):
        if not found:
            raise StppError(
                f"{folders.root / where}: no {what} in it (such as {', '.join(READ[:6])}); is it the right one?"
            )
    return images, masks


def problems_of(folders: Folders, found: Mapping[str, ImagePair]) -> list[str]:
    """Return what is wrong with the images that the patterns find: all must lie in the folders that were given."""
    problems, more = [], 0
    for image, mask in ((one.image, one.mask) for one in found.values()):
        path, owner = folders.root / image, folders.owner(image)
        more += owner == folders.more
        if owner is None or owner not in (folders.images, folders.more):
            problems.append(f"{path}: named like the images, but in another folder; move it out of {folders.root}")
        elif mask and owner == folders.more:
            problems.append(f"{path}: named like an image with the mask {mask}; rename the images in --unlabeled")
        elif ending(image) in UNREAD:
            problems.append(f"{path}: cannot be read; convert it to PNG or JPEG, or move it away")
    if folders.more is not None and not more:
        where = f"{folders.root / folders.more}: no image is as many folders deep, and named, as those of the masks"
        problems.append(f"{where}; move them so that only one folder name differs")
    return problems
