"""Tests of masks as people have them: colours, ranges, class lists. The oracle looks up every pixel in a dict."""

import re
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from stpp.data.mask_pixels import counts_in, read_mask, to_classes, values_in
from stpp.data.reader import ImageReader
from stpp.ingest.inspection import inspect
from stpp.ingest.known_layouts import layout
from stpp.params.data import Data
from stpp.store.files import StppError
from stpp.store.manifest import COLOUR, Dataset, read_dataset, write_dataset

RNG = np.random.default_rng(0)
SKY, ROAD, TREE, VOID = (70, 130, 180), (128, 64, 128), (0, 1, 0), (224, 224, 192)
COLOURS = {"#4682b4": "sky", "#804080": 1, "#000100": "tree", "#E0E0C0": "ignore"}
IDS = {SKY: 0, ROAD: 1, TREE: 2, VOID: 255}

Pixels = NDArray[np.uint8]


def described(root: Path, **kwargs: Any) -> Data:
    known = {"name": "mine", "kind": "folder", "root": str(root), "images": "i/{name}.png", "masks": "m/{name}.png"}
    return Data(**(known | {"classes": ("sky", "road", "tree")} | kwargs))


def inspected(root: Path, **kwargs: Any) -> tuple[Dataset, list[str], list[str]]:
    return inspect(described(root, **kwargs), 1)


def drawn(*colours: tuple[int, int, int], height: int = 6, width: int = 8) -> Pixels:
    """Return a colour mask, uint8 (H, W, 3), with these colours in a random order."""
    return np.array(colours, np.uint8)[RNG.permutation(np.arange(height * width) % len(colours)).reshape(height, width)]


def looked_up(pixels: Pixels) -> list[list[int]]:
    return [[IDS[tuple(map(int, pixel))] for pixel in row] for row in pixels]


def saved(path: Path, pixels: Pixels, kind: str = "RGB") -> Path:
    """Write a colour mask in one of the ways of labelling tools; the colours stay the same."""
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(pixels)
    if kind == "palette":  # indices in the order in which the colours occur
        found = list(dict.fromkeys(map(tuple, pixels.reshape(-1, 3).tolist())))
        ids = [[found.index(tuple(pixel)) for pixel in row] for row in pixels.tolist()]
        image = Image.fromarray(np.array(ids, np.uint8))
        image.putpalette([part for colour in found for part in colour])
    image = image if kind == "palette" else image.convert(kind)
    image.save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


@pytest.fixture
def coloured(tree: Any) -> Path:
    """Return a data set of three images and masks in colours: RGB, RGBA, and a palette in another order."""
    root: Path = tree({f"i/{name}.png": RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8) for name in "abcd"})
    for name, kind in (("a", "RGB"), ("b", "RGBA"), ("c", "palette")):
        saved(root / f"m/{name}.png", drawn(SKY, ROAD, TREE, VOID), kind)
    return root


# -- colours ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif", "webp"])
@pytest.mark.parametrize("kind", ["RGB", "RGBA", "palette"])
def test_a_mask_is_read_by_the_colour_of_every_pixel(kind: str, suffix: str, tmp_path: Path) -> None:
    values = layout(described(tmp_path, values=COLOURS)).values
    for _ in range(5):
        pixels = drawn(SKY, ROAD, TREE, VOID)[: RNG.integers(1, 7)]
        path = saved(tmp_path / f"m.{suffix}", pixels, kind)
        assert to_classes(read_mask(path, values), values).tolist() == looked_up(pixels)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_grey_and_black_and_white_have_colours_too(suffix: str, tmp_path: Path) -> None:
    grey = RNG.choice(np.array([0, 77, 255], np.uint8), (6, 8))
    values = {COLOUR: 0, COLOUR + 0x4D4D4D: 2, COLOUR + 0xFFFFFF: 1}
    for image in (Image.fromarray(grey), Image.fromarray(grey == 255)):
        image.save(path := tmp_path / f"m.{suffix}")
        expected = [[{0: 0, 77: 2, 255: 1}[v] for v in row] for row in np.asarray(image.convert("L")).tolist()]
        assert to_classes(read_mask(path, values), values).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(COLOUR, 2 * COLOUR - 1), min_size=1, max_size=40), st.data())
