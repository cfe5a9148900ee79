"""Fixtures for the tests of data: a tree of files, and a small data set of photographs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stpp.data.reader import ImageReader
from stpp.store.manifest import Dataset, Record

Content = NDArray[np.generic] | str | bytes
Tree = Callable[[dict[str, Content]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return a function that writes files below a folder, arrays as images, and returns the folder."""

    def write(files: dict[str, Content]) -> Path:
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            else:
                Image.fromarray(content).save(path)
        return root

    return write


SIZES = [(24, 20), (24, 20), (18, 26), (24, 20)]
"""Width and height of the photographs, repeated in this order."""


@pytest.fixture
def photos(tree: Tree) -> ImageReader:
    """Return four photographs with masks of three classes, l/0 .. l/3, and six without masks, u/0 .. u/5."""
    rng = np.random.default_rng(0)
    names = [f"l/{i}" for i in range(4)] + [f"u/{i}" for i in range(6)]
    files: dict[str, Content] = {}
    records = {}
    for at, name in enumerate(names):
        width, height = SIZES[at % len(SIZES)]
        files[f"images/{name}.png"] = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        mask = f"masks/{name}.png" if name.startswith("l/") else ""
        if mask:
            files[mask] = rng.integers(0, 3, (height, width)).astype(np.uint8)
        image_hash, mask_hash = f"{at:064d}", f"{at + 100:064d}" if mask else ""
        classes = (0, 1, 2) if mask else ()
        records[name] = Record(name, f"images/{name}.png", mask, width, height, image_hash, mask_hash, classes)
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    return ImageReader(Dataset("small", ("a", "b", "c"), palette, {0: 0, 1: 1, 2: 2, 255: 255}, records), tree(files))
