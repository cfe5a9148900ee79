"""Tests that several mask files for an image, and a field of view, become the mask that they mean."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tree
from numpy.typing import NDArray
from PIL import Image
from test_annotations import made, masks_of

from stpp.audit.contents import examine
from stpp.data.mask_pixels import read_layers
from stpp.ingest.additions import read_additions
from stpp.params.data import Data
from stpp.store.files import StppError
from stpp.store.manifest import Dataset

CLASSES = ("background", "crop", "weed", "stone")
MASKS = {"stone": "masks/{name}/stone*", "crop": "masks/{name}_crop.png", "weed": "masks/{name}_weed*.tif"}
"""Patterns in another order than the classes."""
FORMATS = ("png", "gif", "bmp", "npy", "tif", "webp", "jpg")
Box = tuple[int, int, int, int]
"""Left, top, right and bottom of a rectangle, the last two outside."""
W, H = 24, 18


def described(root: Path, masks: Any, classes: tuple[str, ...] = CLASSES, **more: Any) -> Data:
    about: dict[str, Any] = {"name": "mine", "kind": "folder", "root": str(root), "images": "images/{name}.png", **more}
    return Data(classes=classes, masks=masks, **about)


def encoded(pages: list[NDArray[Any]], format: str) -> bytes:
    out = io.BytesIO()
    if format == "npy":
        np.save(out, pages[0])
        return out.getvalue()
    first, *others = (Image.fromarray(page) for page in pages)
    more: dict[str, Any] = {"save_all": True, "append_images": others} if others else {}
    kind = {"tif": "TIFF", "jpg": "JPEG"}.get(format, format.upper())
    first.save(out, format=kind, **more, **({"lossless": True} if format == "webp" else {}))
    return out.getvalue()


def filled(box: Box, value: int = 255) -> NDArray[np.uint8]:
    mask = np.zeros((H, W), np.uint8)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = value
    return mask


def photo(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (H, W, 3)).astype(np.uint8)


def drawn_box(rng: np.random.Generator) -> Box:
    left, top = int(rng.integers(0, W - 3)), int(rng.integers(0, H - 3))
    return left, top, int(rng.integers(left + 1, W + 1)), int(rng.integers(top + 1, H + 1))


def test_the_mask_of_an_image_is_that_of_a_plain_calculation_over_all_its_files(tree: Tree, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    files: dict[str, Any] = {}
    boxes: dict[str, dict[str, list[Box]]] = {}
    seen: dict[str, Box] = {}
    for at in range(24):
        name = f"photo {at}"
        files[f"images/{name}.png"] = photo(at)
        counts = {"crop": at % 2, "weed": at % 3, "stone": at % 4}
        boxes[name] = {label: [drawn_box(rng) for _ in range(count)] for label, count in counts.items()}
        seen[name] = drawn_box(rng)
        files[f"fov/{name}.gif"] = encoded([filled(seen[name])], "gif")
        for number, box in enumerate(boxes[name]["stone"]):
            format = FORMATS[int(rng.integers(len(FORMATS)))]
            value = 255 if format in ("gif", "jpg", "webp") else int(rng.integers(1, 256))
            files[f"masks/{name}/stone {number}.{format}"] = encoded([filled(box, value)], format)
        if boxes[name]["weed"]:
            files[f"masks/{name}_weeds.TIF"] = encoded([filled(box, 9) for box in boxes[name]["weed"]], "tif")
        if boxes[name]["crop"]:
            files[f"masks/{name}_crop.PNG"] = filled(boxes[name]["crop"][0])
    found = masks_of(described(tree(files), MASKS, outside="fov/{name}.gif"), tmp_path / "out")
    assert found.keys() == {name for name, of in boxes.items() if any(of.values())}

    def inside(box: Box, x: int, y: int) -> bool:
        return box[0] <= x < box[2] and box[1] <= y < box[3]

    for name, mask in found.items():
        for y in range(H):
            for x in range(W):
                labels = [c for c in CLASSES[1:] if any(inside(box, x, y) for box in boxes[name][c])]
                expected = CLASSES.index(labels[-1]) if labels else 0
                assert mask[y, x] == (expected if inside(seen[name], x, y) else 255), (name, x, y)


LEFT, TOP, ALL = filled((0, 0, 8, H)), filled((0, 0, W, 6)), filled((0, 0, W, H))
TWO = ("crop", "weed")
OF_TWO = {"crop": "masks/{name}_crop.png", "weed": "masks/{name}_weed*.png"}


def test_what_is_guessed_or_passed_over_is_counted_and_named(tree: Tree, tmp_path: Path) -> None:
    root = tree(
        {f"images/{name}.png": photo(at) for at, name in enumerate(["a", "a_weed", "b", "c", "d"])}
        | {"masks/a_crop.png": LEFT, "masks/a_weed1.png": TOP, "masks/a_weed_weed.png": LEFT, "masks/b_crop.png": TOP}
        | {"masks/d_crop.png": LEFT * 0, "masks/nobody_crop.png": LEFT, "masks/.a_weed2.png": LEFT}
    )
    dataset, said, problems = made(described(root, OF_TWO, TWO), tmp_path / "out")
    assert problems == []
    assert {record.id: record.mask for record in dataset.records.values()} == {
        "a": "masks/a_crop.png",
        "a_weed": "masks/a_weed_weed.png",
        "b": "masks/b_crop.png",
        "c": "",
        "d": "",
    }
    assert sorted(said) == [
        "1 file(s) are named like masks, but belong to no image of the data set, such as masks/nobody_crop.png",
        "1 image(s) have no file of crop, which means none of it is there, such as images/a_weed.png",
        "1 image(s) where weed lies on top of crop (48 pixels), such as images/a.png",
        "1 image(s) whose mask files are empty stay without a mask, such as images/d.png",
        "1 mask file(s) fit several images, and belong to the one with the longest name, such as "
        "masks/a_weed_weed.png (of a_weed, not a)",
        "1 mask file(s) or page(s) hold no pixel of their class, such as masks/d_crop.png",
        "2 image(s) have no file of weed, which means none of it is there, such as images/b.png, images/d.png",
        "skipped: 1 hidden file(s) or folder(s), or system files, such as masks/.a_weed2.png",
    ]
    rows = (tmp_path / "out/objects.csv").read_text().splitlines()[1:]
    assert rows == [
        "a,masks/a_crop.png,crop",
        "a,masks/a_weed1.png,weed",
        "a_weed,masks/a_weed_weed.png,weed",
        "b,masks/b_crop.png,crop",
    ]


def test_masks_may_lie_beside_their_images(tree: Tree, tmp_path: Path) -> None:
    root = tree(
        {"x/a.png": photo(0), "x/a_crop.png": LEFT, "x/a_weed.png": TOP, "x/a_fov.png": ALL, "x/b.png": photo(1)}
    )
    masks = {"crop": "{set}/{name}_crop.png", "weed": "{set}/{name}_weed*.png"}
    data = described(root, masks, TWO, images="{set}/{name}.png", outside="{set}/{name}_fov.png")
    dataset, _, problems = made(data, tmp_path / "out")
    assert (problems, [*dataset.records]) == ([], ["x/a", "x/b"])


def test_a_name_in_another_unicode_form_or_with_a_star_is_the_same_name(tree: Tree, tmp_path: Path) -> None:
    root = tree({"images/f\u00fcr.png": photo(0), "images/1*.png": photo(1), "images/12.png": photo(2)})
    for name in ("fu\u0308r", "1*"):
        Image.fromarray(LEFT).save(root / f"{name}_crop.png")
        Image.fromarray(TOP).save(root / f"{name}_weed.png")
    masks = {"crop": "{name}_crop.png", "weed": "{name}_weed*.png"}
    assert [*masks_of(described(root, masks, TWO), tmp_path / "out")] == ["1*", "f\u00fcr"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another size": ({"masks/a_crop.png": LEFT[:-1]}, "a_crop.png: 24 x 17 pixels, but its image has 24 x 18"),
    "a damaged file": ({"masks/a_crop.png": encoded([LEFT], "png")[:-20]}, "a_crop.png: cannot be read: damaged"),
    "colours": (
        {"masks/a_crop.png": np.stack([LEFT, TOP, TOP], -1)},
        "a_crop.png: holds 4 colours, but a mask file of",
    ),
    "a photo": ({"masks/a_crop.png": photo(5)}, "a_crop.png: holds 432 colours"),
    "lossy compression of many values": (
        {"masks/a_crop.png": encoded([np.arange(H * W, dtype=np.uint32).reshape(H, W).astype(np.uint8)], "jpg")},
        "stored as JPEG, and most values are neither almost 0 nor 255",
    ),
    "an animation": ({"masks/a_crop.png": encoded([LEFT, TOP], "gif")}, "contains several pictures (an animation)"),
    "a file of two classes": ({"masks/a_crop.png": LEFT}, "a_crop.png: fits the patterns of crop and of weed"),
    "pages of other sizes": ({"masks/a_crop.png": encoded([LEFT, LEFT[:9]], "tif")}, "a_crop.png: 24 x 9 pixels"),
    "transparent pixels": (
        {"masks/a_crop.png": np.stack([LEFT, LEFT, LEFT, LEFT], -1)},
        "pixels are transparent",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mask_file_that_is_wrong_is_named_with_the_remedy(case: str, tree: Tree, tmp_path: Path) -> None:
    files, said = BAD[case]
    whole = {"images/a.png": photo(0), "images/b.png": photo(1), "masks/b_crop.png": LEFT, "masks/b_weed.png": TOP}
    masks = OF_TWO | ({"weed": "masks/{name}_*.png"} if case == "a file of two classes" else {})
    _, _, problems = made(described(tree(whole | files), masks, TWO), tmp_path / "out")
    assert any(said in problem for problem in problems), problems
    assert all("\n" not in problem for problem in problems)


PALETTES = {
    "black and a colour": ((0, 0, 0, 200, 0, 0), LEFT // 255, LEFT),
    "greys in another order": ((255, 255, 255, 0, 0, 0), LEFT // 255, 255 - LEFT),
    "one grey alone": ((255, 255, 255), LEFT * 0, ALL),
    "colours without black": ((9, 9, 9, 90, 0, 0), LEFT // 255, None),
    "black as another value": ((0, 90, 0, 0, 0, 0), LEFT // 255, None),
    "nothing but black": ((0, 0, 0, 0, 0, 0), LEFT // 255, None),
}


@pytest.mark.parametrize("name", PALETTES)
def test_a_palette_counts_as_it_looks_or_is_refused_where_value_and_colour_disagree(name: str, tmp_path: Path) -> None:
    colours, indices, expected = PALETTES[name]
    image = Image.fromarray(indices)
    image.putpalette(colours)
    image.save(tmp_path / "m.png")
    if expected is None:
        with pytest.raises(StppError, match=r"m\.png: its palette shows 0 as #.*; save it as grey, with 0 outside"):
            [*read_layers(tmp_path / "m.png")]
    else:
        ((layer, _),) = read_layers(tmp_path / "m.png")
        np.testing.assert_array_equal(layer, expected > 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate"])
def test_no_page_of_a_cut_tiff_is_lost_in_silence(compression: str, tmp_path: Path) -> None:
    out = io.BytesIO()
    first, *others = (Image.fromarray(filled((at, 0, W, H))) for at in range(3))
    first.save(out, format="TIFF", save_all=True, append_images=others, compression=compression)
    whole = out.getvalue()
    path = tmp_path / "m.tif"
    path.write_bytes(whole)
    assert [int(layer.sum()) for layer, _ in read_layers(path)] == [H * (W - at) for at in range(3)]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        try:
            found = [int(layer.sum()) for layer, _ in read_layers(path)]
        except StppError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            assert found == [H * (W - at) for at in range(3)], size


def test_a_field_of_view_cuts_plain_masks_and_a_missing_one_is_a_problem(tree: Tree, tmp_path: Path) -> None:
    files = {f"images/{name}.png": photo(at) for at, name in enumerate("abcd")}
    files |= {f"masks/{name}.png": LEFT for name in "abc"} | {f"fov/{name}.png": TOP for name in "abd"}
    root = tree(files)
    data = described(root, "masks/{name}.png", CLASSES[:2], values={"255": 1}, ignore=None, outside="fov/{name}.png")
    _, _, problems = made(data, tmp_path / "out1")
    assert problems == [
        f"{root}: data.outside: fov/{{name}}.png: 1 image(s) with a mask have no such file, such as images/c.png"
    ]
    Image.fromarray(TOP).save(root / "fov/c.png")
    dataset, said, problems = made(data, tmp_path / "out2")
    assert problems == []
    assert said == ["1 file(s) of data.outside are of images without a mask, and not used, such as fov/d.png"]
    expected = np.where(TOP > 0, LEFT // 255, 255)
    for mask in masks_of(data, tmp_path / "out3").values():
        np.testing.assert_array_equal(mask, expected)
    assert {record.mask for record in dataset.records.values()} == {*(f"masks/{name}.png" for name in "abc"), ""}
    for path in (root / "fov").iterdir():
        Image.fromarray(filled((8, 0, W, H))).save(path)
    _, _, problems = made(data, tmp_path / "out4")
    (said_of_class,) = problems
    assert said_of_class.startswith("class crop (1) has no pixel in any mask")


def test_a_field_of_view_cuts_masks_from_annotation_files(tree: Tree, tmp_path: Path) -> None:
    root = tree({"images/a.png": photo(0), "labels/a.txt": "0 0 0 1 0 1 1 0 1\n", "fov/a.gif": encoded([TOP], "gif")})
    annotations = {"format": "yolo", "file": "labels/{name}.txt", "labels": {"0": "crop"}}
    data = described(root, None, ("crop",), annotations=annotations, outside="fov/{name}.gif")
    (mask,) = masks_of(data, tmp_path / "out").values()
    np.testing.assert_array_equal(mask, np.where(TOP > 0, 0, 255))


@pytest.mark.parametrize("of", ["mask files", "annotations"])
def test_the_classes_may_come_from_a_file_with_colours(of: str, tree: Tree, tmp_path: Path) -> None:
    named = "background:0,0,0::\ncrop:200,0,0::\nvoid:9,9,9::\n"
    root = tree(
        {"images/a.png": photo(0), "labelmap.txt": named, "a_crop.png": LEFT, "a.txt": "0 0 0 0.5 0 0.5 1 0 1\n"}
    )
    about: dict[str, Any] = {"name": "mine", "kind": "folder", "root": str(root), "images": "images/{name}.png"}
    annotations = {"format": "yolo", "file": "{name}.txt", "labels": {"0": "crop"}}
    about |= {"masks": {"crop": "{name}_crop.png"}} if of == "mask files" else {"annotations": annotations}
    dataset, _, problems = made(Data(classes="labelmap.txt", **about), tmp_path / "out")
    assert problems == []
    assert (dataset.classes, dataset.palette[1]) == (("background", "crop"), (200, 0, 0))
    assert dataset.records["a"].classes == (0, 1)


def test_a_mask_that_a_list_names_is_not_used_and_said(tree: Tree, tmp_path: Path) -> None:
    files = {"images/a.png": photo(0), "masks/a_crop.png": LEFT, "masks/a_weed.png": TOP}
    data = described(tree(files | {"list.txt": "images/a.png masks/a_crop.png\n"}), OF_TWO, TWO, list="list.txt")
    dataset, said, problems = made(data, tmp_path / "out")
    assert (problems, dataset.records["a"].classes) == ([], (0, 1))
    assert "the mask in data.list is not used: see data.masks: 1 image(s), such as a" in said


def two(tree: Tree) -> Path:
    return tree(
        {f"images/{at}.png": photo(at) for at in range(9)}
        | {f"masks/{at}_crop.png": filled((at, 0, 12, H)) for at in range(9)}
        | {f"masks/{at}_weed{n}.png": filled((12 + n, n, W, H)) for at in range(9) for n in range(at % 3)}
    )


def test_equal_files_give_equal_bytes_and_the_digest_follows_the_pixels(tree: Tree, tmp_path: Path) -> None:
    data = described(two(tree), OF_TWO, TWO)
    shots = []
    for at, workers in enumerate([1, 4, 1]):
        if at == 2:
            Image.fromarray(filled((1, 1, 9, 9))).save(tmp_path / "root/masks/3_crop.png")
        dataset, _, _ = made(data, tmp_path / f"out{at}", workers)
        folder = tmp_path / f"out{at}"
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        shots.append((files, dataset.digest))
    assert shots[0] == shots[1]
    assert shots[0][1] != shots[2][1]


def test_the_audit_finds_a_mask_file_that_was_changed(tree: Tree, tmp_path: Path) -> None:
    root = two(tree)
    made(described(root, OF_TWO, TWO), tmp_path / "out")
    about, problems = examine.__wrapped__(tmp_path / "out", tmp_path, "root")
    assert problems == []
    assert "27 of 27 files have the manifest's sha256; 9 masks drawn from 18 objects in 18 files" in about
    Image.fromarray(ALL).save(root / "masks/5_weed1.png")
    (said,) = examine.__wrapped__(tmp_path / "out", tmp_path, "root")[1]
    assert said.startswith("root/masks/5_weed1.png: was changed")


def test_new_masks_are_refused_where_each_class_has_files(tmp_path: Path) -> None:
    with pytest.raises(StppError, match=r"data\.masks: an image has a mask file for each class; put the new files"):
        read_additions(tmp_path, described(tmp_path, OF_TWO, TWO), Dataset("", (), (), {}, {}), set())


def test_no_file_at_all_is_one_problem(tree: Tree, tmp_path: Path) -> None:
    _, _, problems = made(described(tree({"images/a.png": photo(0)}), OF_TWO, TWO), tmp_path / "out")
    assert problems == ["no image has a mask file with a pixel of a class; check data.masks"]
