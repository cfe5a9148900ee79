"""Drawing of masks from annotation files into a mask set, with a table of the objects in each mask."""

import heapq
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpp.ingest.annotations import Annotated, Counts, open_annotations
from stpp.ingest.shapes import Shape, Unread, beyond, covered, paint
from stpp.params.models import Data
from stpp.run.parallel import ordered_map
from stpp.run.progress import progress
from stpp.store.files import StppError, printable, sha256, write_csv
from stpp.store.manifest import DRAWN, Dataset, Record, as_row, record_of
from stpp.store.masks import IGNORE, Mask, MaskSet, ShardWriter, merge_manifests, shard_name, shards_of
from stpp.store.packed import MappedRows, MappedTable

PER_SHARD, SHARDS = 500, 64
"""Images of a shard, about, and the most shards."""
OBJECTS = ("id", "object", "label")
"""The columns of objects.csv: each object of a mask as the annotation file names it, the lowest one first."""
FILES = ("file", "sha256")
"""The columns of annotations.csv: every annotation file of a mask."""


def draw_masks(
    data: Data, dataset: Dataset, folder: Path, workers: int, *, every_class: bool = True
) -> tuple[Dataset, list[str], list[str]]:
    """Draw the masks of all annotated images; return the data set with them, warnings and problems.

    dataset: the images, without masks. folder: gets the mask set, objects.csv and annotations.csv. every_class:
    whether a class without a pixel is a problem. Raises StppError for
    an annotation file of several images that is missing or malformed.
    """
    pen = _Pen(data, dataset)
    shards = min(1 + len(dataset.records) // PER_SHARD, SHARDS)
    names = [shard_name(at, shards) for at in range(shards)]
    masks = folder / DRAWN

    with tempfile.TemporaryDirectory() as parts_folder:

        def draw(one: tuple[str, Iterable[str]]) -> MappedRows:
            name, ids = one
            with ShardWriter(masks / name, Path(parts_folder) / f"{name}.csv", dataset.palette) as writer:
                return MappedRows.spooled(pen.drawn(ids, writer))

        shards_and_ids = zip(names, shards_of(dataset.records, shards), strict=True)
        drawn = [*progress(ordered_map(draw, shards_and_ids, workers), "draw masks", shards)]
        merge_manifests([Path(parts_folder) / f"{name}.csv" for name in names], masks / "manifest.csv")

    def merged() -> Iterator[list[str]]:
        return heapq.merge(*drawn, key=itemgetter(0))

    objects = ((name, *one) for name, _, *found in merged() for one in zip(found[::2], found[1::2], strict=True))
    write_csv(folder / "objects.csv", OBJECTS, objects)
    ordered = MappedRows.spooled([file, ""] for _, file, *_ in merged()).ordered()
    files = (file for file, _ in groupby(map(itemgetter(0), ordered)))
    root = Path(data.root)
    write_csv(folder / "annotations.csv", FILES, ordered_map(lambda file: (file, sha256(root / file)), files, workers))
    records = MappedTable(MappedRows.spooled(map(as_row, _with_masks(dataset, masks, merged()))), record_of)
    found = replace(dataset, records=records, drawn=masks)
    return (
        found,
        pen.counts.said(),
        [
            *sorted(pen.problems),
            *pen.unknown.said(),
            *(_absent(found, pen.problems) if every_class else []),
        ],
    )


def _with_masks(dataset: Dataset, folder: Path, drawn: Iterator[list[str]]) -> Iterator[Record]:
    """Yield all records, with the masks of those that were drawn. drawn: id, annotation file and more, by id."""
    rows = MaskSet(folder).rows
    name, file, *_ = next(drawn, ["", ""])
    for record in dataset.records.values():
        if record.id != name:
            yield replace(record, mask="")
            continue
        row = rows[name]
        shown = tuple(c for c, pixels in enumerate(row["classes"].split()) if pixels != "0")
        yield replace(record, mask=file, mask_sha256=row["sha256"], classes=shown)
        name, file, *_ = next(drawn, ["", ""])


def _absent(dataset: Dataset, problems: Sequence[str]) -> list[str]:
    """Return a problem for every class without a pixel, or one problem if there are no masks."""
    shown = [record.classes for record in dataset.records.values() if record.mask]
    if not shown:
        return [] if problems else ["no image has an object; check data.annotations"]
    absent = {*range(len(dataset.classes))}.difference(*shown)
    remedy = "check data.classes and data.annotations"
    return [f"class {dataset.classes[c]} ({c}) has no pixel in any mask; {remedy}" for c in sorted(absent)]


class _Pen:
    """Draws masks, and collects what is passed over and what is wrong. Threads may share it."""

    def __init__(self, data: Data, dataset: Dataset) -> None:
        assert data.annotations
        self.counts, self.unknown = Counts(), Counts()
        """What is passed over; labels that are no class."""
        self.problems: list[str] = []
        self._root, self._order, self._records = Path(data.root), data.annotations.order, dataset.records
        self._annotations = open_annotations(data, dataset, self.counts)
        self._class_of = {name: c for c, name in enumerate(dataset.classes)}
        rest = data.annotations.rest or ("background" if "background" in dataset.classes else "ignore")
        self._rest = self._class_of.get(rest, IGNORE)
        labels = data.annotations.labels or {}
        self._class_of |= {label: self._class_of.get(name, IGNORE) for label, name in labels.items()}

    def drawn(self, ids: Iterable[str], writer: ShardWriter) -> Iterator[list[str]]:
        """Draw the masks of `ids` into a shard; yield for each its id, annotation file, and objects: key and label."""
        for name in ids:
            record = self._records[name]
            try:
                found = self._annotations.get(record)
                shapes = self._shapes(record, found) if found else None
                if found and shapes is not None:
                    writer.add(name, self._mask(record, found, shapes), 1.0)
                    objects = [printable(word) for _, shape in shapes for word in (shape.key, shape.label)]
                    yield [name, found.file, *objects]
            except StppError as error:
                self.problems.append(str(error))

    def _shapes(self, record: Record, found: Annotated) -> list[tuple[int, Shape]] | None:
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
                self.unknown.add(f"{what}, or ignore", f"{one.key} of {record.image}")
        if not shapes and (found.objects or not found.annotated or self._rest == IGNORE):
            self.counts.add("annotated image(s) without an object that is read stay without a mask", record.image)
            return None
        if self._order == "small":
            sizes = [int(np.diff(self._covered(record, found, shape)).sum()) for _, shape in shapes]
            return [shapes[at] for at in sorted(range(len(shapes)), key=lambda at: -sizes[at])]
        return sorted(shapes, key=lambda one: one[0] if self._order == "classes" else one[1].z)

    def _mask(self, record: Record, found: Annotated, shapes: Sequence[tuple[int, Shape]]) -> Mask:
        mask = np.full((record.height, record.width), self._rest, np.uint8)
        for value, shape in shapes:
            pixels = self._covered(record, found, shape)
            paint(mask, pixels, value)
            if not len(pixels):
                self.counts.add("object(s) cover no pixel's centre", f"{shape.key} of {record.image}")
            if beyond(shape, record.height, record.width):
                self.counts.add("object(s) reach beyond their image, and are cut", f"{shape.key} of {record.image}")
        return mask

    def _covered(self, record: Record, found: Annotated, shape: Shape) -> NDArray[np.int64]:
        try:
            return covered(shape, record.height, record.width)
        except ValueError as error:
            where = f"{self._root / found.file}: object {shape.key} of {record.image}"
            raise StppError(f"{where}: {error}; correct it, or export it again") from None
