"""Tests of layouts: built-in ones on trees as published, and others described by patterns or a list."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpp.data.mask_pixels import to_classes
from stpp.ingest.catalog import ImagePair, list_images
from stpp.ingest.colours import IGNORED, OKABE_ITO, background, class_palette
from stpp.ingest.known_layouts import Layout, layout, voc_palette
from stpp.params.data import Data
from stpp.store.files import StppError

FEW = settings(max_examples=25, deadline=None)


def described(root: Path, **kwargs: Any) -> Data:
    return Data(**({"name": "mine", "kind": "folder", "root": str(root), "classes": ("a", "b")} | kwargs))


def found(root: Path, **kwargs: Any) -> dict[str, ImagePair]:
    data = described(root, **kwargs)
    images, problems, _ = list_images(data, layout(data))
    assert problems == []
    return images


def problems_of(root: Path, **kwargs: Any) -> list[str]:
    data = described(root, **kwargs)
    return list_images(data, layout(data))[1]


def passed_over(root: Path, **kwargs: Any) -> list[str]:
    data = described(root, **kwargs)
    return [line.removeprefix("skipped: ") for line in list_images(data, layout(data))[2]]


# -- Pascal -----------------------------------------------------------------------------------------------------------

VOC_COLOURS = {
    0: (0, 0, 0),
    1: (128, 0, 0),
    2: (0, 128, 0),
    3: (128, 128, 0),
    4: (0, 0, 128),
    5: (128, 0, 128),
    6: (0, 128, 128),
    7: (128, 128, 128),
    8: (64, 0, 0),
    9: (192, 0, 0),
    10: (64, 128, 0),
    11: (192, 128, 0),
    12: (64, 0, 128),
    13: (192, 0, 128),
    14: (64, 128, 128),
    15: (192, 128, 128),
    16: (0, 64, 0),
    17: (128, 64, 0),
    18: (0, 192, 0),
    19: (128, 192, 0),
    20: (0, 64, 128),
    255: (224, 224, 192),
}


def test_vocs_colours_are_the_published_ones() -> None:
    colours = voc_palette(256)
    assert {index: colours[index] for index in VOC_COLOURS} == VOC_COLOURS


@pytest.mark.parametrize("classes", [1, 21, 256])
def test_every_class_has_a_different_colour(classes: int) -> None:
    assert len(set(voc_palette(classes))) == classes


def least_difference(colours: np.ndarray) -> float:
    """Return the smallest distance of two colours in CIELAB. colours: RGB (n, 3), 0 to 255."""
    lab = cv2.cvtColor(np.float32(colours)[None] / 255, cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    return float(distances[np.triu_indices(len(lab), 1)].min())


@pytest.mark.parametrize("first", ["background", "sky"])
@pytest.mark.parametrize(("classes", "difference"), [(8, 26), (12, 26), (32, 26), (60, 25), (255, 13)])
def test_colours_of_own_classes_are_unlike_each_other_and_ignored_pixels(
    first: str, classes: int, difference: float
) -> None:
    colours = class_palette([first, *map(str, range(1, classes))])
    assert len(colours) == classes
    assert least_difference(np.array([*colours, IGNORED[0]])) > difference
    assert min(np.linalg.norm(np.subtract(one, IGNORED[1])) for one in colours) > 20


def test_the_first_colours_of_own_classes_differ_for_readers_with_deuteranopia() -> None:
    # Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
    seen = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]

    def simulated(colours: tuple[tuple[int, int, int], ...]) -> np.ndarray:
        return 255 * np.clip((np.array(colours) / 255) ** 2.2 @ np.transpose(seen), 0, 1) ** (1 / 2.2)

    classes = [f"class {i}" for i in range(8)]
    assert least_difference(simulated(class_palette(classes))) > 15 > least_difference(simulated(voc_palette(8)))


def test_own_classes_get_the_colours_of_okabe_and_ito_first_and_only_a_background_is_black() -> None:
    others = [f"class {i}" for i in range(9)]
    for name in ("background", "_background_", "Void"):
        assert background([name, *others]) == 0
        assert class_palette([name, *others])[:8] == OKABE_ITO
    assert background(others) is background([*others, "background"]) is background([]) is None
    assert class_palette(others)[:8] == (*OKABE_ITO[1:], OKABE_ITO[0])
    assert class_palette(others)[:3] == class_palette(others[:3])


def pascal(root: Path) -> Layout:
    return layout(Data(name="voc", kind="pascal", root=str(root)))


def test_images_and_masks_of_pascal_are_found_in_the_published_tree(tree: Any) -> None:
    root = tree(
        {
            "JPEGImages/2007_000027.jpg": b"",
            "JPEGImages/2007_000032.jpg": b"",
            "JPEGImages/2007_000033.jpg": b"",
            "SegmentationClass/2007_000032.png": b"",
            "SegmentationClass/2007_000033.png": b"",
            "SegmentationClassAug/2007_000027.png": b"",
            "SegmentationClassAug/2007_000032.png": b"",
            "SegmentationObject/2007_000032.png": b"",
            "Annotations/2007_000027.xml": b"",
            "ImageSets/Segmentation/train.txt": b"2007_000032",
        }
    )
    images = found(root, kind="pascal", classes=None)
    assert images == {
        "2007_000027": ImagePair("JPEGImages/2007_000027.jpg", "SegmentationClassAug/2007_000027.png"),
        "2007_000032": ImagePair("JPEGImages/2007_000032.jpg", "SegmentationClass/2007_000032.png"),
        "2007_000033": ImagePair("JPEGImages/2007_000033.jpg", "SegmentationClass/2007_000033.png"),
    }


def test_pascals_values_are_21_classes_and_a_border(tmp_path: Path) -> None:
    known = pascal(tmp_path)
    assert known.values == {**{i: i for i in range(21)}, 255: 255}
    assert (known.classes[0], known.classes[15], known.classes[20]) == ("background", "person", "tvmonitor")
    assert len(known.classes) == len(known.palette) == 21


# -- Cityscapes -------------------------------------------------------------------------------------------------------

# The published labels: id -> trainId. There are 34 ids; trainId 255 is ignored in training.
TRAIN_IDS = {
    0: 255,  # unlabeled
    1: 255,  # ego vehicle
    2: 255,  # rectification border
    3: 255,  # out of roi
    4: 255,  # static
    5: 255,  # dynamic
    6: 255,  # ground
    7: 0,  # road
    8: 1,  # sidewalk
    9: 255,  # parking
    10: 255,  # rail track
    11: 2,  # building
    12: 3,  # wall
    13: 4,  # fence
    14: 255,  # guard rail
    15: 255,  # bridge
    16: 255,  # tunnel
    17: 5,  # pole
    18: 255,  # polegroup
    19: 6,  # traffic light
    20: 7,  # traffic sign
    21: 8,  # vegetation
    22: 9,  # terrain
    23: 10,  # sky
    24: 11,  # person
    25: 12,  # rider
    26: 13,  # car
    27: 14,  # truck
    28: 15,  # bus
    29: 255,  # caravan
    30: 255,  # trailer
    31: 16,  # train
    32: 17,  # motorcycle
    33: 18,  # bicycle
}
CITY = "aachen_000000_000019"


def cityscapes(root: Path) -> Layout:
    return layout(Data(name="city", kind="cityscapes", root=str(root)))


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_images_and_masks_of_cityscapes_are_found_in_the_published_tree(kind: str, tree: Any) -> None:
    mask = f"gtFine/train/aachen/{CITY}_gtFine_{kind}.png"
    root = tree(
        {
            f"leftImg8bit/train/aachen/{CITY}_leftImg8bit.png": b"",
            "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png": b"",
            mask: b"",
            f"gtFine/train/aachen/{CITY}_gtFine_instanceIds.png": b"",
            f"gtFine/train/aachen/{CITY}_gtFine_color.png": b"",
            f"gtFine/train/aachen/{CITY}_gtFine_polygons.json": b"",
        }
    )
    assert found(root, kind="cityscapes", classes=None) == {
        "test/berlin/berlin_000000_000019": ImagePair(
            "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png", ""
        ),
        f"train/aachen/{CITY}": ImagePair(f"leftImg8bit/train/aachen/{CITY}_leftImg8bit.png", mask),
    }


def test_cityscapes_label_ids_become_the_published_train_ids(tree: Any) -> None:
    root = tree(
        {
            f"gtFine/train/aachen/{CITY}_gtFine_labelIds.png": b"",
            f"gtFine/train/aachen/{CITY}_gtFine_labelTrainIds.png": b"",
        }
    )
    values = np.arange(34, dtype=np.int32)[None]
    assert to_classes(values, cityscapes(root).values).tolist() == [[TRAIN_IDS[v] for v in range(34)]]
    assert cityscapes(root).values.keys() == {*range(34), 255}
    assert cityscapes(root).values[255] == 255


def test_cityscapes_train_ids_are_class_ids(tree: Any) -> None:
    root = tree({f"gtFine/train/aachen/{CITY}_gtFine_labelTrainIds.png": b""})
    assert cityscapes(root).values == {**{i: i for i in range(19)}, 255: 255}


def test_cityscapes_classes_are_named_and_coloured_as_published(tmp_path: Path) -> None:
    known = cityscapes(tmp_path)
    assert len(known.classes) == len(set(known.palette)) == 19
    colours = dict(zip(known.classes, known.palette, strict=True))
    assert (known.classes[0], known.classes[10], known.classes[18]) == ("road", "sky", "bicycle")
    assert colours["road"] == (128, 64, 128)
    assert colours["car"] == (0, 0, 142)
    assert colours["bicycle"] == (119, 11, 32)


# -- toy --------------------------------------------------------------------------------------------------------------


def test_the_embedded_set_is_found(tree: Any) -> None:
    root = tree({"images/toy_00000.png": b"", "masks/toy_00000.png": b"", "images/.hidden.txt": b""})
    assert found(root, kind="toy", classes=None) == {
        "toy_00000": ImagePair("images/toy_00000.png", "masks/toy_00000.png")
    }


# -- patterns ---------------------------------------------------------------------------------------------------------

PARTS = st.text("abc-_.1", min_size=1, max_size=4).filter(lambda part: not part.startswith("."))


@FEW
@given(st.dictionaries(st.tuples(PARTS, PARTS), st.booleans(), min_size=1, max_size=6))
def test_two_placeholders_find_every_image_and_its_mask_and_nothing_else(files: dict[tuple[str, str], bool]) -> None:
    with TemporaryDirectory() as folder:
        for (set_, name), masked in files.items():
            made = [f"{set_}/photo/{name}.jpg", f"{set_}/photo/{name}.jpeg", f"{set_}/photo/deep/{name}.jpg"]
            for path in [*made, *([f"masks-{set_}/{name}.png"] if masked else [])]:
                Path(folder, path).parent.mkdir(parents=True, exist_ok=True)
                Path(folder, path).touch()
        images = found(Path(folder), images="{set}/photo/{name}.jpg", masks="masks-{set}/{name}.png")
    assert list(images) == sorted(f"{set_}/{name}" for set_, name in files)
    for (set_, name), masked in files.items():
        mask = f"masks-{set_}/{name}.png" if masked else ""
        assert images[f"{set_}/{name}"] == ImagePair(f"{set_}/photo/{name}.jpg", mask)


def test_a_mask_that_matches_the_pattern_of_images_too_is_not_an_image(tree: Any) -> None:
    root = tree({"train/1.png": b"", "trainannot/1.png": b"", "test/2.png": b""})
    assert found(root, images="{set}/{name}.png", masks="{set}annot/{name}.png") == {
        "test/2": ImagePair("test/2.png", ""),
        "train/1": ImagePair("train/1.png", "trainannot/1.png"),
    }


def test_an_extension_may_vary_and_is_not_part_of_the_id(tree: Any) -> None:
    root = tree({"i/a.jpg": b"", "i/b.JPG": b"", "i/c.png": b"", "m/a.png": b"", "m/c.png": b""})
    assert found(root, images="i/{name}.{ext}", masks="m/{name}.png") == {
        "a": ImagePair("i/a.jpg", "m/a.png"),
        "b": ImagePair("i/b.JPG", ""),
        "c": ImagePair("i/c.png", "m/c.png"),
    }


@pytest.mark.parametrize("other", ["i/classes.txt", "i/a.csv", "i/noending", "i/x.jpg.bak"])
def test_a_varying_extension_is_one_of_an_image(tree: Any, other: str) -> None:
    root = tree({"i/a.jpg": b"", "i/b.HEIC": b"", other: b""})
    assert set(found(root, images="i/{name}.{ext}")) == {"a", "b"}
    assert "1 file(s) without the extension of an image" in passed_over(root, images="i/{name}.{ext}")[0]


ENDINGS = {f"images/{n}.{kind}": b"" for n, kind in zip("abcdefgh", ["jpg", "JPG", "png", "Jpg"] * 2, strict=True)}


def test_extensions_match_in_any_case_and_files_with_other_extensions_are_reported(tree: Any) -> None:
    root = tree(ENDINGS | {"masks/a.PNG": b"", "masks/b.png": b"", "masks/d.Png": b""})
    kwargs = {"images": "images/{name}.jpg", "masks": "masks/{name}.png"}
    assert found(root, **kwargs) == {
        "a": ImagePair("images/a.jpg", "masks/a.PNG"),
        "b": ImagePair("images/b.JPG", "masks/b.png"),
        "d": ImagePair("images/d.Jpg", "masks/d.Png"),
        "e": ImagePair("images/e.jpg", ""),
        "f": ImagePair("images/f.JPG", ""),
        "h": ImagePair("images/h.Jpg", ""),
    }
    (said,) = passed_over(root, **kwargs)
    assert said == (
        "2 file(s) in images/ match no pattern, such as c.png, g.png; did you mean data.images: images/{name}.{ext}?"
    )


def test_two_files_whose_extensions_differ_only_in_case_have_the_same_id(tree: Any) -> None:
    root = tree({"i/a.jpg": b"", "i/a.JPG": b""})
    (problem,) = problems_of(root, images="i/{name}.jpg")
    assert "has the same id a as" in problem


@pytest.mark.parametrize("images", ["i/{name}.jpg", "{set}/{name}.{ext}"])
def test_masks_without_an_image_are_reported_and_never_used_as_images(images: str, tree: Any) -> None:
    root = tree({"i/a.jpg": b"", "i/b.jpg": b"", "m/a.png": b"", "m/x.png": b"", "m/y.PNG": b""})
    pictures = found(root, images=images, masks="m/{name}.png")
    assert {image.image for image in pictures.values()} == {"i/a.jpg", "i/b.jpg"}
    assert passed_over(root, images=images, masks="m/{name}.png") == [
        "2 file(s) in m/ are named like masks, but belong to no image, such as x.png, y.PNG"
    ]


def test_hidden_and_system_files_are_skipped_and_counted_in_one_line(tree: Any) -> None:
    left = [
        "i/._a.jpg",
        "i/.hidden.jpg",
        "i/Thumbs.db",
        "i/.DS_Store",
        "desktop.ini",
        ".trash/i.jpg",
        "__MACOSX/i/a.jpg",
    ]
    root = tree(dict.fromkeys(["i/a.jpg", *left], b""))
    assert list(found(root, images="i/{name}.jpg")) == ["a"]
    (said,) = passed_over(root, images="i/{name}.jpg")
    assert said.startswith("7 hidden file(s) or folder(s), or system files, such as ")
    assert list(found(root, images=".trash/{name}.jpg")) == ["i"], "a pattern that means it finds it"


def test_files_that_are_not_images_are_counted_by_extension(tree: Any) -> None:
    root = tree({"i/a.jpg": b"", "m/a.npy": b"", "m/b.NPY": b"", "notes": b"", "imported.json": b"[]", "l.txt": "a\n"})
    assert passed_over(root, images="i/{name}.jpg", list="l.txt") == [
        "3 file(s) without the extension of an image (2 .npy, 1 no ending)"
    ]


def test_the_number_of_messages_does_not_grow_with_the_number_of_folders(tree: Any) -> None:
    root = tree({f"{n:02}/x\x1b.png": b"" for n in range(40)} | {"i/a.jpg": b""})
    said = passed_over(root, images="i/{name}.jpg")
    assert len(said) == 11
    assert sum(int(line.split()[0]) for line in said) == 40
    assert all(line.isprintable() for line in said)


def test_a_built_in_layout_reports_only_images_that_it_does_not_match(tree: Any) -> None:
    root = tree(
        dict.fromkeys(["JPEGImages/a.jpg", "JPEGImages/b.png", "Annotations/a.xml", "SegmentationObject/a.png"], b"")
    )
    (said,) = passed_over(root, kind="pascal", classes=None)
    assert said.startswith("1 file(s) in JPEGImages/ match no pattern, such as b.png; did you mean")


def test_errors_name_a_broken_link_and_a_folder_that_cannot_be_read(tree: Any, monkeypatch: Any) -> None:
    root = tree({"i/a.jpg": b""})
    (root / "i/b.jpg").symlink_to(root / "gone.jpg")
    (problem,) = problems_of(root, images="i/{name}.jpg")
    assert problem.startswith(f"{root}/i/b.jpg: a broken link; ")
    scan = os.scandir

    def closed(path: Any) -> Any:
        if str(path).endswith("/i"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(StppError, match="/i: not readable: Permission denied"):
        found(root, images="i/{name}.jpg")


def test_a_list_may_not_name_files_behind_a_linked_folder(tree: Any, tmp_path: Path) -> None:
    (tmp_path / "disk/deep").mkdir(parents=True)
    (tmp_path / "disk/deep/x.jpg").touch()
    root = tree({"p/a.jpg": b"", "list.txt": "p/a.jpg\nphotos/deep/x.jpg\np/a.jpg photos/m.png\n"})
    (root / "photos").symlink_to(tmp_path / "disk")
    problems = problems_of(root, list="list.txt")
    assert [problem.split(";")[0] for problem in problems] == [
        f"{root}/photos: a symbolic link, which DVC does not follow"
    ] * 2


def test_a_repeated_placeholder_stands_for_the_same_part(tree: Any) -> None:
    root = tree({"x/x.jpg": b"", "x/y.jpg": b"", "z/z.jpg": b"", "m/z-z.png": b""})
    assert found(root, images="{name}/{name}.jpg", masks="m/{name}-{name}.png") == {
        "x": ImagePair("x/x.jpg", ""),
        "z": ImagePair("z/z.jpg", "m/z-z.png"),
    }


def test_all_other_characters_in_a_pattern_are_literal(tree: Any) -> None:
    root = tree({"a+(1)/x.jpg": b"", "aa1/x.jpg": b"", "a+(1)/yxjpg": b""})
    assert list(found(root, images="a+(1)/{name}.jpg")) == ["x"]


def test_a_linked_folder_is_refused_because_dvc_does_not_follow_it(tree: Any, tmp_path: Path) -> None:
    root = tree({"readme": b""})
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    (elsewhere / "x.jpg").touch()
    (root / "photos").symlink_to(elsewhere)
    with pytest.raises(StppError, match="photos: a symbolic link"):
        found(root, images="photos/{name}.jpg")


@pytest.mark.parametrize("masks", ["{name.png", "{}.png", "{name!q}.png", "{0}.png", "all.png"])
def test_the_error_explains_a_mask_pattern_without_a_valid_placeholder(masks: str, tree: Any) -> None:
    root = tree({"x.jpg": b"", "{x.png": b""})
    with pytest.raises(StppError, match=r"data\.masks: .*(matches only one file|is not a valid name|does not occur)"):
        found(root, images="{name}.jpg", masks=masks)


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ({"images": "a.jpg"}, r"data\.images: a\.jpg matches only one file"),
        ({"images": "../{name}.jpg"}, r"data\.images: \.\./\{name\}\.jpg points outside data\.root"),
        ({"images": "/abs/{name}.jpg"}, r"data\.images: .* points outside"),
        ({"images": "{name}.jpg", "masks": "../m/{name}.png"}, r"data\.masks: \.\./m/\{name\}\.png points outside"),
        ({"images": "{name}.jpg", "masks": "/m/{name}.png"}, r"data\.masks: .* points outside"),
        ({"images": "{name}.jpg", "masks": "{nmae}.png"}, r"data\.masks: \{nmae\} does not occur"),
    ],
)
def test_the_error_explains_an_invalid_pattern(patterns: dict[str, str], said: str, tree: Any) -> None:
    root = tree({"x.jpg": b"", "../m/x.png": b""})
    with pytest.raises(StppError, match=said):
        found(root, **patterns)


def test_the_error_names_a_root_that_is_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StppError, match=rf"data\.root: {tmp_path}/absent is not a folder"):
        found(tmp_path / "absent", images="{name}.jpg")


@pytest.mark.parametrize("kwargs", [{"images": "photos/{name}.jpg"}, {"list": "list.txt"}])
def test_no_image_at_all_is_a_problem_that_names_root_and_pattern_or_list(kwargs: dict[str, str], tree: Any) -> None:
    root = tree({"x.jpg": b"", "list.txt": "\n \n"})
    (problem,) = problems_of(root, **kwargs)
    assert problem.startswith(f"{root}: no image found")
    assert next(iter(kwargs.values())) in problem


@pytest.mark.parametrize(
    "name", ["a ", " a", "\u00a0a", "a\n", "a\tb", "a\u2028b", "a\x85", "a\u202eb", "a\\b", "b\udcfc"]
)
def test_a_file_whose_name_cannot_be_an_id_is_named_and_the_others_are_found(name: str, tree: Any) -> None:
    root = tree({f"i/{name}.jpg": b"", "i/good.jpg": b""})
    data = described(root, images="i/{name}.jpg")
    images, problems, _ = list_images(data, layout(data))
    assert list(images) == ["good"]
    assert len(problems) == 1
    assert problems[0].startswith(f"{root}/i/{name}.jpg: ")


@pytest.mark.parametrize(
    "name",
    [
        "my photo",
        "a,b",
        'Foto 1 (Kopie), "a"',
        "日本 #2 100%",
        "it's",
        "=cmd|x",
        "[a]*?",
        "a\u202fb\u3000c",
        "👨\u200d👩",
    ],
)
def test_a_name_as_people_have_it_is_an_id(name: str, tree: Any) -> None:
    root = tree({f"i/{name}.jpg": b"", f"m/{name}.png": b"", "i/b.jpg": b"", "list.txt": f"{name}\n"})
    patterns = {"images": "i/{name}.{ext}", "masks": "m/{name}.png"}
    pair = ImagePair(f"i/{name}.jpg", f"m/{name}.png")
    assert found(root, **patterns) == {name: pair, "b": ImagePair("i/b.jpg", "")}
    assert list(found(root, **patterns)) == sorted([name, "b"])
    for line in (name, f" {name} ", pair.image, f"{pair.image}\t{pair.mask}", f"{pair.image} {pair.mask}"):
        (root / "list.txt").write_text(f"{line}\n")
        assert found(root, **patterns, list="list.txt") == {name: pair}
        if "/" in line:
            own = "" if line == pair.image else pair.mask
            assert found(root, list="list.txt") == {f"i/{name}": ImagePair(pair.image, own)}


def test_a_mask_in_another_unicode_form_belongs_to_its_image(tree: Any) -> None:
    composed, decomposed = "\u00fc", "u\u0308"
    root = tree({f"i/{composed}.jpg": b"", f"m/{decomposed}.png": b"", "i/o\u0308.jpg": b"", "m/\u00f6.png": b""})
    assert found(root, images="i/{name}.jpg", masks="m/{name}.png") == {
        composed: ImagePair(f"i/{composed}.jpg", f"m/{decomposed}.png"),
        "o\u0308": ImagePair("i/o\u0308.jpg", "m/\u00f6.png"),
    }
    assert passed_over(root, images="i/{name}.jpg", masks="m/{name}.png") == []
    (root / "list.txt").write_text(f"{decomposed}\n")
    assert list(found(root, images="i/{name}.jpg", list="list.txt")) == [composed]
    said = passed_over(root, images="i/{name}.jpg", masks="m/{name}.png", list="list.txt")
    assert any("1 name(s) differ from the data set's in their Unicode form, such as in line 1" in line for line in said)


def test_ids_that_differ_in_their_unicode_form_alone_are_a_problem(tree: Any) -> None:
    root = tree({"i/\u00fc.jpg": b"", "i/u\u0308.jpg": b"", "i/u.jpg": b""})
    (problem,) = problems_of(root, images="i/{name}.jpg")
    assert "has the same id as" in problem and "in another Unicode form; rename one" in problem


# -- data.exclude -----------------------------------------------------------------------------------------------------


def test_excluded_images_are_left_out_counted_and_named(tree: Any) -> None:
    files = [
        "i/a/1.jpg",
        "i/a/2.jpg",
        "i/a/2.png",
        "i/b/[x] 1.jpg",
        "i/b/bad .jpg",
        "i/b/u\u0308.jpg",
        "i/b/5.jpg",
        "m/a/1.png",
    ]
    root = tree(dict.fromkeys(files, b"") | {"bad.txt": "a/1\n\n i/a/2.png\nb/[x] 1\nb/bad \ni/b/bad .jpg\nnobody\n"})
    patterns = {"images": "i/{set}/{name}.{ext}", "masks": "m/{set}/{name}.png"}
    by_list = found(root, **patterns, exclude="bad.txt")
    assert list(by_list) == ["a/2", "b/5", "b/u\u0308"]
    assert "data.exclude: bad.txt: 4 image(s) are left out, such as `a/1`, `a/2`, `b/[x] 1`" in said_of(root, "bad.txt")
    assert "data.exclude: bad.txt: 2 of 6 name(s) or pattern(s) match no image, such as `b/bad`, `nobody`" in said_of(
        root, "bad.txt"
    )
    names = ("a/1", "*.png", "b/[[]x*", "*/bad *", "b/\u00fc", "B/*")
    assert found(root, **patterns, exclude=names).keys() == {"a/2", "b/5"}
    (root / "bad.txt").unlink()
    assert said_of(root, names)[-1].endswith("1 of 6 name(s) or pattern(s) match no image, such as `B/*`")
    assert problems_of(root, **patterns, exclude=("*",)) == [
        f"{root}: all images are left out by data.exclude; compare it with the file names there"
    ]


def said_of(root: Path, exclude: str | tuple[str, ...]) -> list[str]:
    """Return the notes on excluded images; files passed over are not among them."""
    data = described(root, images="i/{set}/{name}.{ext}", masks="m/{set}/{name}.png", exclude=exclude)
    notes = list_images(data, layout(data))[2]
    assert all(note.startswith("data.exclude: ") for note in notes), "the mask of an excluded image is no orphan"
    return notes


@pytest.mark.parametrize("name", ["absent.txt", "../list.txt"])
def test_the_error_names_a_list_of_excluded_images_that_cannot_be_read(name: str, tree: Any) -> None:
    root = tree({"a.jpg": b"", "../list.txt": "a"})
    with pytest.raises(StppError, match=r"data\.exclude: .*" + name.strip("./").replace(".", r"\.")):
        found(root, images="{name}.jpg", exclude=name)


def test_two_files_with_the_same_id_are_both_named(tree: Any) -> None:
    root = tree({"i/a.jpg": b"", "i/a.png": b"", "i/b.png": b""})
    (problem,) = problems_of(root, images="i/{name}.{ext}")
    assert f"{root}/i/a.jpg" in problem
    assert f"{root}/i/a.png" in problem


# -- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_line_of_a_list_has_an_image_and_optionally_its_mask(start: str, tree: Any) -> None:
    root = tree({"list.txt": f"{start}p/a.jpg m/a.png\n\n  p/b.c.jpg\np/ü.jpg\tm/1.png\n"})
    assert found(root, list="list.txt") == {
        "p/a": ImagePair("p/a.jpg", "m/a.png"),
        "p/b.c": ImagePair("p/b.c.jpg", ""),
        "p/ü": ImagePair("p/ü.jpg", "m/1.png"),
    }


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("p/a.png", "{root}/p/a.png: has the same id p/a as {root}/p/a.jpg"),
        ("p/a.jpg", "{root}/p/a.jpg: listed twice in list.txt"),
    ],
)
def test_an_image_listed_twice_is_a_problem(second: str, said: str, tree: Any) -> None:
    root = tree({"list.txt": f"p/a.jpg\n{second}\n"})
    (problem,) = problems_of(root, list="list.txt")
    assert said.format(root=root) in problem


def test_with_patterns_a_list_selects_images_by_id_or_path(tree: Any) -> None:
    files = [f"{part}/{n}.{kind}" for n in "abc" for part, kind in (("photos", "jpg"), ("masks", "png"))]
    lines = "a\nphotos/b.jpg\nc other/c.png\n"
    root = tree(dict.fromkeys(files, b"") | {"photos/d.jpg": b"", "list.txt": lines})
    kwargs = {"images": "photos/{name}.jpg", "masks": "masks/{name}.png", "list": "list.txt"}
    assert found(root, **kwargs) == {
        "a": ImagePair("photos/a.jpg", "masks/a.png"),
        "b": ImagePair("photos/b.jpg", "masks/b.png"),
        "c": ImagePair("photos/c.jpg", "other/c.png"),
    }
    (root / "list.txt").write_text(lines + "nobody\nphotos/z.jpg\n")
    assert [p.split(":")[1] for p in problems_of(root, **kwargs)] == ["4", "5"]


def test_every_wrong_line_of_a_list_is_reported_and_the_others_are_found(tree: Any) -> None:
    root = tree({"list.txt": "p/good.jpg\na b c\n../x.jpg\n2007_000032\np/fine.jpg\n"})
    data = described(root, list="list.txt")
    images, problems, _ = list_images(data, layout(data))
    assert list(images) == ["p/fine", "p/good"]
    assert [p.split(": ")[0] for p in problems] == [f"{root}/list.txt:{n}" for n in (2, 3, 4)]


@pytest.mark.parametrize(
    "line", ["../a.jpg", "/etc/a.jpg", "p/../../a.jpg", "p/a.jpg ../m/a.png", "p/a.jpg /m/a.png", ".", "a b c"]
)
def test_a_line_that_leaves_the_root_or_has_too_many_names_is_refused_with_its_number(line: str, tree: Any) -> None:
    root = tree({"list.txt": f"p/good.jpg\n{line}\n"})
    (problem,) = problems_of(root, list="list.txt")
    assert problem.startswith(f"{root}/list.txt:2: ")


@pytest.mark.parametrize("name", ["absent.txt", "folder", "../list.txt", "/list.txt", "latin.txt"])
def test_the_error_names_a_list_that_cannot_be_read(name: str, tree: Any) -> None:
    root = tree({"folder/x": b"", "latin.txt": "ü.jpg".encode("latin-1"), "../list.txt": "a.jpg"})
    with pytest.raises(StppError, match=r"data\.list: .*" + name.strip("./").replace(".", r"\.")):
        found(root, list=name)


# -- the meaning of mask values ---------------------------------------------------------------------------------------


def meaning(**kwargs: Any) -> dict[int, int]:
    return layout(described(Path(), images="{name}.jpg", **kwargs)).values


def test_by_default_values_are_class_ids_and_255_is_ignored() -> None:
    assert meaning(classes=("a", "b", "c")) == {0: 0, 1: 1, 2: 2, 255: 255}


def test_any_value_can_be_ignored() -> None:
    assert meaning(values={11: "ignore"}) == {0: 0, 1: 1, 11: 255, 255: 255}
    assert meaning(values={11: "ignore"}, ignore=None) == {0: 0, 1: 1, 11: 255}
    assert meaning(ignore=1000) == {0: 0, 1: 1, 1000: 255}


def test_binary_masks_of_0_and_255_have_two_classes_and_nothing_to_ignore() -> None:
    values = meaning(values={255: 1})
    assert values == {0: 0, 1: 1, 255: 1}
    assert to_classes(np.array([[0, 255]], dtype=np.int32), values).tolist() == [[0, 1]]


def test_a_value_can_be_mapped_to_another_class_or_ignored() -> None:
    assert meaning(values={0: "ignore", 1: 0, 2: 1}) == {0: 255, 1: 0, 2: 1, 255: 255}


@pytest.mark.parametrize("ignore", [0, 1])
def test_a_class_cannot_be_the_value_to_ignore(ignore: int) -> None:
    with pytest.raises(ValueError, match=rf"`ignore` {ignore} is also the id of class {'ab'[ignore]}"):
        meaning(ignore=ignore)


def test_the_palette_is_given_or_chosen_automatically() -> None:
    given_ = ((1, 2, 3), (4, 5, 6))
    assert layout(described(Path(), images="{name}.jpg", palette=given_)).palette == given_
    assert layout(described(Path(), images="{name}.jpg")).palette == class_palette("ab")
