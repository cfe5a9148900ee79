from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stpp.report.panels import IDS, INK, SIDE, STRIPES, _drawable, _font, _wrapped, panel
from stpp.stages.report import _differing

PALETTE = ((10, 20, 30), (200, 0, 0), (0, 180, 40), (0, 60, 220))
CLASSES = ("background", "disk", "$ring$", "box")
TITLES = ["image", "truth", "pseudo"]
RED, BROWN = (255, 40, 40), (127, 90, 60)
PHOTO = np.full((60, 80, 3), BROWN, dtype=np.uint8)


def mask(height: int, width: int, value: int = 1) -> NDArray[np.uint8]:
    return np.full((height, width), value, dtype=np.uint8)


def drawn(path: Path, rows: Any, titles: list[str] = TITLES, **others: Any) -> NDArray[np.uint8]:
    panel(rows, titles, PALETTE, CLASSES, path, **others)
    with Image.open(path, formats=["PNG"]) as image:
        return np.asarray(image)


def count(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=2).sum())


def box(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return left, top, width and height of the pixels of a colour."""
    y, x = (picture == colour).all(axis=2).nonzero()
    return int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1


SWATCH = 18 * 12


def test_a_mask_shows_its_pixels_in_the_colours_of_the_palette(tmp_path: Path) -> None:
    classes = np.array([[0, 1], [2, 3]], dtype=np.uint8).repeat(40, axis=0).repeat(50, axis=1)
    picture = drawn(tmp_path / "p.png", [("a", [PHOTO, classes, None])])
    enlarged = 3 * 3 * 40 * 50  # 100 x 80 fits three times into 320
    assert [count(picture, colour) for colour in PALETTE] == [enlarged + SWATCH] * 4
    top = picture[box(picture, BROWN)[1] :]
    left, above, width, height = box(top[:240], PALETTE[0])
    cell = top[above : above + 2 * height, left : left + 2 * width]
    expected = np.array(PALETTE, dtype=np.uint8)[classes].repeat(3, axis=0).repeat(3, axis=1)
    assert np.array_equal(cell, expected)


def test_a_shrunk_mask_mixes_no_colours_and_keeps_its_shape(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(1, 3, (512, 1024)).astype(np.uint8)
    picture = drawn(tmp_path / "p.png", [("a", [classes])], ["truth"])
    assert count(picture, PALETTE[1]) + count(picture, PALETTE[2]) == SIDE * SIDE // 2 + 2 * SWATCH
    plain = drawn(tmp_path / "q.png", [("a", [mask(512, 1024)])], ["truth"])
    assert count(plain, PALETTE[1]) == SIDE * SIDE // 2 + SWATCH


def test_an_image_has_its_own_colours_and_is_aligned_with_its_mask(tmp_path: Path) -> None:
    image = np.full((100, 200, 3), RED, dtype=np.uint8)
    picture = drawn(tmp_path / "p.png", [("a", [image, mask(100, 200), None])])
    left, top, width, height = box(picture, RED)
    assert (width, height) == (200, 100)
    assert tuple(picture[top, left + width + 8]) == PALETTE[1]
    assert tuple(picture[top - 1, left + width + 8]) == (255, 255, 255)


def test_ignored_pixels_are_striped_grey_and_named(tmp_path: Path) -> None:
    with_ignored = mask(80, 80)
    with_ignored[:40] = 255
    picture = drawn(tmp_path / "p.png", [("a", [with_ignored])], ["truth"])
    left, middle, width, _ = box(picture, PALETTE[1])
    left += width - SIDE  # the swatch in the legend is further left than the cell
    cell = picture[middle - 160 : middle, left : left + SIDE]
    assert count(cell, STRIPES[0]) + count(cell, STRIPES[1]) == 320 * 160
    assert all(count(cell, grey) > 320 * 70 for grey in STRIPES)
    assert len({tuple(pixel) for pixel in picture[middle - 80, left : left + 5]}) == 2
    assert sum(count(picture[middle + 160 :], grey) for grey in STRIPES) >= SWATCH
    without = drawn(tmp_path / "q.png", [("a", [mask(80, 80)])], ["truth"])
    assert sum(count(without, grey) for grey in STRIPES) < 50  # edges of letters


def test_the_legend_has_only_the_classes_that_occur(tmp_path: Path) -> None:
    picture = drawn(tmp_path / "p.png", [("a", [mask(40, 40, 1)]), ("b", [mask(40, 40, 3)])], ["truth"])
    cell = 320 * 320
    assert [count(picture, colour) for colour in PALETTE] == [0, cell + SWATCH, 0, cell + SWATCH]


def test_a_long_legend_takes_more_lines_and_loses_no_class(tmp_path: Path) -> None:
    palette = [(i, 255, 0) for i in range(200)]
    every = np.arange(200, dtype=np.uint8).reshape(10, 20)
    panel([("a", [every])], ["truth"], palette, [f"class number {i}" for i in range(200)], tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        picture = np.asarray(image)
    assert [count(picture, colour) for colour in palette] == [16 * 16 + SWATCH] * 200


def test_a_missing_mask_is_an_empty_box(tmp_path: Path) -> None:
    picture = drawn(tmp_path / "p.png", [("a", [PHOTO, None])], ["image", "truth"])
    left, top, width, height = box(picture, BROWN)
    inside = picture[top + 1 : top + height - 1, left + width + 9 : left + 2 * width + 7]
    assert 0 < (inside < 255).any(axis=2).sum() < 1500  # the text "no mask"
    assert tuple(picture[top, left + width + 8]) != (255, 255, 255)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 24),
    st.lists(st.tuples(st.integers(1, 700), st.integers(1, 700)), max_size=2),
    st.text(max_size=80),
    st.booleans(),
)
def test_a_picture_is_never_wider_than_2000_pixels(
    tmp_path_factory: pytest.TempPathFactory, columns: int, sizes: list[tuple[int, int]], text: str, missing: bool
) -> None:
    rows = [(text, [None if missing else mask(h, w)] * columns) for h, w in sizes]
    path = tmp_path_factory.getbasetemp() / "panel.png"
    picture = drawn(path, rows, [text] * columns, heading=text)
    assert picture.shape[1] <= 2000
    if sizes and not missing:
        cells = (picture == PALETTE[1]).all(axis=2)
        assert not cells[:, -8:].any()  # no cell is cut off at the right


def test_equal_inputs_give_equal_bytes_without_metadata(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        drawn(tmp_path / name, [("a", [PHOTO, mask(60, 80), None])], heading="toy")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert not image.info
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("name", ["$\\frac$", "a\nb", "\ud800", "天", "\u202eabc", "", "x" * 5000])
def test_any_id_title_and_heading_is_drawn(name: str, tmp_path: Path) -> None:
    assert drawn(tmp_path / "p.png", [(name, [PHOTO])], [name], heading=name).shape[1] <= 2000


def test_a_panel_without_rows_says_so(tmp_path: Path) -> None:
    assert (drawn(tmp_path / "p.png", []) == INK).all(axis=2).any()


def test_the_heading_is_drawn_above(tmp_path: Path) -> None:
    rows = [("a", [PHOTO])]
    without, headed = (drawn(tmp_path / "p.png", rows, ["image"], heading=text) for text in ("", "toy, val, n = 5"))
    assert np.array_equal(headed[-len(without) + 8 :], without[8:])
    assert (headed[: -len(without) + 8] == INK).all(axis=2).any()


@pytest.mark.parametrize(("predicted", "lines"), [(0, 255), (2, 0)])
def test_wrong_pixels_are_hatched_and_ignored_ones_are_not_wrong(predicted: int, lines: int, tmp_path: Path) -> None:
    truth, model = (
        np.array([strips], dtype=np.uint8).repeat(40, axis=0).repeat(10, axis=1)
        for strips in ([1, 1, 1, 255], [1, predicted, 255, 3])
    )
    rows = [("a", [truth, model])]
    plain = drawn(tmp_path / "p.png", rows, ["truth", "model"])
    hatched = drawn(tmp_path / "q.png", rows, ["truth", "model"], truth=0)
    _, top, _, _ = box(plain, PALETTE[1])
    changed = (hatched != plain).any(axis=2)
    cells = changed[top : top + SIDE]
    assert np.ptp(cells.any(axis=0).nonzero()) + 1 == SIDE // 4, "on one strip of the model's mask alone"
    assert cells.sum() == pytest.approx(2 / 10 * SIDE * SIDE // 4, rel=0.05), "two of ten pixels"
    assert (hatched[top : top + SIDE][cells] == lines).all(), "white on dark colours, black on light ones"
    assert changed[top + SIDE :].any(), "the legend names them"


def test_models_differ_on_the_pixels_where_not_all_agree() -> None:
    rows = ([1, 1, 1, 255], [1, 2, 1, 0], [1, 1, 1, 1], [1, 2, 2, 3])
    truth, *masks = (np.array([row], dtype=np.uint8) for row in rows)
    assert _differing(truth, masks[:1]) == _differing(truth, masks[:2]) == pytest.approx(1 / 3)
    assert _differing(truth, masks) == pytest.approx(2 / 3)
    assert _differing(truth, [masks[0], masks[0]]) == 0 == _differing(mask(2, 2, 255), [mask(2, 2, 1)])


def test_an_error_leaves_the_old_picture(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        panel([("a", [PHOTO])], TITLES, PALETTE, CLASSES, path)
    with pytest.raises(IndexError):
        panel([("a", [mask(4, 4, 9)])], ["truth"], PALETTE, CLASSES, path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


@settings(deadline=None)
@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=100), st.integers(1, 4))
def test_wrapped_lines_fit_and_are_complete_or_end_with_an_ellipsis(text: str, most: int) -> None:
    font = _font(11)
    lines = _wrapped(text, IDS, font, most, length=400)
    assert len(lines) <= most
    assert all(font.getlength(line) <= IDS for line in lines)
    whole = _drawable(text)
    assert "".join(lines) == whole or (lines[-1].endswith("…") and whole.startswith("".join(lines)[:-1]))


def test_characters_that_the_font_lacks_are_shown_as_their_codes() -> None:
    assert _wrapped("日本 é u\u0308 Ж #2", 10 * IDS, _font(11), 1) == ["\\u65e5\\u672c é u\u0308 Ж #2"]
