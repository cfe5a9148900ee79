"""Tests of masks that a user adds: problems are reported before any mask is added."""

import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image

from stpp.ingest.additions import read_additions
from stpp.ingest.inspection import inspect
from stpp.params.data import Data
from stpp.store.masks import encode_mask

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


def test_predictions_and_colours_are_new_masks_of_a_data_set_of_colours(tmp_path: Path) -> None:
    root, new = tmp_path / "root", tmp_path / "new"
    for folder in (root / "i", root / "m", new):
        folder.mkdir(parents=True)
    for at, name in enumerate("abcd"):
        Image.fromarray(np.full((6, 8, 3), at, np.uint8)).save(root / f"i/{name}.png")
    ids = np.resize(np.array([0, 1], np.uint8), (6, 8))
    colours = np.array(COLOURS, np.uint8)[ids]
    Image.fromarray(colours).save(root / "m/a.png")
    known = {"name": "mine", "kind": "folder", "root": str(root), "images": "i/{name}.png", "masks": "m/{name}.png"}
    values = {"#ff0000": "sky", "#008000": "road", "#0000ff": "ignore"}
    data = Data(**known, classes=("sky", "road"), values=values)
    dataset, _, problems = inspect(data, 1)
    assert problems == []
    Image.fromarray(colours).save(new / "b.png")
    (new / "c.png").write_bytes(encode_mask(ids, dataset.palette))
    ids[0, 0] = 255
    (new / "d.png").write_bytes(encode_mask(ids, dataset.palette))
    added, problems = read_additions(new, data, dataset, set("bcd"))
    assert ([one.reading for one in added], problems) == (["values", "values", "classes"], [])
    for one in added:
        one.target.write_bytes(one.data)
    colours[0, 0] = (0, 0, 255)
    with Image.open(root / "m/d.png") as image:
        assert np.array_equal(np.asarray(image), colours)
    dataset, _, problems = inspect(data, 1)
    assert problems == [] and all(dataset.records[name].classes == (0, 1) for name in "abcd")


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
