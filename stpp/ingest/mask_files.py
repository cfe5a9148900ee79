"""Masks that are made of several files for each image: one or more for each class, and one for what is outside."""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stpp.data.mask_pixels import Layer, read_layers, read_mask, to_classes
from stpp.ingest.annotations import MAX_OBJECTS, Counts
from stpp.ingest.catalog import files_of
from stpp.ingest.known_layouts import layout
from stpp.ingest.patterns import compile_pattern, fill
from stpp.params.data import Data
from stpp.store.files import UNSEEN, StppError
from stpp.store.manifest import Dataset, Record
from stpp.store.masks import IGNORE, Mask
from stpp.store.packed import MappedRows, MappedTable

OUTSIDE = "data.outside"
"""The name of the pattern for what is outside, among those of the classes."""
ADDED = "data.annotations.added"
"""The name of the pattern for added masks."""


@dataclass(frozen=True)
class Composed:
    """A mask, the paths of the files that it is made of, and how they name each object in it, the lowest first."""

    mask: Mask
    files: list[str]
    objects: list[tuple[str, str]]
    """Name in the file (or the file itself), and label."""


class Source(Protocol):
    """What the masks of a data set are made of. Threads may share it."""

    def compose(self, record: Record) -> Composed | None:
        """Return the mask of an image, or None. Raises StppError naming a file that is wrong."""

    def problems(self) -> list[str]:
        """Return what is wrong beside the errors of `compose`, after all masks are made."""


def rest_of(classes: Sequence[str], given: str | None = None) -> int:
    """Return the class id of pixels that nothing covers: `given`, else background if it is a class, else ignore."""
    rest = given or "background"
    return classes.index(rest) if rest in classes else IGNORE


class PartFiles:
    """The files that belong to each image, found once and kept on disk: those of `data.masks` by class, and others.

    A file that fits several images belongs to the one with the longest name: with `{name}*.png`, `img10.png` is of
    img10 and not of img1.
    """

    def __init__(self, data: Data, dataset: Dataset, counts: Counts) -> None:
        self._data, self._records, self._counts = data, dataset.records, counts
        self._patterns = dict(data.masks) if isinstance(data.masks, dict) else {}
        self._patterns |= {OUTSIDE: data.outside} if data.outside else {}
        self._patterns |= {ADDED: data.annotations.added} if data.annotations and data.annotations.added else {}
        self.problems: list[str] = []
        files = MappedRows.spooled(self._named()).ordered()
        hits = MappedRows.spooled(self._hits(files)).ordered()
        owned = MappedRows.spooled(self._owned(hits)).ordered()
        by_image = ([name, *(c for _, *two in group for c in two)] for name, group in groupby(owned, itemgetter(0)))
        self._of = MappedTable(MappedRows.spooled(by_image), tuple)

    def get(self, record: Record) -> dict[str, list[str]]:
        """Return the files of an image by class, each list sorted by path. Raises StppError if they are too many."""
        _, *found = self._of.get(record.id, ("",))
        if len(found) > 2 * MAX_OBJECTS:
            raise StppError(f"{record.image}: has more than {MAX_OBJECTS} mask files; are the patterns right?")
        pairs = [*zip(found[::2], found[1::2], strict=True)]
        return {key: sorted(file for file, of in pairs if of == key) for key in self._patterns}

    def _named(self) -> Iterator[list[str]]:
        """Yield every file that a pattern matches: its key, and its path."""
        wanted = [compile_pattern(one, "data.masks", wild=True)[0] for one in self._patterns.values()]
        root = Path(self._data.root)
        for file in files_of(root, layout(self._data), lambda stray: None) if wanted else ():
            if not any(one.fullmatch(file) for one in wanted):
                continue
            if UNSEEN.search(file):
                self.problems.append(f"{root / file}: rename it without control characters, in UTF-8")
            else:
                yield [_key(file), file]

    def _hits(self, files: MappedRows) -> Iterator[list[str]]:
        """Yield every file alone, and with each image and class that it fits. files: sorted by key."""
        yield from ([file, "", ""] for _, file in files)
        images = compile_pattern(self._data.images or "", "data.images")[0]
        for record in self._records.values() if len(files) else ():
            match = images.fullmatch(record.image)
            for of, pattern in self._patterns.items() if match else ():
                *pieces, last = (fill(one, match.groupdict()) for one in pattern.split("*"))  # type: ignore[union-attr]
                pieces = [*(unicodedata.normalize("NFC", one) for one in pieces), _key(last)]
                fits = re.compile("[^/]*".join(map(re.escape, pieces)))
                yield from ([file, record.id, of] for file in _beginning(files, pieces[0], fits))

    def _owned(self, hits: MappedRows) -> Iterator[list[str]]:
        """Yield the image that each file belongs to, with the file and its class. hits: sorted by file."""
        for file, group in groupby(hits, itemgetter(0)):
            fits = [(name, of) for _, name, of in group if name]
            names = sorted({name for name, _ in fits}, key=len)
            if not names:
                self._counts.add("file(s) are named like masks, but belong to no image of the data set", file)
                continue
            if len(names) > 1:
                what = "mask file(s) fit several images, and belong to the one with the longest name"
                self._counts.add(what, f"{file} (of {names[-1]}, not {names[-2]})")
            of = sorted(of for name, of in fits if name == names[-1])
            if len(of) > 1:
                what = f"fits the patterns of {of[0]} and of {of[1]}; make them differ"
                self.problems.append(f"{Path(self._data.root) / file}: {what}")
            yield [names[-1], file, of[0]]


