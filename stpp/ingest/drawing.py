"""Drawing of masks from annotation files, or several mask files, into a mask set, with a table of their objects."""

import heapq
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpp.ingest import shapes as of_shapes
from stpp.ingest.annotations import Annotated, Counts, open_annotations
from stpp.ingest.mask_files import ADDED, Composed, Source, rest_of, source_of
from stpp.ingest.patterns import compile_pattern
from stpp.ingest.shapes import Shape, Unread, beyond, paint
from stpp.params.data import Data
from stpp.run.parallel import ordered_map
from stpp.run.progress import progress
from stpp.store.files import StppError, printable, sha256, write_csv
from stpp.store.manifest import DRAWN, Dataset, Record, as_row, record_of
from stpp.store.masks import IGNORE, Mask, MaskSet, ShardWriter, merge_manifests, shard_name, shards_of
from stpp.store.packed import MappedRows, MappedTable

PER_SHARD, SHARDS = 500, 64
"""Images of a shard, about, and the most shards."""
OBJECTS = ("id", "object", "label")
"""The columns of objects.csv: each object of a mask, the lowest one first.

An object is named as in its annotation file. If each class has mask files, it is a file, or a page of one.
"""
FILES = ("file", "sha256")
"""The columns of annotations.csv: every file that a mask was drawn from."""


