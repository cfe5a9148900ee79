"""Near fingerprints are found exactly, without looking at all of them; equal ones do not multiply."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stpp.audit import duplicates
from stpp.audit.duplicates import BITS, COMPARED, Fingerprints, SeenImages, suspects


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 600), st.integers(1, 40), st.integers(1, 64))
def test_the_near_ones_are_those_of_comparing_with_all(seed: int, count: int, groups: int, spread: int) -> None:
    drawn = np.random.default_rng(seed)
    centres = drawn.integers(0, 2**64, groups, np.uint64)
    flips = (drawn.random((count, 64)) < spread / 400).astype(np.uint8)
    prints = centres[drawn.integers(0, groups, count)] ^ np.packbits(flips, axis=1).view(np.uint64).ravel()
    known = Fingerprints(prints)
    for sought in [*centres[:3], *prints[:3], np.uint64(0), np.uint64(2**64 - 1)]:
        assert sorted(known.near(int(sought))) == np.flatnonzero(np.bitwise_count(prints ^ sought) <= BITS).tolist()


def test_of_very_many_near_ones_the_nearest_are_taken() -> None:
    prints = np.array([0b111] * 3 * COMPARED + [0b1] * 5 + [2**63] * COMPARED, np.uint64)
    found = Fingerprints(prints).near(0)
    assert len(found) == COMPARED
    assert set(range(3 * COMPARED, 3 * COMPARED + 5)) <= set(found)
    assert min(found) >= 3 * COMPARED, "one bit apart before three"


def test_fewer_than_all_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    for count in (1 << 12, 1 << 20):
        prints = np.random.default_rng(0).integers(0, 2**64, count, np.uint64)
        known = Fingerprints(prints)
        sizes: list[int] = []
        counting = np.bitwise_count
        monkeypatch.setattr(np, "bitwise_count", lambda x, s=sizes, c=counting: (s.append(np.size(x)), c(x))[1])
        for sought in prints[:50]:
            known.near(int(sought))
        monkeypatch.undo()
        looked.append(sum(sizes))
    assert looked[1] < 256 / 4 * looked[0], "256 times as many images"


def test_pictures_of_one_grey_are_alike_and_unreadable_ones_are_not(tmp_path: Path) -> None:
    for name, grey in (("a", 10), ("b", 200)):
        Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_text("none")
    (tmp_path / "d.png").write_text("none")
    files = {name: tmp_path / f"{name}.png" for name in "abcd"}
    images = {"val": {"a": files["a"], "c": files["c"]}, "labeled": {"b": files["b"], "d": files["d"]}}
    assert [(pair.held_out, pair.trained_on) for pair in suspects(images)] == [("a", "b")]
    assert not SeenImages({"c": files["c"]}).alike(files["d"])


def test_what_was_looked_at_once_is_known_from_then_on(tmp_path: Path) -> None:
    drawn = np.random.default_rng(1).integers(0, 255, (3, 6, 6, 3), dtype=np.uint8)
    for at, one in enumerate(drawn):
        Image.fromarray(one).resize((64, 48), Image.Resampling.BICUBIC).save(tmp_path / f"{at}.png")
    looks = SeenImages({"0": tmp_path / "0.png"})
    said = [looks.alike(tmp_path / f"{at}.png") for at in (0, 1, 1, 2, 1, 2)]
    assert said == [True, False, True, False, True, True]


def test_pictures_are_in_memory_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pairs come out, whatever the number of pictures that are held."""
    rng = np.random.default_rng(2)
    files = {}
    for at in range(30):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{at}.png")
        files[str(at)] = tmp_path / f"{at}.png"
    images = {"val": dict(list(files.items())[:10]), "unlabeled": {f"u{i}": path for i, path in files.items()}}
    whole = suspects(images)
    assert {(pair.held_out, pair.trained_on) for pair in whole} >= {(str(i), f"u{i}") for i in range(10)}
    monkeypatch.setattr(duplicates, "AT_ONCE", 4)
    assert suspects(images) == whole