def _key(path: str) -> str:
    """Return a path in one Unicode form, with its ending in lower case."""
    stem, dot, ending = path.rpartition(".")
    return unicodedata.normalize("NFC", path if "/" in ending else f"{stem}{dot}{ending.lower()}" if dot else path)


def _beginning(files: MappedRows, start: str, fits: re.Pattern[str]) -> Iterator[str]:
    """Yield the paths whose keys begin with `start` and match `fits`."""
    first = start.encode(errors="surrogateescape")
    for at in range(bisect_left(range(len(files)), first, key=files.key), len(files)):
        if not files.key(at).startswith(first):
            break
        key, file = files[at]
        if fits.fullmatch(key):
            yield file


class ClassFiles:
    """Masks of the files that belong to each class. A later class in `data.classes` lies on top of an earlier one."""

    def __init__(self, data: Data, dataset: Dataset, files: PartFiles, counts: Counts) -> None:
        assert isinstance(data.masks, dict)
        self._root, self._variable, self._files, self._counts = Path(data.root), data.variable or "", files, counts
        self._names = dataset.classes
        self._ids = [c for c, name in enumerate(dataset.classes) if name in data.masks]
        self._rest = rest_of(dataset.classes)

    def compose(self, record: Record) -> Composed | None:
        """Return the mask of an image; None if it has no file, or no pixel with a class."""
        files = self._files.get(record)
        if not any(files[self._names[c]] for c in self._ids):
            return None
        mask = np.full((record.height, record.width), IGNORE, np.uint8)
        objects: list[tuple[str, str]] = []
        for c in self._ids:
            name = self._names[c]
            if not files[name]:
                self._counts.add(f"image(s) have no file of {name}, which means none of it is there", record.image)
                continue
            covered, found = self._covered(files[name], record)
            objects += [(one, name) for one in found]
            for under, pixels in enumerate(np.bincount(mask[covered], minlength=IGNORE)[:IGNORE].tolist()):
                if pixels:
                    what = f"image(s) where {name} lies on top of {self._names[under]}"
                    self._counts.add(what, record.image, pixels)
            mask[covered] = c
        mask[mask == IGNORE] = self._rest
        if (mask == IGNORE).all():
            self._counts.add("image(s) whose mask files are empty stay without a mask", record.image)
            return None
        return Composed(mask, [file for c in self._ids for file in files[self._names[c]]], objects)

    def _covered(self, files: Sequence[str], record: Record) -> tuple[NDArray[np.bool_], list[str]]:
        """Return the pixels that files of one class cover, bool (H, W), and a name for each file or page."""
        covered = np.zeros((record.height, record.width), np.bool_)
        names = []
        for file in files:
            pages = 0
            for layer in layers(self._root, file, self._variable, record, self._counts):
                pages += 1
                covered |= layer
                if not layer.any():
                    self._counts.add("mask file(s) or page(s) hold no pixel of their class", file)
            names += [file] if pages == 1 else [f"{file}, page {page + 1}" for page in range(pages)]
        return covered, names

    def problems(self) -> list[str]:
        return []


class PlainFiles:
    """Masks of one file for each image, whose values mean classes."""

    def __init__(self, data: Data, dataset: Dataset) -> None:
        self._root, self._variable, self._values = Path(data.root), data.variable or "", dataset.values

    def compose(self, record: Record) -> Composed | None:
        """Return the mask of an image; None if it has no file."""
        if not record.mask:
            return None
        values = read_mask(self._root / record.mask, self._values, self._variable)
        try:
            mask = to_classes(values, self._values)
        except KeyError:
            raise StppError(
                f"{self._root / record.mask}: was changed while it was read; run the command again"
            ) from None
        return Composed(mask, [record.mask], [(record.mask, "by value")])

    def problems(self) -> list[str]:
        return []