def draw_masks(
    data: Data, dataset: Dataset, folder: Path, workers: int, *, every_class: bool = True
) -> tuple[Dataset, list[str], list[str]]:
    """Draw the masks of all annotated images; return the data set with them, warnings and problems.

    dataset: the images, without masks, or with plain ones that `data.outside` completes. folder: gets the mask set,
    objects.csv and annotations.csv. every_class: whether a class without a pixel is a problem. Raises StppError for an
    annotation file of several images that is missing or malformed.
    """
    counts, problems = Counts(), list[str]()
    source, wrong = source_of(data, dataset, counts, _Pen(data, dataset, counts) if data.annotations else None)
    shards = min(1 + len(dataset.records) // PER_SHARD, SHARDS)
    names = [shard_name(at, shards) for at in range(shards)]
    masks = folder / DRAWN

    with tempfile.TemporaryDirectory() as parts_folder:

        def draw(one: tuple[str, Iterable[str]]) -> MappedRows:
            name, ids = one
            with ShardWriter(masks / name, Path(parts_folder) / f"{name}.csv", dataset.palette) as writer:
                return MappedRows.spooled(_drawn(source, (dataset.records[one] for one in ids), writer, problems))

        shards_and_ids = zip(names, shards_of(dataset.records, shards), strict=True)
        drawn = [*progress(ordered_map(draw, shards_and_ids, workers), "draw masks", shards)]
        merge_manifests([Path(parts_folder) / f"{name}.csv" for name in names], masks / "manifest.csv")

    def merged() -> Iterator[list[str]]:
        return heapq.merge(*drawn, key=itemgetter(0))

    objects = ((name, *one) for name, _, found in map(_parted, merged()) for one in found)
    write_csv(folder / "objects.csv", OBJECTS, objects)
    ordered = MappedRows.spooled([file, ""] for _, files, _ in map(_parted, merged()) for file in files).ordered()
    files = (file for file, _ in groupby(map(itemgetter(0), ordered)))
    root = Path(data.root)
    write_csv(folder / "annotations.csv", FILES, ordered_map(lambda file: (file, sha256(root / file)), files, workers))
    records = MappedTable(MappedRows.spooled(map(as_row, _with_masks(dataset, masks, merged()))), record_of)
    found = replace(dataset, records=records, drawn=masks)
    problems = [*wrong, *sorted(problems), *source.problems()]
    absent = _absent(dataset, found, data, problems) if every_class else []
    return found, counts.said(), [*problems, *absent]


def _drawn(source: Source, records: Iterable[Record], writer: ShardWriter, problems: list[str]) -> Iterator[list[str]]:
    """Draw the masks of images into a shard; yield for each its id, the number of its files, these, and its objects.

    An object is two words: its name and its label. problems: gets what is wrong.
    """
    for record in records:
        try:
            found = source.compose(record)
            if found is not None:
                writer.add(record.id, found.mask, 1.0)
                yield [record.id, str(len(found.files)), *found.files, *map(printable, chain(*found.objects))]
        except StppError as error:
            problems.append(str(error))


def _parted(row: list[str]) -> tuple[str, list[str], Iterator[tuple[str, str]]]:
    """Return the id, the files and the objects in a row of `_drawn`."""
    name, count, *found = row
    files, objects = found[: int(count)], found[int(count) :]
    return name, files, zip(objects[::2], objects[1::2], strict=True)


def objects_of(data: Data, dataset: Dataset, name: str, pixel: tuple[int, int] | None) -> tuple[str, list[Shape]]:
    """Return the annotation file of an image and its objects, the top one first.

    pixel: column and row; only the objects that cover it are returned. Raises StppError for an image without a mask
    from an annotation file, and for a pixel outside the image.
    """
    record = dataset.records[name]
    if pixel and not (0 <= pixel[0] < record.width and 0 <= pixel[1] < record.height):
        raise StppError(f"{record.image}: has {record.width} x {record.height} pixels; give a pixel inside")
    assert data.annotations
    added = data.annotations.added
    if added and compile_pattern(added, ADDED)[0].fullmatch(record.mask):
        raise StppError(f"{record.image}: has the mask {record.mask}, which has no objects")
    pen = _Pen(data, dataset, Counts())
    found = pen.annotations.get(record)
    shapes = pen.shapes(record, found) if found else None
    if found is None or shapes is None:
        raise StppError(f"{record.image}: has no mask from an annotation file; run `dvc repro prepare`")
    at = None if pixel is None else pixel[1] * record.width + pixel[0]

    def shows(shape: Shape) -> bool:
        return at is None or any(start <= at < end for start, end in pen.covered(record, found, shape).tolist())

    return found.file, [shape for _, shape in reversed(shapes) if shows(shape)]


def _with_masks(dataset: Dataset, folder: Path, drawn: Iterator[list[str]]) -> Iterator[Record]:
    """Yield all records, with the masks of those that were drawn. drawn: rows of `_drawn`, by id."""
    rows = MaskSet(folder).rows
    name, _, file, *_ = next(drawn, ["", "", ""])
    for record in dataset.records.values():
        if record.id != name:
            yield replace(record, mask="")
            continue
        row = rows[name]
        shown = tuple(c for c, pixels in enumerate(row["classes"].split()) if pixels != "0")
        yield replace(record, mask=file, mask_sha256=row["sha256"], classes=shown)
        name, _, file, *_ = next(drawn, ["", "", ""])


def _absent(before: Dataset, dataset: Dataset, data: Data, problems: Sequence[str]) -> list[str]:
    """Return a problem for every class without a pixel, or one problem if there are no masks.

    before: the data set as it was inspected; what its plain masks lack is known already.
    """
    key = "data.annotations" if data.annotations else "data.masks"
    known = {c for record in before.records.values() for c in record.classes}
    shown = {c for record in dataset.records.values() for c in record.classes}
    if not any(record.mask for record in dataset.records.values()):
        what = "an object" if data.annotations else "a mask file with a pixel of a class"
        return [] if problems or known else [f"no image has {what}; check {key}"]
    remedy = f"check data.classes and {key}{' and data.outside' if data.outside else ''}"
    absent = sorted((known or {*range(len(dataset.classes))}) - shown)
    return [f"class {dataset.classes[c]} ({c}) has no pixel in any mask; {remedy}" for c in absent]


class _Pen:
    """Draws masks from annotation files, and counts what is passed over. Threads may share it."""

    def __init__(self, data: Data, dataset: Dataset, counts: Counts) -> None:
        assert data.annotations
        self.counts, self._unknown = counts, Counts()
        """What is passed over; labels that are no class."""
        self._file = Path(data.root) / data.annotations.file
        self._root, self._order = Path(data.root), data.annotations.order
        self.annotations = open_annotations(data, dataset, self.counts)
        self._class_of = {name: c for c, name in enumerate(dataset.classes)}
        self._rest = rest_of(dataset.classes, data.annotations.rest)
        labels = data.annotations.labels or {}
        self._class_of |= {label: self._class_of.get(name, IGNORE) for label, name in labels.items()}

    def compose(self, record: Record) -> Composed | None:
        """Return the mask of an image; None if it has no annotation, or no object that is read."""
        found = self.annotations.get(record)
        shapes = self.shapes(record, found) if found else None
        if found is None or shapes is None:
            return None
        objects = [(shape.key, shape.label) for _, shape in shapes]
        return Composed(self._mask(record, found, shapes), [found.file], objects)

    def problems(self) -> list[str]:
        """Return the labels that are no class."""
        return [f"{self._file}: {line}" for line in self._unknown.said()]

    def shapes(self, record: Record, found: Annotated) -> list[tuple[int, Shape]] | None:
        """Return the objects of an image with their classes, the lowest first; None if it stays without a mask."""
        if found.width and found.height and (found.width, found.height) != (record.width, record.height):
            size = f"{found.width} x {found.height} pixels there, but {record.width} x {record.height} as it is shown"
            remedy = "annotate the image as it is, or scale the annotations"
            raise StppError(f"{self._root / found.file}: {record.image} has {size}; {remedy}")
        shapes = []
        for one in found.objects:
            if isinstance(one, Unread):
                self.counts.add(f"{one.why} are not read", f"{one.key} of {record.image}")
            elif one.label in self._class_of:
                shapes.append((self._class_of[one.label], one))
            else:
                what = (
                    f"object(s) with the label `{one.label}`, which is no class: give data.annotations.labels its class"
                )
                self._unknown.add(f"{what}, or ignore", f"{one.key} of {record.image}")
        if not shapes and (found.objects or not found.annotated or self._rest == IGNORE):
            self.counts.add("annotated image(s) without an object that is read stay without a mask", record.image)
            return None
        if self._order == "small":
            covered = self.covered_each(record, found, [shape for _, shape in shapes])
            sizes = [int(np.diff(pixels).sum()) for pixels in covered]
            return [shapes[at] for at in sorted(range(len(shapes)), key=lambda at: -sizes[at])]
        return sorted(shapes, key=lambda one: one[0] if self._order == "classes" else one[1].z)

    def _mask(self, record: Record, found: Annotated, shapes: Sequence[tuple[int, Shape]]) -> Mask:
        mask = np.full((record.height, record.width), self._rest, np.uint8)
        covered = self.covered_each(record, found, [shape for _, shape in shapes])
        for (value, shape), pixels in zip(shapes, covered, strict=True):
            paint(mask, pixels, value)
            if not len(pixels):
                self.counts.add("object(s) cover no pixel's centre", f"{shape.key} of {record.image}")
            if beyond(shape, record.height, record.width):
                self.counts.add("object(s) reach beyond their image, and are cut", f"{shape.key} of {record.image}")
        return mask

    def covered_each(self, record: Record, found: Annotated, shapes: list[Shape]) -> list[NDArray[np.int64]]:
        try:
            return of_shapes.covered_each(shapes, record.height, record.width)
        except ValueError:  # one by one, to say which of them is wrong, and to need less memory
            return [self.covered(record, found, shape) for shape in shapes]

    def covered(self, record: Record, found: Annotated, shape: Shape) -> NDArray[np.int64]:
        try:
            return of_shapes.covered(shape, record.height, record.width)
        except ValueError as error:
            where = f"{self._root / found.file}: object {shape.key} of {record.image}"
            raise StppError(f"{where}: {error}; correct it, or export it again") from None
