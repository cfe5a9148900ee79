"""Masks that come back from an annotation tool, and how they differ from what was proposed."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpp.deploy.tasks import PROPOSED, TASK
from stpp.ingest.annotations import Counts, open_annotations
from stpp.ingest.colours import background
from stpp.ingest.drawing import draw_masks
from stpp.params.data import Annotations, Data
from stpp.store.files import StppError, atomic_write
from stpp.store.manifest import DRAWN, Dataset, Record
from stpp.store.masks import Mask, MaskSet, encode_mask, read_png
from stpp.store.records import TaskJson, read


def masks_of_export(
    export: Path, task: Path, format: str | None, dataset: Dataset, out: Path
) -> tuple[dict[str, str], list[str]]:
    """Write the masks of a tool's export into `out`, a PNG of class ids for each image.

    Returns the author of each mask by id, where the export names one, and what was passed over.

    export: a file, or the folder of LabelMe's files. task: the folder of the task. format: None for that of the task.
    Raises StppError if the export or the task is not readable, or of other classes.
    """
    about = read(task / TASK, TaskJson)
    images = {one["id"]: one["name"] for one in about["images"]}
    if about["classes"] != [*dataset.classes]:
        raise StppError(f"{task}: was written for the classes {', '.join(about['classes'])}; the data set has others")
    if missing := [i for i in images if i not in dataset.records]:
        raise StppError(f"{task}: {missing[0]} is not an image of {dataset.name}; is it the task of this data set?")
    if export.suffix == ".zip":
        raise StppError(f"{export}: is an archive; unpack it, and name the file inside")
    folder = export if export.is_dir() else export.parent
    records = {}
    for i, name in sorted(images.items()):
        known, own = dataset.records[i], Path(name).with_suffix(".json").as_posix()
        file = own if export.is_dir() and (folder / own).is_file() else ""
        records[i] = Record(i, name, file, known.width, known.height, known.image_sha256, "", ())
    ground = background(dataset.classes)
    annotations = Annotations(
        format=format or about["tool"],
        file="{name}.json" if export.is_dir() else export.name,
        rest="ignore" if ground is None else dataset.classes[ground],
    )
    files = {"kind": "folder", "root": str(folder), "images": "{name}"}
    data = Data(name=dataset.name, classes=dataset.classes, annotations=annotations, **files)  # type: ignore[arg-type]
    of_task = Dataset(dataset.name, dataset.classes, dataset.palette, {}, records)
    with tempfile.TemporaryDirectory() as place:
        _, warnings, problems = draw_masks(data, of_task, Path(place), 1, every_class=False)
        if problems:
            raise StppError("\n".join([f"{export}:", *problems]))
        masks = MaskSet(Path(place) / DRAWN)
        for name in masks.ids:
            with atomic_write(out / f"{name}.png") as new:
                new.write_bytes(encode_mask(masks.read(name), dataset.palette))
        drawn_from = open_annotations(data, of_task, Counts())
        by = {name: one.author for name in masks.ids if (one := drawn_from.get(records[name])) and one.author}
    left = len(images) - len(masks.ids)
    return by, [*warnings, *([f"{left} of the {len(images)} images of the task are not in {export}"] if left else [])]


class Changes:
    """How far masks are from what was proposed: pixels of every class of the proposal and of the mask."""

    def __init__(self, task: Path, classes: Sequence[str]) -> None:
        self._task, self._classes = task, classes
        self._total = np.zeros((len(classes), len(classes)), np.int64)
        self.equal: dict[str, float] = {}
        """The fraction of pixels that a person left as proposed, by id."""
        self.iou_of: dict[str, dict[str, float]] = {}
        """The IoU of the proposal and the mask, by id and class; without classes that neither shows."""

    def add(self, name: str, mask: Mask) -> None:
        """Count an image. Raises StppError if its proposal is not readable, or of another size."""
        proposed = read_png(self._task / PROPOSED / f"{name}.png")
        if proposed.shape != mask.shape:
            raise StppError(f"{self._task / PROPOSED / name}.png: not of the size of its mask; was it edited?")
        both = (proposed < len(self._classes)) & (mask < len(self._classes))
        pairs = proposed[both].astype(np.int64) * len(self._classes) + mask[both]
        matrix = np.bincount(pairs, minlength=self._total.size).reshape(self._total.shape)
        self._total += matrix
        self.equal[name] = float((proposed == mask).mean())
        self.iou_of[name] = self._iou(matrix)

    def iou(self) -> dict[str, float]:
        """Return the IoU of all proposals and masks by class; without classes that neither shows."""
        return self._iou(self._total)

    def _iou(self, matrix: NDArray[np.int64]) -> dict[str, float]:
        both = np.diag(matrix)
        either = matrix.sum(axis=0) + matrix.sum(axis=1) - both
        return {self._classes[c]: float(both[c] / either[c]) for c in np.flatnonzero(either).tolist()}
