"""Tests of the embedded data set: its pixels, its classes, and that it is written atomically."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stpp.ingest import toy
from stpp.ingest.toy import CLASSES, OBJECTS, PALETTE, WEAR, draw, scene
from stpp.params.models import Toy
from stpp.store.files import StppError
from stpp.store.masks import encode_mask

Scenes = tuple[NDArray[np.uint8], NDArray[np.uint8]]

SMALL = Toy(images=3, size=32)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """Return images (100, 96, 96, 3) and masks (100, 96, 96) of the default set."""
    images, masks = zip(*(scene(Toy(), i) for i in range(100)), strict=True)
    return np.stack(images), np.stack(masks)


def test_the_default_scenes_have_the_same_pixels_on_every_machine() -> None:
    content = hashlib.sha256()
    for index in range(8):
        image, mask = scene(Toy(), index)
        content.update(image.tobytes() + mask.tobytes())
    assert content.hexdigest() == "2347f2cecad5d57f4071a0b298fda0af82a5b0d9bdd6566d1efd6e9131f97ef7"


def test_another_seed_and_another_index_give_another_scene() -> None:
    pictures = {scene(Toy(seed=seed), index)[0].tobytes() for seed in range(4) for index in range(4)}
    assert len(pictures) == 16


def test_a_scene_does_not_depend_on_how_many_are_drawn(tmp_path: Path) -> None:
    draw(tmp_path / "few", Toy(images=2, size=32))
    draw(tmp_path / "many", Toy(images=5, size=32))
    for file in (f.relative_to(tmp_path / "few") for f in (tmp_path / "few").rglob("*.png")):
        assert (tmp_path / "few" / file).read_bytes() == (tmp_path / "many" / file).read_bytes()


def test_files_hold_rgb_images_and_class_ids_with_the_palette(tmp_path: Path) -> None:
    draw(tmp_path / "toy", SMALL)
    names = {f"toy_0000{i}.png" for i in range(3)}
    for folder in ("images", "masks"):
        assert {f.name for f in (tmp_path / "toy" / folder).iterdir()} == names
    for index in range(3):
        image, mask = scene(SMALL, index)
        with Image.open(tmp_path / f"toy/images/toy_0000{index}.png") as file:
            assert file.mode == "RGB"
            assert np.array_equal(np.asarray(file), image)
        with Image.open(tmp_path / f"toy/masks/toy_0000{index}.png") as file:
            assert file.mode == "P"
            assert np.array_equal(np.asarray(file), mask)
            assert file.getpalette()[: 3 * len(PALETTE)] == [c for colour in PALETTE for c in colour]


@pytest.mark.parametrize("size", [32, 33, 100, 1024])
def test_scenes_have_the_requested_size_and_masks_hold_class_ids_only(size: int) -> None:
    image, mask = scene(Toy(size=size), 1)
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((size, size), np.uint8)
    assert set(np.unique(mask)) <= set(range(len(CLASSES)))
    assert mask.any()


def test_a_larger_scene_shows_the_same_things_larger() -> None:
    """All lengths are proportional to the size, except for rounding to pixels, and nothing overflows."""
    for index in range(5):
        small, large = (scene(Toy(size=size), index)[1] for size in (128, 1024))
        assert np.mean(small != large[4::8, 4::8]) < 0.06


def test_every_class_occurs_and_none_is_rare(scenes: Scenes) -> None:
    pixels = np.bincount(scenes[1][:50].ravel(), minlength=len(CLASSES))
    assert len(pixels) == len(CLASSES) == len(PALETTE)
    assert (pixels[1:] >= 0.01 * pixels[1:].sum()).all()
    assert 0.4 < pixels[0] / pixels.sum() < 0.9


def test_the_mean_colour_is_a_hint_at_the_class_but_not_enough(
    scenes: Scenes,
) -> None:
    """A guess by the nearest mean colour of a class is better than chance, but often wrong."""
    images, masks = scenes
    ids, colours = [], []
    for image, mask in zip(images, masks, strict=True):
        for c in np.unique(mask[mask > 0]):
            ids.append(int(c))
            colours.append(image[mask == c].mean(axis=0))
    label, colour = np.array(ids), np.array(colours)
    means = np.stack([colour[label == c].mean(axis=0) for c in range(1, len(CLASSES))])
    guess = 1 + np.argmin(((colour[:, None] - means) ** 2).sum(axis=-1), axis=1)
    recall = [np.mean(guess[label == c] == c) for c in range(1, len(CLASSES))]
    assert 1.5 / len(OBJECTS) < np.mean(recall) < 0.7


def test_every_texture_is_used_by_at_least_two_classes() -> None:
    wearers = Counter(texture for textures in WEAR.values() for texture in set(textures))
    assert WEAR.keys() == OBJECTS.keys()
    assert min(wearers.values()) >= 2


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _interrupt_second_mask(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "toy", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_drawing_keeps_the_earlier_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "toy", SMALL)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*.png")}
    _interrupt_second_mask(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "toy", Toy(images=3, size=32, seed=1))
    assert {f: f.read_bytes() for f in tmp_path.rglob("*.png")} == before


def test_drawing_again_replaces_the_earlier_set_but_never_removes_other_images(tmp_path: Path) -> None:
    draw(tmp_path / "toy", Toy(images=1, size=32, seed=1))
    before = (tmp_path / "toy/images/toy_00000.png").read_bytes()
    draw(tmp_path / "toy", SMALL)
    assert (tmp_path / "toy/images/toy_00000.png").read_bytes() != before
    with pytest.raises(StppError, match=r"contains images/toy_00001\.png"):
        draw(tmp_path / "toy", Toy(images=1, size=32))
    assert (tmp_path / "toy/images/toy_00001.png").exists()


def _interrupt_second_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(99))

    def encode(mask: NDArray[np.uint8], palette: tuple[tuple[int, int, int], ...]) -> bytes:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return encode_mask(mask, palette)

    monkeypatch.setattr(toy, "encode_mask", encode)