def test_colours_are_counted_and_mapped_and_the_first_unknown_one_is_reported(
    pixels: list[int], data: st.DataObject
) -> None:
    values = np.array([pixels], np.int32)
    assert counts_in(values) == (Counter(pixels), len(set(pixels)))
    assert counts_in(values - COLOUR, {0: 1})[0] == Counter(value - COLOUR for value in pixels if value != COLOUR)
    assert values_in(values) == sorted(set(pixels))
    known = data.draw(st.lists(st.sampled_from(pixels), min_size=1))
    meaning = {value: at % 3 for at, value in enumerate(dict.fromkeys(known))}
    if unknown := [value for value in pixels if value not in meaning]:
        with pytest.raises(KeyError) as error:
            to_classes(values, meaning)
        assert error.value.args == (unknown[0],)
    else:
        assert to_classes(values, meaning).tolist() == [[meaning[value] for value in pixels]]


def test_the_values_of_a_large_mask_are_counted() -> None:
    values = np.full((2**12, 2**12 + 1), COLOUR + 7, np.int32)
    values[0, :5] = values[-1, -3:] = 9
    assert counts_in(values) == ({COLOUR + 7: values.size - 8, 9: 8}, 2) and values_in(values) == [9, COLOUR + 7]
    assert counts_in(values.astype(np.uint8)) == ({7: values.size - 8, 9: 8}, 2)
    assert counts_in(values - np.int32(2**30), {9 - 2**30: 0}) == ({COLOUR + 7 - 2**30: values.size - 8}, 1)


def test_a_data_set_of_colours_is_the_same_after_it_is_written_and_read(coloured: Path, tmp_path: Path) -> None:
    dataset, warnings, problems = inspected(coloured, values=COLOURS)
    assert (warnings, problems) == ([], [])
    assert dataset.palette == (SKY, ROAD, TREE)
    assert dataset.records["a"].classes == (0, 1, 2)
    write_dataset(tmp_path, dataset)
    assert '"#4682b4": 0' in (tmp_path / "dataset.json").read_text()
    again = read_dataset(tmp_path)
    assert (again.values, again.digest) == (dataset.values, dataset.digest)
    for name in "abc":
        with Image.open(coloured / f"m/{name}.png") as image:
            assert ImageReader(again, coloured).mask(name).tolist() == looked_up(np.asarray(image.convert("RGB")))


def test_unknown_colours_are_named_with_their_pixels_and_a_section_to_paste(coloured: Path) -> None:
    del (values := dict(COLOURS))["#E0E0C0"]
    saved(coloured / "m/d.png", np.full((6, 8, 3), (1, 2, 3), np.uint8))
    _, (section,), problems = inspected(coloured, values=values)
    assert len(problems) == 4
    assert f"{coloured}/m/a.png: colour #e0e0c0 (12 pixels): not in data.values; add it there" in problems[0]
    assert 'each CLASS: {"#010203": CLASS, "#e0e0c0": CLASS}' in section
    assert section.endswith("in this order: 57.1, 42.9")


def test_colours_without_values_give_a_section_that_is_complete_once_classes_are_put_in(coloured: Path) -> None:
    (coloured / "m/c.png").unlink()  # a palette mask is read by number
    _, (section,), problems = inspected(coloured)
    assert [re.search(r"RGB with \d colours; name them in data.values", problem) is None for problem in problems] == [
        False,
        False,
    ]
    found = re.findall(r'"(#\w+)": CLASS', section)
    assert set(found) == {name.lower() for name in COLOURS}
    lowered = {name.lower(): meaning for name, meaning in COLOURS.items()}
    assert inspected(coloured, values={name: lowered[name] for name in found})[2] == []
    with pytest.raises(ValueError, match="'CLASS', which is neither"):
        described(coloured, values=dict.fromkeys(found, "CLASS"))


def test_a_photo_as_a_mask_is_one_clear_line(coloured: Path) -> None:
    saved(coloured / "i/d.png", photo := RNG.integers(0, 256, (300, 400, 3)).astype(np.uint8))
    saved(coloured / "m/d.png", photo)
    (said,) = [one for one in inspected(coloured)[2] if "/m/d.png" in one]
    assert re.search(r"RGB with 11\d{4} colours, like a photo; is it a mask\?$", said)
    (said,) = [one for one in inspected(coloured, values=COLOURS)[2] if "/m/d.png" in one]
    assert re.search(r" and 11\d{4} more: not in data\.values; .*without antialiasing$", said) and len(said) < 800


def test_transparent_pixels_have_no_colour(coloured: Path) -> None:
    pixels = np.dstack([drawn(SKY, ROAD), np.full((6, 8), 255, np.uint8)])
    pixels[0, :3, 3] = 254
    Image.fromarray(pixels).save(coloured / "m/d.png")
    (problem,) = inspected(coloured, values=COLOURS)[2]
    assert "m/d.png: 3 pixels are transparent" in problem
    image = Image.fromarray(np.zeros((6, 8), np.uint8))
    image.putpalette(SKY)
    image.save(coloured / "m/d.png", transparency=0)
    (problem,) = inspected(coloured, values=COLOURS)[2]
    assert "m/d.png: 48 pixels are transparent" in problem


