"""Fixtures for the tests of the engine: small data sets on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stpp.data.reader import ImageReader
from stpp.store.manifest import Dataset, Record

MakePhotos = Callable[..., ImageReader]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_photos(tmp_path_factory: pytest.TempPathFactory) -> MakePhotos:
    """Return a function: sizes [(height, width)], classes -> images and masks of noise, with some ignored pixels."""

    def make(sizes: Sequence[tuple[int, int]], classes: int) -> ImageReader:
        root: Path = tmp_path_factory.mktemp("photos")
        rng = np.random.default_rng(len(sizes))
        records = {}
        for i, (height, width) in enumerate(sizes):
            name = f"set/{(i * 7) % 10}{i}"  # the ids are not sorted
            record = Record(name, f"{i}.png", f"{i}-mask.png", width, height, "", "", tuple(range(classes)))
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / record.image)
            mask = rng.integers(0, classes, (height, width), dtype=np.uint8)
            mask[rng.random((height, width)) < 0.2] = 255
            Image.fromarray(mask).save(root / record.mask)
            records[name] = record
        values = {c: c for c in (*range(classes), 255)}
        names = tuple(f"class {c}" for c in range(classes))
        return ImageReader(Dataset("noise", names, ((0, 0, 0),) * classes, values, records), root)

    return make
