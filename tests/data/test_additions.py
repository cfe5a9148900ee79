"""Tests of masks that a user adds: problems are reported before any mask is added."""

import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image

from stpp.ingest.additions import read_additions
from stpp.ingest.inspection import inspect
from stpp.params.models import Data

COLOURS = ((255, 0, 0), (0, 128, 0))


def painted(path: Path, *colours: tuple[int, int, int]) -> None:
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(np.resize(np.array([0, 1], np.uint8), (6, 8)))
    image.putpalette([part for colour in colours for part in colour])
    image.save(path)


def test_new_masks_whose_palettes_permute_the_classes_are_refused_and_hidden_files_ignored(tmp_path: Path) -> None:
    root, new = tmp_path / "root", tmp_path / "new"
    (root / "i").mkdir(parents=True)
    for at, name in enumerate("abcd"):
        Image.fromarray(np.full((6, 8, 3), at, np.uint8)).save(root / f"i/{name}.png")
    painted(root / "m/a.png", *COLOURS)
    known = {"name": "mine", "kind": "folder", "root": str(root), "images": "i/{name}.png", "masks": "m/{name}.png"}
    data = Data(**known, classes=("sky", "road"), palette=COLOURS)
    dataset, _, problems = inspect(data, 1)
    assert problems == []
    painted(new / "b.png", *COLOURS)
    for name in ("._b.png", "Thumbs.db"):
        (new / name).write_bytes(b"")
    added, problems = read_additions(new, data, dataset, set("bcd"))
    assert ([one.id for one in added], problems) == (["b"], [])
    painted(new / "c.png", *COLOURS[::-1])
    _, (problem,) = read_additions(new, data, dataset, set("bcd"))
    assert problem.startswith(f"{new}/c.png: value 0 is sky, but its palette colour #008000 is that of road")


def test_a_new_mask_may_have_the_name_of_its_image_in_another_unicode_form(tmp_path: Path) -> None:
    root, new = tmp_path / "root", tmp_path / "new"
    (root / "i").mkdir(parents=True)
    for at, name in enumerate(["a", "Bär 1"]):
        Image.fromarray(np.full((6, 8, 3), at, np.uint8)).save(root / f"i/{name}.png")
    painted(root / "m/a.png", *COLOURS)
    known = {"name": "mine", "kind": "folder", "root": str(root), "images": "i/{name}.png", "masks": "m/{name}.png"}
    data = Data(**known, classes=("sky", "road"))
    dataset, _, _ = inspect(data, 1)
    painted(new / f"{unicodedata.normalize('NFD', 'Bär 1')}.png", *COLOURS)
    (added,), problems = read_additions(new, data, dataset, {"Bär 1"})
    assert (added.id, added.target, problems) == ("Bär 1", root / "m/Bär 1.png", [])
