"""Tests of `stpp init`: what it writes is what `prepare` and `split` find; it asks where it cannot know."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from small import BIN, Project
from small import ROOT as ROOT_OF_STPP

from stpp.ingest.discovery import discover
from stpp.ingest.folders import common_root
from stpp.ingest.mask_values import meaning
from stpp.params.file import load
from stpp.store.files import StppError

ROOT = "data/cars"
Layout = tuple[Callable[[int], str], Callable[[int], str], str]
"""The path of image i and of its mask below ROOT, and the arguments of the command."""


def endings(i: int) -> str:
    return ("jpg", "JPG", "png", "jpeg")[i % 4]


def ab(i: int) -> str:
    return "ab"[i % 2]


def third(i: int) -> str:
    return ("train", "train", "val")[i % 3]


LAYOUTS: dict[str, tuple[Callable[[int], str], Callable[[int], str], str]] = {
    "same name": (lambda i: f"photos/p{i}.jpg", lambda i: f"masks/p{i}.png", "photos|masks"),
    "suffix": (lambda i: f"photos/{i}.jpg", lambda i: f"masks/{i}_mask.png", "photos|masks"),
    "prefix": (lambda i: f"photos/{i:03}.jpg", lambda i: f"masks/mask-{i:03}.png", "photos|masks"),
    "both named": (lambda i: f"in/img_{i:03}.png", lambda i: f"out/gt_{i:03}.png", "in|out"),
    "sets before": (lambda i: f"{third(i)}/{i}.png", lambda i: f"gt_{third(i)}/{i}.png", ".|."),
    "both end": (lambda i: f"i/{i}_left.png", lambda i: f"m/{i}_fine_ids.png", "i|m"),
    "mixed endings": (lambda i: f"photos/{i}.{endings(i)}", lambda i: f"masks/{i}.PNG", "photos|masks"),
    "mirrored": (lambda i: f"photos/{ab(i)}/{i // 2}.jpg", lambda i: f"masks/{ab(i)}/{i // 2}.png", "photos|masks"),
    "flat masks": (lambda i: f"photos/{ab(i)}/{i}.jpg", lambda i: f"masks/{i}.png", "photos|masks"),
    "deep": (lambda i: f"p/{ab(i)}/x/{i}.jpg", lambda i: f"m/{ab(i)}/x/{i}.png", "p|m"),
    "beside": (lambda i: f"{i}.jpg", lambda i: f"{i}.png", ".|."),
    "beside with suffix": (lambda i: f"{i}.png", lambda i: f"{i}_L.png", ".|."),
    "below the photos": (lambda i: f"p/{i}.png", lambda i: f"p/masks/{i}.png", "p|p/masks"),
    "sets": (lambda i: f"{third(i)}/{i}.png", lambda i: f"{third(i)}annot/{i}.png", ".|."),
    "sets above": (lambda i: f"{third(i)}/images/{i}.png", lambda i: f"{third(i)}/labels/{i}.png", ".|."),
    "sets below": (lambda i: f"images/{third(i)}/{i}.jpg", lambda i: f"labels/{third(i)}/{i}.bmp", "images|labels"),
    "more": (lambda i: f"{'photos' if i % 2 else 'new'}/{i}.jpg", lambda i: f"masks/{i}.png", "photos|masks|new"),
    "more, named": (
        lambda i: f"{'old' if i % 2 else 'new'}/{i}.jpg",
        lambda i: f"old_masks/{i}.png",
        "old|old_masks|new",
    ),
    "odd names": (lambda i: f"pho tos/a.b-{i}é.jpg", lambda i: f"ma[s]ks*/a.b-{i}é(1).png", "pho tos|ma[s]ks*"),
}


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format={".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower()))


def photo(path: Path, seed: int) -> None:
    write(path, np.random.default_rng(seed).integers(0, 256, (20, 24, 3)).astype(np.uint8))


def mask(path: Path, values: Sequence[int] = (0, 255)) -> None:
    write(path, np.resize(np.array(values, np.uint8), (20, 24)))


def flat(folder: Path, images: int = 40, masks: int = 20, values: Sequence[int] = (0, 255)) -> None:
    for i in range(images):
        photo(folder / f"photos/{i}.jpg", i)
        if i < masks:
            mask(folder / f"masks/{i}.png", values)


def run(project: Project, *words: str, rc: int = 0) -> str:
    return project.run("stpp", "init", *words, "--force", rc=rc)


def agrees(project: Project, said: str) -> None:
    """Check that `prepare` and `split` succeed and find as many images as `init` printed."""
    images, masks = re.search(r"(\d+) images \(.*?\), (\d+) with a mask", said).groups()
    assert f": {images} images, {masks} with masks" in project.run("stpp", "prepare", "--out", "runs/data")
    split = project.run("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split")
    assert re.search(r"(?m)^split .*$", said)[0] in split


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prepare_and_split_find_what_init_printed(project: Project, layout: str) -> None:
    image_of, mask_of, words = LAYOUTS[layout]
    folder = project.folder / ROOT
    for i in range(36):
        photo(folder / image_of(i), i)
        if i % 2 or (third(i) == "val" and "more" not in layout):
            mask(folder / mask_of(i))
    given = [f"{ROOT}/{word}" for word in words.split("|")]
    said = run(project, *given[:2], *(["--unlabeled", given[2]] if given[2:] else []))
    assert "36 images" in said
    p = load([project.folder / "params.yaml"])
    assert p.data.classes == ("background", "foreground") and p.data.ignore is None
    assert p.split.val.ids == ("val/*" if layout.startswith("sets") else None)
    agrees(project, said)


@pytest.mark.parametrize("form", ["five bands", "arrays", "12 bits", "numbers", "pictures"])
def test_bands_range_and_no_data_are_proposed_so_that_prepare_reads_them(project: Project, form: str) -> None:
    folder, draw = project.folder / ROOT, np.random.default_rng(0)
    for i in range(12):
        pixels = draw.integers(0, 4096, (20, 24, 5)).astype(np.uint16)
        path = folder / f"photos/{i}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        if form == "five bands":
            pixels[:3] = 9999
            tifffile.imwrite(
                path, pixels, photometric="minisblack", planarconfig="contig", extratags=[(42113, 2, 5, "9999", True)]
            )
        elif form == "arrays":
            np.save(path.with_suffix(".npy"), pixels)
        elif form == "12 bits":
            Image.fromarray(pixels[..., 0]).save(path.with_suffix(".png"))
        elif form == "numbers":
            numbers = (pixels[..., :3] / 1000 - 2).astype(np.float32)
            tag = (42113, 2, 3, "nan", True)  # no number that data.nodata could be
            tifffile.imwrite(path, numbers, photometric="minisblack", planarconfig="contig", extratags=[tag])
        else:
            photo(path.with_suffix(".jpg"), i)
            np.save(folder / f"photos/{i}_depth.npy", pixels)  # beside pictures, an array is no image
        mask(folder / f"masks/{i}.png")
    said = run(project, f"{ROOT}/photos", f"{ROOT}/masks")
    data = load([project.folder / "params.yaml"]).data
    assert (data.bands, data.range, data.nodata) == {
        "five bands": ((1, 2, 3, 4, 5), "percentile", 9999),
        "arrays": ((1, 2, 3, 4, 5), "percentile", None),
        "12 bits": (None, "percentile", None),
        "numbers": ((1, 2, 3), "percentile", None),
        "pictures": (None, None, None),
    }[form]
    assert ("data.range" in said) == (form != "pictures")
    assert ("12 file(s) without the extension of an image (12 .npy)" in said) == (form == "pictures")
    agrees(project, said)


def test_arrays_may_lie_beside_masks_that_are_arrays(project: Project) -> None:
    folder, draw = project.folder / ROOT, np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(12):
        np.save(folder / f"{i}.npy", draw.integers(0, 4096, (20, 24, 5)).astype(np.uint16))
        np.save(folder / f"{i}_mask.npy", draw.integers(0, 2, (20, 24)).astype(np.uint8))
    said = run(project, ROOT, ROOT, "--classes", "a,b", "--ignore", "none")
    assert "12 images ({name}.npy), 12 with a mask ({name}_mask.npy)" in said
    agrees(project, said)


def test_check_prints_the_same_and_writes_nothing_and_changes_in_params_are_kept(project: Project) -> None:
    flat(project.folder / ROOT)
    file, words = project.folder / "params.yaml", ("stpp", "init", f"{ROOT}/photos", f"{ROOT}/masks")
    before = f"# mine\n{file.read_text()}\n# the end\n"
    file.write_text(before)
    shown = project.run(*words, "--check").splitlines()
    assert file.read_text() == before
    assert "not in git" in project.run(*words, rc=2)
    assert file.read_text() == before
    project.commit("-A")
    said = project.run(*words, "--name", "cars").splitlines()
    assert said[: len(shown) - 1] == shown[:-1] and "nothing was written" in shown[-1]
    text = file.read_text()
    assert text.startswith("# mine\n") and text.endswith("\n# the end\n")
    assert re.search(r"(?m)^  classes: \[background, foreground\] +# the masks hold only 0 and 255$", text)
    p, was = load([file]), load([project.folder / "params.yaml"])
    assert (p.split.name, p.split.val.count, p.split.test) == ("cars-16", 4, None)
    assert p.model_dump(exclude={"data", "split"}) == was.model_dump(exclude={"data", "split"})


def test_everything_left_out_is_counted_and_named(project: Project) -> None:
    folder = project.folder / ROOT
    flat(folder)
    for name in ("photos/Thumbs.db", "photos/.DS_Store", "masks/._1.png", "photos/notes.txt", "photos/deep/1.heic"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    mask(folder / "masks/none.png")
    said = run(project, f"{ROOT}/photos", f"{ROOT}/masks")
    for line in (
        "20 images without a mask, such as 20",
        "1 file(s) in masks/ are named like masks, but belong to no image, such as none.png",
        "1 file(s) in photos/deep/ match no pattern, such as 1.heic",
        "1 file(s) without the extension of an image (1 .txt)",
        "3 hidden file(s) or folder(s), or system files, such as masks/._1.png",
    ):
        assert line in said
    agrees(project, said)


@pytest.mark.parametrize(("labeled", "batch"), [(2, 2), (3, 4), (9, 4)])
def test_few_masks_are_enough(project: Project, labeled: int, batch: int) -> None:
    flat(project.folder / ROOT, images=12, masks=labeled)
    said = run(project, f"{ROOT}/photos", f"{ROOT}/masks")
    agrees(project, said)
    assert load([project.folder / "params.yaml"]).train.batch_size == batch


def test_every_class_is_labelled_even_if_one_mask_shows_it(project: Project) -> None:
    """Val takes two of the ten masks; the seed is one by which these show no class that only they show."""
    folder = project.folder / ROOT
    flat(folder, images=20, masks=10, values=(0, 1, 255))
    for i in range(5):
        mask(folder / f"masks/{i}.png", (0, 1, 2 + i))
    said = run(project, f"{ROOT}/photos", f"{ROOT}/masks")
    assert load([project.folder / "params.yaml"]).data.classes == tuple(f"class_{i}" for i in range(7))
    agrees(project, said)


def test_if_all_images_have_masks_a_part_counts_as_unlabelled(project: Project) -> None:
    flat(project.folder / ROOT, images=80, masks=80)
    said = run(project, f"{ROOT}/photos", f"{ROOT}/masks")
    assert "split cars-12: 36 unlabeled, 12 labeled, 16 val, 16 test" in said
    agrees(project, said)


def test_nothing_is_left_of_the_former_data_set(project: Project) -> None:
    text = (ROOT_OF_STPP / "pipelines/presets/camvid.yaml").read_text()
    file = project.folder / "params.yaml"
    file.write_text(text.replace("ignore: null", "ignore: null\n  list: all.txt"))
    flat(project.folder / ROOT, values=(0, 1))
    agrees(project, run(project, f"{ROOT}/photos", f"{ROOT}/masks"))
    p = load([file])
    assert (p.data.list, p.data.palette, p.data.values) == (None, None, None)
    assert "the rest of them" not in file.read_text()
    top = file.read_text().partition("\ndata:")[0]
    assert top.startswith("# yaml-language-server: ") and f"# ST++ on {p.data.name}. `stpp init`" in top
    assert "CamVid" not in file.read_text()


# -- mask values ------------------------------------------------------------------------------------------------------

NAMED = {Path("classes.txt"): {0: "sky", 1: "road", 2: "Void"}}
KNOWN: list[
    tuple[Sequence[int], bool, Mapping[Path, dict[int, str]], dict[str, str], list[str], object, int | None]
] = [
    ([0, 1], True, {}, {}, ["class_0", "class_1"], None, None),
    ([0, 255], False, {}, {}, ["background", "foreground"], {255: 1}, None),
    ([0, 1, 2, 255], False, {}, {}, ["class_0", "class_1", "class_2"], None, 255),
    ([1, 2, 255], True, {}, {}, ["class_1", "class_2"], {1: 0, 2: 1}, 255),
    ([0, 1, 2], False, {}, {"ignore": "2"}, ["class_0", "class_1"], None, 2),
    ([0, 1, 2], False, {}, {"ignore": "0"}, ["class_1", "class_2"], {1: 0, 2: 1, 0: "ignore"}, None),
    ([0, 1, 2, 255], False, {}, {"ignore": "2, 255"}, ["class_0", "class_1"], {2: "ignore"}, 255),
    ([0, 1, 2], False, {}, {"classes": "a, b, c"}, ["a", "b", "c"], None, None),
    ([0, 128, 255], False, {}, {"classes": "a,b,c"}, ["a", "b", "c"], {128: 1, 255: 2, 1: "ignore", 2: "ignore"}, None),
    ([0, 128, 255], True, {}, {"ignore": "none"}, ["class_0", "class_128", "class_255"], {128: 1, 255: 2}, None),
    ([0, 2], False, {}, {"classes": "a,b,c"}, ["a", "b", "c"], None, None),
    ([0, 1, 2], False, NAMED, {}, ["sky", "road"], None, 2),
    ([0, 2, 255], False, {Path("f"): {0: "a", 1: "b", 2: "c"}}, {}, ["a", "b", "c"], None, 255),
    ([0, 2, 255], True, {Path("f"): {0: "a", 1: "b", 2: "c"}}, {}, ["a", "c"], {2: 1}, 255),
    ([0, 1, 3, 255], False, NAMED, {"classes": "a,b,c", "ignore": "255"}, ["a", "b", "c"], {3: 2, 2: "ignore"}, 255),
]


@pytest.mark.parametrize(("seen", "all_read", "files", "answers", "classes", "values", "ignore"), KNOWN)
def test_the_meaning_of_mask_values(
    seen: Sequence[int], all_read: bool, files: object, answers: object, classes: object, values: object, ignore: object
) -> None:
    means = meaning({*seen}, all_read, files, **answers)
    assert (means.classes, means.values, means.ignore) == (classes, values, ignore)


@pytest.mark.parametrize(
    ("seen", "files", "answers", "said"),
    [
        (range(12), {}, {}, "hold the values 0-11; which of them are no class (or none)?\nanswer with --ignore 11"),
        ([0, 128, 255], {}, {}, "--ignore 255, or --ignore none"),
        ([0, 5, 9], {}, {"ignore": "none"}, "how are these 3 classes called?\nanswer with --classes"),
        ([0, 1], {Path("a"): {0: "x", 1: "y"}, Path("b"): {0: "y", 1: "x"}}, {}, "a, b name the classes differently"),
        ([0], {}, {}, "show 1 class (value 0); if others do"),
        ([0, 1, 2], {}, {"classes": "a,b", "ignore": "none"}, "--classes: 2 names for 3 mask values: 0-2"),
        ([0, 1], {}, {"classes": "a,a"}, "class name 'a': empty or used twice"),
        ([0, 1], {}, {"ignore": "-1"}, "--ignore -1: give mask values"),
        (range(300), {}, {"ignore": "none"}, "ids of instances, or soft edges?"),
    ],
)
def test_values_with_several_meanings_are_a_question(
    seen: Sequence[int], files: object, answers: object, said: str
) -> None:
    with pytest.raises(StppError, match=re.escape(said)):
        meaning({*seen}, False, files, **answers)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:0,0,0::\nroad:1,2,3::\n"),
        ("classes.txt", "sky\r\nroad\r\n"),
        ("class_dict.csv", "name,r,g,b\nsky,0,0,0\nroad,1,2,3\n"),
        ("_classes.csv", "Pixel Value, Class\n1, road\n0, sky\n"),
    ],
)
def test_class_names_are_read_from_a_file_beside_the_masks(project: Project, name: str, text: str) -> None:
    flat(project.folder / ROOT, values=(0, 1))
    (project.folder / ROOT / name).write_text(text)
    said = run(project, f"{ROOT}/photos", f"{ROOT}/masks")
    assert f'data.classes: ["sky", "road"]  # from {ROOT}/{name}' in said
    agrees(project, said)


@pytest.mark.parametrize("names", [None, "ground:0,0,0::\ncar:255,0,16::\nvan:255,0,17::\n"])
def test_colour_masks_are_described_by_their_colours(project: Project, names: str | None) -> None:
    folder = project.folder / ROOT
    flat(folder)
    colours = np.array([(255, 0, 16), (224, 224, 192), (0, 0, 0)], np.uint8)
    for i in range(20):
        write(folder / f"masks/{i}.png", np.resize(np.repeat(colours[: 1 + i % 3], 9, axis=0), (20, 24, 3)))
    if names:
        (folder / "labelmap.txt").write_text(names)
    said = run(project, f"{ROOT}/photos", f"{ROOT}/masks")
    assert "20 of 20 masks were read; they hold the values #000000, #e0e0c0, #ff0010" in said
    data = load([project.folder / "params.yaml"]).data
    classes = ("ground", "car") if names else ("class_1", "class_2")
    assert data.classes == classes
    meanings = classes if names else (0, 1)
    assert data.values == {"#000000": meanings[0], "#ff0010": meanings[1], "#e0e0c0": "ignore"}
    assert "van, which no mask shows" in said or not names
    agrees(project, said)
    agrees(project, run(project, f"{ROOT}/photos", f"{ROOT}/masks", "--classes", "a,b,c", "--ignore", "none"))


def test_jpeg_masks_of_two_classes_are_read_by_ranges(project: Project) -> None:
    folder = project.folder / ROOT
    for i in range(20):
        drawn = np.zeros((60, 80), np.uint8)
        drawn[10 : 30 + i, 20:50] = 255
        write(folder / f"photos/{i}.jpg", np.random.default_rng(i).integers(0, 256, (60, 80, 3)).astype(np.uint8))
        write(folder / f"masks/{i}.jpg", drawn)
        write(folder / f"ids/{i}.jpg", np.resize(np.repeat(np.arange(12, dtype=np.uint8), 300), (60, 80)))
    said = run(project, f"{ROOT}/photos", f"{ROOT}/masks")
    assert "they hold the values 0, 255 and, by lossy compression, values near them" in said
    data = load([project.folder / "params.yaml"]).data
    assert (data.values, data.classes) == ({"0-127": 0, "128-255": 1}, ("background", "foreground"))
    agrees(project, said)
    assert "lossless original" in run(project, f"{ROOT}/photos", f"{ROOT}/ids", rc=2), "class ids are lost in a JPEG"


def test_photos_and_jpegs_are_no_masks(project: Project) -> None:
    folder = project.folder / ROOT
    flat(folder)
    for i in range(20):
        photo(folder / f"jpeg/{i}.jpg", i)
        write(folder / f"png/{i}.png", np.random.default_rng(i).integers(0, 256, (40, 48, 3)).astype(np.uint8))
    said = run(project, f"{ROOT}/photos", f"{ROOT}/jpeg", rc=2)
    assert "20 of 20 masks that were read (of 20) cannot be used" in said and "stored as JPEG" in said
    assert "colours, like a photo; is it a mask?" in run(project, f"{ROOT}/photos", f"{ROOT}/png", rc=2)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_folders_that_cannot_be_a_data_set_are_refused(project: Project) -> None:
    folder = project.folder / ROOT
    flat(folder)
    for name in ("empty", "others"):
        (folder / name).mkdir()
    photo(folder / "others/x/1.jpg", 99)
    flat(project.folder / "data")
    (project.folder / "spaces").mkdir()
    before = (project.folder / "params.yaml").read_text()
    for words, said in (
        ("photos photos/1.jpg", f"{ROOT}/photos/1.jpg: is not a folder"),
        ("photos none", f"{ROOT}/none: no such folder"),
        ("photos empty", f"{ROOT}/empty: no mask in it"),
        ("empty masks", f"{ROOT}/empty: no image in it"),
        ("photos photos", f"{ROOT}/photos: no mask that holds class ids or a few colours is named like an image"),
        ("photos masks --unlabeled photos", "the same folder is given twice"),
        ("photos masks --unlabeled others", f"{ROOT}/others: no image is as many folders deep"),
        ("photos ../masks", "holds more than one data set"),
        ("../photos ../masks", f"{project.folder}/data holds more than one data set"),
        ("photos ../../spaces", "holds more than one data set"),
    ):
        given = [word if word.startswith("--") else f"{ROOT}/{word}" for word in words.split()]
        assert said in run(project, *given, rc=2), words
    assert "data.name" in run(project, f"{ROOT}/photos", f"{ROOT}/masks", "--name", "a/b", rc=2)
    (folder / "link").symlink_to("photos")
    assert "symbolic link" in run(project, f"{ROOT}/photos", f"{ROOT}/link", rc=2)
    assert (project.folder / "params.yaml").read_text() == before


@pytest.mark.parametrize("name", ["a\x1b[31mb", os.fsdecode(b"caf\xe9"), "{set}"])
def test_names_of_folders_that_params_cannot_hold_are_refused(project: Project, name: str) -> None:
    folder = project.folder / ROOT
    flat(folder)
    (folder / "photos").rename(folder / name)
    said = run(project, f"{ROOT}/{name}", f"{ROOT}/masks", rc=2)
    assert "rename the folder without" in said and "\x1b" not in said


@pytest.mark.parametrize("name", ["a ", "a\x1b[31mb", "a\\b"])
def test_names_that_cannot_be_ids_are_refused(project: Project, name: str) -> None:
    flat(project.folder / ROOT)
    photo(project.folder / ROOT / f"photos/{name}.jpg", 50)
    said = run(project, f"{ROOT}/photos", f"{ROOT}/masks", rc=2)
    assert "cannot be an id: rename it" in said and "\x1b" not in said


def test_images_of_two_folders_with_one_name_are_refused(project: Project) -> None:
    folder = project.folder / ROOT
    flat(folder)
    photo(folder / "new/3.jpg", 50)
    photo(folder / "new/44.jpg", 51)
    said = run(project, f"{ROOT}/photos", f"{ROOT}/masks", "--unlabeled", f"{ROOT}/new", rc=2)
    assert f"{ROOT}/new/3.jpg: named like an image with the mask masks/3.png" in said
    (folder / "new/3.jpg").unlink()
    photo(folder / "old/3.jpg", 50)
    said = run(project, f"{ROOT}/photos", f"{ROOT}/masks", "--unlabeled", f"{ROOT}/new", rc=2)
    assert f"{ROOT}/old/3.jpg: named like the images, but in another folder" in said


def test_several_patterns_are_a_question_that_an_option_answers(project: Project) -> None:
    folder = project.folder / ROOT
    flat(folder)
    for i in range(20):
        (folder / f"masks/{i}.png").rename(folder / f"masks/{i}_ids.png")
        mask(folder / f"masks/{i}_train.png", (0, 1))
        write(folder / f"masks/{i}_color.png", np.full((20, 24, 3), (0, 0, 9), np.uint8))
    words = (f"{ROOT}/photos", f"{ROOT}/masks")
    said = run(project, *words, rc=2)
    assert "masks/{name}_ids.png" in said and "masks/{name}_train.png" in said and "color" not in said
    assert "--pattern 'masks/{name}_" in said
    assert "which pattern do the masks have?" in run(project, *words, "--pattern", "x", rc=2)
    agrees(project, run(project, *words, "--pattern", "masks/{name}_train.png"))
    assert load([project.folder / "params.yaml"]).data.masks == "masks/{name}_train.png"


def test_a_pattern_by_which_most_masks_have_no_image_is_a_question(project: Project) -> None:
    folder = project.folder / ROOT
    flat(folder)
    for i in range(50):
        mask(folder / f"masks/{'abcdefghij'[i % 10]}{'klmno'[i // 10]}.png")
    words = (f"{ROOT}/photos", f"{ROOT}/masks")
    said = run(project, *words, rc=2)
    assert "20 of 70 masks belong to an image; is it masks/{name}.png?" in said
    agrees(project, run(project, *words, "--pattern", "masks/{name}.png"))


def test_the_naming_of_many_files_is_found_quickly(tmp_path: Path) -> None:
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    for i in range(10_000):
        (tmp_path / f"photos/{i}.jpg").touch()
        (tmp_path / f"masks/{i}_mask.png").touch()
    began = time.process_time()
    found = discover(common_root(tmp_path / "photos", tmp_path / "masks", None))
    assert (found.images, found.masks) == ("photos/{name}.jpg", "masks/{name}_mask.png")
    assert time.process_time() - began < 3  # it takes 0.3 s


def test_on_a_terminal_it_asks(project: Project) -> None:
    flat(project.folder / ROOT, values=(0, 1, 2))
    ours, theirs = os.openpty()
    words = (BIN / "stpp", "init", f"{ROOT}/photos", f"{ROOT}/masks", "--force")
    process = subprocess.Popen(words, cwd=project.folder, env=project.env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.write(ours, b"2\n")
    assert process.wait(60) == 0
    assert "which of them are no class (or none)?" in os.read(ours, 10_000).decode()
    os.close(ours)
    os.close(theirs)
    data = load([project.folder / "params.yaml"]).data
    assert (data.classes, data.ignore) == (("class_0", "class_1"), 2)