def test_an_index_beyond_the_palette_and_16_bits_have_no_colour(coloured: Path) -> None:
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(coloured / "m/d.png")
    (problem,) = inspected(coloured, values=COLOURS)[2]
    assert "m/d.png: holds values of 16 bits, but data.values names colours" in problem
    header, rows = struct.pack(">IIBBBBB", 8, 6, 8, 3, 0, 0, 0), (b"\0" + b"\1" * 7 + b"\5") * 6
    chunks = (b"IHDR", header), (b"PLTE", bytes([*SKY, *ROAD])), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    (coloured / "m/d.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    (problem,) = inspected(coloured, values=COLOURS)[2]
    assert "m/d.png: value 5 has no colour in its palette of 2 colours" in problem


# -- class files ------------------------------------------------------------------------------------------------------

FILES = {
    "labelmap.txt": "# label:color_rgb:parts\nsky:70,130,180::\nroad:128,64,128::\ntree:0,1,0::\nvoid:224,224,192::\n",
    "class_dict.csv": "name,r,g,b\nsky,70,130,180\nroad, 128, 64, 128\ntree,0,1,0\nVoid,224,224,192\n",
    "sub/labels.txt": "sky:70,130,180\nroad:128,64,128\ntree:0,1,0\nignore:224,224,192\n",
}
NUMBERED = {
    "_classes.csv": "Pixel Value, Class\n1, road\n2, tree\n0, sky\n9, void\n",
    "classes.txt": "sky\r\nroad\r\ntree\r\n",
    "labelmap.txt": "sky:::\nroad:::\ntree:::\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_classes_gives_names_and_colours(name: str, coloured: Path) -> None:
    (coloured / name).parent.mkdir(exist_ok=True)
    (coloured / name).write_text(FILES[name])
    dataset, _, problems = inspected(coloured, classes=name)
    assert problems == []
    expected, _, _ = inspected(coloured, values=COLOURS)
    assert (dataset.classes, dataset.palette, dataset.values) == (expected.classes, expected.palette, expected.values)
    assert dataset.digest == expected.digest


@pytest.mark.parametrize("name", NUMBERED)
def test_a_file_without_colours_numbers_its_classes(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(NUMBERED[name])
    known = layout(described(tmp_path, classes=name))
    assert known.classes == ("sky", "road", "tree")
    assert known.values == {0: 0, 1: 1, 2: 2, 255: 255} | ({9: 255} if "9" in NUMBERED[name] else {})


def test_values_take_precedence_over_the_file_of_classes(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text(FILES["labelmap.txt"])

    def values(**kwargs: Any) -> dict[int, int]:
        return layout(described(tmp_path, classes="labelmap.txt", **kwargs)).values

    road, void = COLOUR + 0x804080, COLOUR + 0xE0E0C0
    assert values(values={"#ffffff": "road"}) == values() | {2 * COLOUR - 1: 1}
    assert values(values={"#e0e0c0": "tree"}) == values() | {void: 2} and values()[road] == 1
    assert values(values={}) == {0: 0, 1: 1, 2: 2, 3: 255, 255: 255}
    assert values(values={"1-3": "road", 4: 2}) == {0: 0, 1: 1, 2: 1, 3: 1, 4: 2, 255: 255}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.txt", None, "none.txt: no such file; give its path below data.root"),
        ("../a.txt", "sky\nroad", "data.classes: ../a.txt points outside data.root"),
        ("a.txt", "sky\nsky\nroad\n" + "x" * 201, "data.classes: "),
        ("a.txt", "", "kind folder needs `classes`"),
        ("a.csv", "name,r,g,b\nsky,0,0,256\nroad,1,2,3", "not readable as class names: 0,0,256 is no colour"),
        ("a.csv", "name,r,g,b\nsky,1,2,3\nroad,1,2,3", "#010203 is both sky and road"),
        ("a.csv", "", "not readable as class names"),
        ("a.txt", "sky\x1b[31m\nroad", "data.classes: "),
        ("a.txt", b"\xff\xfe", "not readable as class names"),
        ("a.txt", "\n".join(map(str, range(300))), "at most 255 items"),
        ("a.txt", "x\n" * 2**20, "too large"),
    ],
)
def test_a_file_of_classes_that_cannot_be_used_is_one_clear_message(
    name: str, text: str | bytes | None, said: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StppError, match=re.escape(said)) as error:
        layout(described(tmp_path, classes=name))
    assert "\x1b" not in str(error.value) and len(str(error.value)) < 500


# -- ranges and numbers -----------------------------------------------------------------------------------------------


def test_three_or_four_equal_channels_are_one(tmp_path: Path) -> None:
    grey = RNG.integers(0, 4, (6, 8)).astype(np.uint8)
    for kind in ("RGB", "RGBA", "LA"):
        Image.fromarray(grey).convert(kind).save(tmp_path / "m.png")
        assert np.array_equal(read_mask(tmp_path / "m.png"), grey), kind


@pytest.mark.parametrize("suffix", ["jpg", "webp", "png"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_soft_edges_and_lossy_masks_are_read_by_ranges_alone(suffix: str, mode: str, tree: Any) -> None:
    drawn_ = np.zeros((64, 64), np.uint8)
    drawn_[16:48, 20:50] = 255
    root = tree({"i/a.png": RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)})
    (root / "m").mkdir()
    soft = (
        Image.fromarray(drawn_).resize((63, 63)).resize((64, 64), Image.Resampling.BILINEAR)
        if suffix == "png"
        else None
    )
    (soft or Image.fromarray(drawn_)).convert(mode).save(path := root / f"m/a.{suffix}")
    known = {"masks": f"m/{{name}}.{suffix}", "classes": ("other", "road")}
    for values in ({255: 1}, {"0": 0, "200-255": 1}):
        _, _, (problem,) = inspected(root, **known, values=values)
        assert '{"0-127": 0, "128-255": 1}' in problem
    dataset, _, problems = inspected(root, **known, values={"0-127": 0, "128-255": "road"})
    assert problems == []
    mask = ImageReader(dataset, root).mask("a")
    assert (mask != drawn_ // 255).mean() < (0.05 if soft else 0.005)
    with Image.open(path) as image:
        assert mask.tolist() == [[int(v > 127) for v in row] for row in np.asarray(image.convert("RGB"))[:, :, 1]]


def test_all_unknown_values_of_a_mask_are_named_with_their_pixels(tree: Any) -> None:
    values = np.repeat(np.array([0, 1, 2, 7, 9], np.uint8), [20, 10, 9, 6, 3]).reshape(6, 8)
    root = tree({"i/a.png": RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8), "m/a.png": values})
    _, _, (problem,) = inspected(root)
    assert "values 7 (6 pixels), 9 (3 pixels) are not of the 3 classes; add them to data.values (`7: ignore`" in problem


def test_a_mask_of_many_values_is_one_line_of_bounded_length(tree: Any) -> None:
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    root = tree({"i/a.png": RNG.integers(0, 256, (256, 256, 3)).astype(np.uint8), "m/a.png": values})
    _, _, (problem,) = inspected(root)
    assert "values 3 (1 pixels), 4 (1 pixels), " in problem and " and 65512 more are not of the 3" in problem
    assert len(problem) < 800 and "ranges" not in problem


def test_binary_masks_without_a_meaning_of_255_get_the_advice_to_paste(tree: Any) -> None:
    mask = np.repeat(np.array([0, 255], np.uint8), 24).reshape(6, 8)
    root = tree({"i/a.png": RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8), "m/a.png": mask})
    known = {"classes": ("other", "road"), "ignore": None}
    assert "value 255 (24 pixels) is not one of" in inspected(root, **known)[2][0]
    assert "(`255: 1` for binary masks, or `255: ignore`)" in inspected(root, **known)[2][0]
    assert inspected(root, **known, values={255: 1})[2] == []


def test_a_jpeg_photo_as_a_mask_is_not_advised_to_be_read_by_ranges(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (60, 80, 3)).astype(np.uint8)).save(tmp_path / "m.jpg")
    with pytest.raises(StppError, match=r"lossless original$"):
        read_mask(tmp_path / "m.jpg")
    with pytest.raises(StppError, match="RGB with"):
        read_mask(tmp_path / "m.jpg", dict.fromkeys(range(256), 0))


# -- arrays and depths ------------------------------------------------------------------------------------------------

IDS_OF = RNG.integers(0, 3, (6, 8))
DEEP = RNG.choice([0, 1, 300, 65_535], (6, 8))


@pytest.mark.parametrize("suffix", ["npy", "mat", "tif", "png"])
@pytest.mark.parametrize("kind", ["bool", "u1", "u2", "i4", "f4", "i8", "f8", ">u2"])
def test_numbers_of_any_depth_are_class_ids(kind: str, suffix: str, tmp_path: Path) -> None:
    values = (DEEP if kind not in ("bool", "u1") else IDS_OF).astype(kind)
    path = tmp_path / f"m.{suffix}"
    if suffix == "npy":
        np.save(path, np.asfortranarray(values) if kind == "u1" else values)
    elif suffix == "mat":
        savemat(path, {"mask": values}, do_compression=kind == "u1")
    elif kind in ("f4", "i8", "f8", ">u2") or (suffix == "png" and kind == "i4"):
        pytest.skip("Pillow writes no such picture")
    else:
        Image.fromarray(values).save(path)
    assert read_mask(path).tolist() == values.tolist()


def test_a_variable_of_a_mat_is_named_and_part_of_the_data_set(tree: Any, tmp_path: Path) -> None:
    root = tree({f"i/{name}.png": RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8) for name in "ab"})
    (root / "m").mkdir()
    other = (IDS_OF + 1) % 3
    for name in "ab":
        inside = {"Segmentation": IDS_OF.astype(np.uint8), "Boundaries": np.array([np.eye(2), 1], object)}
        savemat(root / f"m/{name}.mat", {"GTcls": inside, "other": other})
    masks = {"masks": "m/{name}.mat"}
    (said, _) = inspected(root, **masks)[2]
    assert "it holds GTcls (1 x 1 struct), other (6 x 8 int64): name one in data.variable" in said
    assert "GTcls is no array of numbers" in inspected(root, **masks, variable="GTcls")[2][0]
    assert "GTcls.x is no array of numbers" in inspected(root, **masks, variable="GTcls.x")[2][0]
    assert "no variable x; it holds GTcls" in inspected(root, **masks, variable="x")[2][0]
    digests = set()
    for variable, expected in (("GTcls.Segmentation", IDS_OF), ("other", other)):
        dataset, _, problems = inspected(root, **masks, variable=variable)
        assert problems == []
        write_dataset(tmp_path, dataset)
        again = read_dataset(tmp_path)
        assert ImageReader(again, root).mask("b").tolist() == expected.tolist()
        assert again.digest == dataset.digest
        digests.add(again.digest)
    assert len(digests) == 2