class Added:
    """Masks of class ids that people added; the other images have those of a source."""

    def __init__(self, source: Source, data: Data, dataset: Dataset, files: PartFiles, counts: Counts) -> None:
        self._source, self._root, self._values = source, Path(data.root), dataset.values
        self._files, self._counts = files, counts

    def compose(self, record: Record) -> Composed | None:
        """Return the mask of an image. Raises StppError for a file of another size, or with values of no class."""
        files = self._files.get(record)[ADDED]
        if not files:
            return self._source.compose(record)
        if len(files) > 1:
            raise StppError(f"{self._root / files[0]}: and {files[1]} are both the mask of {record.image}; remove one")
        values = read_mask(self._root / files[0], self._values)
        _check_size(self._root / files[0], values.shape, record)
        try:
            mask = to_classes(values, self._values)
        except KeyError as error:
            what = f"value {error.args[0]} is no class id; it must be one, or 255 to ignore the pixel"
            raise StppError(f"{self._root / files[0]}: {what}") from None
        self._counts.add(f"image(s) have the mask of {ADDED} in place of their objects", record.image)
        return Composed(mask, files, [(files[0], "by value")])

    def problems(self) -> list[str]:
        return self._source.problems()


class Outside:
    """Ignores the pixels of a source's masks that are 0 in the file of `data.outside`, such as a field of view."""

    def __init__(self, source: Source, data: Data, files: PartFiles, counts: Counts) -> None:
        self._source, self._files, self._counts, self._missing = source, files, counts, Counts()
        self._root, self._variable, self._pattern = Path(data.root), data.variable or "", data.outside

    def compose(self, record: Record) -> Composed | None:
        """Return the mask of an image; None if the source has none."""
        found, files = self._source.compose(record), self._files.get(record)[OUTSIDE]
        if found is None or not files:
            if files:
                self._counts.add("file(s) of data.outside are of images without a mask, and not used", files[0])
            if found is not None:
                self._missing.add("image(s) with a mask have no such file", record.image)
            return found
        inside = [*islice(layers(self._root, files[0], self._variable, record, self._counts), 2)]
        if len(files) > 1 or len(inside) > 1:
            what = f"and {files[1]} differ in spelling alone" if len(files) > 1 else "has several pages"
            raise StppError(
                f"{self._root / files[0]}: {what}; data.outside is one file for an image; remove the others"
            )
        mask = np.where(inside[0], found.mask, np.uint8(IGNORE))
        if (mask == IGNORE).all():
            self._counts.add("image(s) are outside as a whole: all pixels are ignored", record.image)
        return replace(found, mask=mask, files=[*found.files, *files], objects=[*found.objects, (files[0], "outside")])

    def problems(self) -> list[str]:
        missing = [f"{self._root}: data.outside: {self._pattern}: {line}" for line in self._missing.said()]
        return [*self._source.problems(), *missing]


def layers(root: Path, file: str, variable: str, record: Record, counts: Counts) -> Iterator[Layer]:
    """Yield what `read_layers` finds in a file of an image. Raises StppError if it is not as large as the image."""
    for layer, lossy in read_layers(root / file, variable):
        _check_size(root / file, layer.shape, record)
        if lossy:
            counts.add(f"mask file(s) are stored as {lossy}: values from 128 on count, smaller ones do not", file)
        yield layer


def _check_size(path: Path, shape: tuple[int, ...], record: Record) -> None:
    if shape != (record.height, record.width):
        size = f"{shape[1]} x {shape[0]} pixels, but its image has {record.width} x {record.height}"
        raise StppError(f"{path}: {size}; make them equal")


def source_of(data: Data, dataset: Dataset, counts: Counts, objects: Source | None) -> tuple[Source, list[str]]:
    """Return what makes the masks of a data set, and the problems of its files. objects: of annotation files."""
    files = PartFiles(data, dataset, counts)
    source = objects or (
        ClassFiles(data, dataset, files, counts) if isinstance(data.masks, Mapping) else PlainFiles(data, dataset)
    )
    if data.annotations and data.annotations.added:
        source = Added(source, data, dataset, files, counts)
    return Outside(source, data, files, counts) if data.outside else source, files.problems
