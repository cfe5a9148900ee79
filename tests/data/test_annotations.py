"""Tests that annotation files become the masks that a person drew, whichever tool wrote them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import EXPORTS, FORMS, YOLO, Photo, drawn
from numpy.typing import NDArray
from PIL import Image

from stpp.data.datasets import ImageReader
from stpp.ingest.drawing import draw_masks
from stpp.ingest.inspection import inspect
from stpp.params.models import Data
from stpp.store.manifest import Dataset, read_dataset, write_dataset

CLASSES = ["background", "car", "cat"]
RNG = np.random.default_rng(0)


def photographs(root: Path, photos: list[Photo]) -> None:
    (root / "images").mkdir(parents=True)
    for photo in photos:
        noise = RNG.integers(0, 256, (photo.height, photo.width, 3)).astype(np.uint8)
        Image.fromarray(noise).save(root / f"images/{photo.name}.png")


def described(root: Path, format: str, file: str, classes: list[str] = CLASSES, **kwargs: Any) -> Data:
    labels = {"labels": dict(enumerate(YOLO))} if format == "yolo" else {}
    annotations = {"format": format, "file": file, **labels, **kwargs}
    about: dict[str, Any] = {"name": "mine", "kind": "folder", "root": str(root), "classes": tuple(classes)}
    return Data(**about, images="images/{name}.png", annotations=annotations)


def made(data: Data, out: Path, workers: int = 2) -> tuple[Dataset, list[str], list[str]]:
    dataset, warnings, problems = inspect(data, workers)
    assert not problems
    out.mkdir()
    dataset, more, problems = draw_masks(data, dataset, out, workers)
    write_dataset(out, dataset)
    return dataset, warnings + more, problems


def masks_of(data: Data, out: Path) -> dict[str, NDArray[np.uint8]]:
    """Return the masks that a stage reads, after `prepare` without problems."""
    _, _, problems = made(data, out)
    assert problems == []
    reader = ImageReader(read_dataset(out), Path(data.root))
    return {i: reader.mask(i) for i, record in reader.dataset.records.items() if record.mask}


@pytest.mark.parametrize("format", EXPORTS)
def test_drawn_objects_give_the_mask_of_a_plain_calculation_in_every_format(format: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    photos = []
    for at in range(12):
        photo = Photo(f"{at}", *map(int, rng.integers(16, 40, 2)))
        for _ in range(int(rng.integers(1, 6))):
            form = FORMS[format][int(rng.integers(len(FORMS[format])))]
            photo.objects.append(drawn(rng, CLASSES[int(rng.integers(1, 3))], form, photo.width, photo.height))
        photos.append(photo)
    photographs(tmp_path / "root", photos)
    file = EXPORTS[format](photos, tmp_path / "root")
    found = masks_of(described(tmp_path / "root", format, file), tmp_path / "out")
    assert found.keys() == {photo.name for photo in photos}
    for photo in photos:
        np.testing.assert_array_equal(found[photo.name], photo.mask(CLASSES, 0), photo.name)