def nested(depth: int) -> bytes:
    """Return a .mat of cells in cells."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data

    inside = element(6, struct.pack("<II", 9, 0)) + element(5, struct.pack("<ii", 1, 1)) + element(1, b"")
    cell = element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<ii", 1, 1)) + element(1, b"")
    tags, size = [element(14, inside + element(2, b"\1") + bytes(7))], 0
    for _ in range(depth):
        size = sum(map(len, tags[-1:])) + size
        tags.append(struct.pack("<II", 14, size + len(cell)) + cell)
    start = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 256) + b"IM"
    return start + b"".join(reversed(tags))


def header(text: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"


def of_npy(shape: object, kind: str = "'|u1'") -> bytes:
    return header(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}")


def test_cells_with_one_mask_in_them_are_opened(tmp_path: Path) -> None:
    (tmp_path / "m.mat").write_bytes(nested(20))
    assert read_mask(tmp_path / "m.mat").tolist() == [[1]]


START = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 256) + b"IM"
BOMB = zlib.compress(bytes(2**29), 9)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (of_npy((50_000, 50_000)), "header says 50000 x 50000, but it holds 0 values"),
        (of_npy((10**30, 10**30)), "but it holds 0 values"),
        (of_npy((-1, 5)) + bytes(5), "header says -1 x 5"),
        (of_npy((2, 2), "'|O'") + bytes(32), "holds Python objects"),
        (of_npy((2, 2), "'<f4'") + np.full(4, np.nan, "<f4").tobytes(), "values that are no class ids"),
        (of_npy((2, 2), "'<i8'") + np.full(4, -(2**63)).tobytes(), "values that are no class ids"),
        (of_npy((2, 2), "'<c8'") + bytes(32), "2 x 2 values of type complex64"),
        (of_npy((2, 2, 2)) + bytes(8), "holds 2 x 2 x 2 values"),
        (header("__import__('os')"), "cannot be read"),
        (b"\x93NUMPY\3\0" + bytes(100), "version (3, 0)"),
        (START + struct.pack("<II", 15, len(BOMB)) + BOMB, "unpacks to more than 256 MB"),
        (START + struct.pack("<II", 15, 50) + bytes(50), "damaged"),
        (START + bytes(10**6), "more than 1000 elements"),
        (nested(100_000), "more than 1000 elements"),
        (START[:60], "damaged"),
        (b"MATLAB 7.3 MAT-file".ljust(512), "version 7.3; save it with"),
    ],
    ids=range(16),
)
def test_an_array_that_is_no_mask_is_one_clear_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.npy"
    path.write_bytes(content)
    with pytest.raises(StppError, match=re.escape(said)) as error:
        read_mask(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
