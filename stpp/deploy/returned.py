"""Masks that come back from an annotation tool, and how they differ from what was proposed."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpp.deploy.tasks import PROPOSED, TASK
from stpp.ingest.colours import background
from stpp.ingest.drawing import draw_masks
from stpp.params.data import Annotations, Data
from stpp.store.files import StppError, atomic_write
from stpp.store.manifest import DRAWN, Dataset, Record
from stpp.store.masks import Mask, MaskSet, encode_mask, read_png
from stpp.store.records import TaskJson, read


def masks_of_export(export: Path, task: Path, format: str | None, dataset: Dataset, out: Path) -> list[str]:
    """Write the masks of a tool's export into `out`, a PNG of class ids for each image; return what was passed over.

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
    left = len(images) - len(masks.ids)
    return [*warnings, *([f"{left} of the {len(images)} images of the task are not in {export}"] if left else [])]


class Changes:
    """How far masks are from what was proposed: pixels of every class of the proposal and of the mask."""

    def __init__(self, task: Path, classes: Sequence[str]) -> None:
        self._task, self._classes = task, classes
        self._total = np.zeros((len(classes), len(classes)), np.int64)
        self.equal: dict[str, float] = {}
        """The fraction of pixels that a person left as proposed, by id."""

    def add(self, name: str, mask: Mask) -> None:
        """Count an image. Raises StppError if its proposal is not readable, or of another size."""
        proposed = read_png(self._task / PROPOSED / f"{name}.png")
        if proposed.shape != mask.shape:
            raise StppError(f"{self._task / PROPOSED / name}.png: not of the size of its mask; was it edited?")
        both = (proposed < len(self._classes)) & (mask < len(self._classes))
        pairs = proposed[both].astype(np.int64) * len(self._classes) + mask[both]
        self._total += np.bincount(pairs, minlength=self._total.size).reshape(self._total.shape)
        self.equal[name] = float((proposed == mask).mean())

    def iou(self) -> NDArray[np.float64]:
        """Return the IoU of proposals and masks by class; NaN for a class that neither shows."""
        either = self._total.sum(axis=0) + self._total.sum(axis=1) - np.diag(self._total)
        with np.errstate(invalid="ignore"):
            found: NDArray[np.float64] = np.diag(self._total) / either
        return found

    def lines(self) -> list[str]:
        """Return what to tell a person: the IoU by class and the most changed images, the worst ones first."""
        known = [(iou, name) for iou, name in zip(self.iou().tolist(), self._classes, strict=True) if iou >= 0]
        worst = sorted(self.equal.items(), key=lambda one: (one[1], one[0]))
        same = [name for name, equal in worst if equal == 1]
        said = ["IoU of proposals and new masks: " + ", ".join(f"{name} {iou:.2f}" for iou, name in sorted(known))]
        changed = [f"{name} ({100 * (1 - equal):.1f} % of the pixels)" for name, equal in worst if equal < 1]
        said += [f"most changed: {', '.join(changed[:3])}"] if changed else []
        said += [f"{len(same)} masks equal their proposals, such as {same[0]}: were they looked at?"] if same else []
        return said
