"""Tests of the inspection of a data set: all problems are reported at once, and every image gets a record."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stpp.ingest.inspection import inspect
from stpp.params.data import Data
from stpp.store.manifest import Dataset

RNG = np.random.default_rng(0)


def photo(width: int = 8, height: int = 6) -> Any:
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


def mask(*values: int, width: int = 8, height: int = 6) -> Any:
    """Return a mask with these values and no others."""
    return np.resize(np.array(values, dtype=np.uint8), (height, width))


def described(root: Path, **kwargs: Any) -> Data:
    known = {"name": "mine", "kind": "folder", "root": str(root), "images": "i/{name}.png", "masks": "m/{name}.png"}
    return Data(**(known | {"classes": ("sky", "road", "tree")} | kwargs))


def inspected(root: Path, workers: int = 1, **kwargs: Any) -> tuple[Dataset, list[str], list[str]]:
    return inspect(described(root, **kwargs), workers)


@pytest.fixture
def sound(tree: Any) -> Path:
    """Return a data set of three images with masks of all classes, and one image without a mask."""
    files = {f"i/{name}.png": photo() for name in "abcu"}
    root: Path = tree({**files, "m/a.png": mask(0, 1), "m/b.png": mask(2, 255), "m/c.png": mask(255)})
    return root


def add_every_problem(root: Path) -> dict[str, str]:
    """Break a data set in every way at once. Return the start of each expected problem, and words in it."""
    Image.fromarray(photo(64, 64)).save(root / "i/cut.png")
    (root / "i/cut.png").write_bytes((root / "i/cut.png").read_bytes()[:3000])
    (root / "i/page.png").write_text("<html>404</html>")
    for name in ("size", "value", "colour", "cutmask"):
        Image.fromarray(photo()).save(root / f"i/{name}.png")
    Image.fromarray(mask(0, width=6, height=8)).save(root / "m/size.png")
    Image.fromarray(mask(0, 7)).save(root / "m/value.png")
    Image.fromarray(photo()).save(root / "m/colour.png")
    Image.fromarray(photo(64, 64)[:, :, 0]).save(root / "m/cutmask.png")
    (root / "m/cutmask.png").write_bytes((root / "m/cutmask.png").read_bytes()[:1000])
    (root / "i/twin.png").write_bytes((root / "i/a.png").read_bytes())
    Image.fromarray(photo()).save(root / "i/photo .png")
    return {
        "i/cut.png: ": "truncated",
        "i/page.png: ": "not an image",
        "m/size.png: ": "6 x 8 pixels, but its image has 8 x 6",
        "m/value.png: ": "value 7 (24 pixels) is not one of the 4 classes",
        "m/colour.png: ": "one channel of class ids",
        "m/cutmask.png: ": "truncated",
        "i/twin.png: ": "i/a.png; that one has a mask: remove one, or leave it out with data.exclude",
        "i/photo .png: ": "cannot be an id",
        "class car (3) ": "has no pixel",
    }


CLASSES = ("sky", "road", "tree", "car")


def test_every_problem_is_reported_at_once_each_naming_its_file(sound: Path) -> None:
    expected = add_every_problem(sound)
    _, _, problems = inspected(sound, classes=CLASSES)
    assert len(problems) == len(expected)
    for start, said in expected.items():
        place = start if start.startswith("class") else f"{sound}/{start}"
        assert [p for p in problems if p.startswith(place) and said in p], start


def test_every_problem_has_a_remedy(sound: Path) -> None:
    add_every_problem(sound)
    for problem in inspected(sound, classes=CLASSES)[2]:
        assert any(word in problem for word in ("remove", "replace", "rename", "make", "add it", "convert", "check"))


@pytest.mark.parametrize("broken", [False, True])
def test_the_number_of_workers_changes_nothing(broken: bool, sound: Path) -> None:
    if broken:
        add_every_problem(sound)
    results = [inspected(sound, workers, classes=CLASSES) for workers in (0, 1, 4)]
    assert results[0] == results[1] == results[2]
    assert list(results[0][0].records) == list(results[2][0].records)


def test_a_sound_data_set_has_no_problem_and_images_need_no_mask(sound: Path) -> None:
    dataset, warnings, problems = inspected(sound)
    assert (warnings, problems) == ([], [])
    assert list(dataset.records) == ["a", "b", "c", "u"]
    assert (dataset.records["u"].mask, dataset.records["u"].mask_sha256, dataset.records["u"].classes) == ("", "", ())


def test_the_record_of_an_image_has_its_size_classes_and_hashes(sound: Path) -> None:
    dataset, _, _ = inspected(sound)
    record = dataset.records["b"]
    assert (record.id, record.image, record.mask) == ("b", "i/b.png", "m/b.png")
    assert (record.width, record.height) == (8, 6)
    assert record.classes == (2,)
    assert dataset.records["a"].classes == (0, 1)
    assert dataset.records["c"].classes == ()
    assert record.image_sha256 == hashlib.sha256((sound / "i/b.png").read_bytes()).hexdigest()
    assert record.mask_sha256 == hashlib.sha256((sound / "m/b.png").read_bytes()).hexdigest()
    assert (dataset.name, dataset.classes, dataset.values) == (
        "mine",
        ("sky", "road", "tree"),
        {0: 0, 1: 1, 2: 2, 255: 255},
    )


def test_converted_images_give_one_warning_per_kind_and_no_problem(sound: Path) -> None:
    for name in ("g", "h"):
        Image.fromarray(photo()[:, :, 0]).save(sound / f"i/{name}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(8, 6)).save(sound / "i/turned.png", exif=exif)
    Image.fromarray(mask(1, width=6, height=8)).save(sound / "m/turned.png")
    dataset, warnings, problems = inspected(sound)
    assert problems == []
    assert (dataset.records["turned"].width, dataset.records["turned"].height) == (6, 8)
    assert len(warnings) == 2
    (grey,) = [w for w in warnings if "grey-scale" in w]
    assert grey.endswith("2 image(s), such as g")
    (turned,) = [w for w in warnings if "EXIF" in w]
    assert turned.endswith("1 image(s), such as turned")


def test_a_data_set_without_images_is_one_problem(tree: Any) -> None:
    root = tree({"other/a.png": photo()})
    dataset, warnings, problems = inspected(root)
    assert dataset.records == {}
    assert warnings == ["skipped: 1 file(s) in other/ match no pattern, such as a.png"]
    assert len(problems) == 1
    assert problems[0].startswith(f"{root}: no image found with the pattern i/{{name}}.png")


def test_a_data_set_without_any_mask_is_a_problem(tree: Any) -> None:
    (problem,) = inspected(tree({"i/a.png": photo()}))[2]
    assert problem.startswith("no image has a mask")
    assert "data.masks" in problem


def test_a_class_without_a_pixel_is_named(sound: Path) -> None:
    (sound / "m/b.png").unlink()
    assert [p.split(";")[0] for p in inspected(sound)[2]] == ["class tree (2) has no pixel in any mask"]


def test_the_same_image_under_three_names_is_two_problems(sound: Path) -> None:
    for name in ("x", "y"):
        (sound / f"i/{name}.png").write_bytes((sound / "i/a.png").read_bytes())
    problems = inspected(sound)[2]
    assert [p.split(": ")[0] for p in problems] == [f"{sound}/i/x.png", f"{sound}/i/y.png"]
    assert all(f"the same image as {sound}/i/a.png; that one has a mask: remove one" in p for p in problems)


def test_which_of_two_equal_images_has_the_mask_is_said_and_one_can_be_excluded(sound: Path) -> None:
    (sound / "i/a 2.png").write_bytes((sound / "i/a.png").read_bytes())
    (sound / "i/1.png").write_bytes((sound / "i/a.png").read_bytes())
    (sound / "m/1.png").write_bytes((sound / "m/a.png").read_bytes())
    assert [p.partition(": ")[2].partition(":")[0] for p in inspected(sound)[2]] == [
        f"the same image as {sound}/i/1.png; both have a mask",
        f"the same image as {sound}/i/1.png; that one has a mask",
    ]
    (sound / "m/1.png").unlink()
    assert [p.partition(": ")[2].partition(":")[0] for p in inspected(sound)[2]] == [
        f"the same image as {sound}/i/1.png; this one alone has a mask",
        f"the same image as {sound}/i/1.png; neither has a mask",
    ]
    dataset, warnings, problems = inspected(sound, exclude=("1", "a 2"))
    assert problems == [] and list(dataset.records) == ["a", "b", "c", "u"]
    assert "data.exclude: 2 image(s) are left out, such as `1`, `a 2`" in warnings


def test_equal_masks_are_no_problem(sound: Path) -> None:
    (sound / "m/u.png").write_bytes((sound / "m/a.png").read_bytes())
    assert inspected(sound)[2] == []


def test_a_listed_mask_that_is_missing_is_named(sound: Path) -> None:
    (sound / "list.txt").write_text("i/a.png m/a.png\ni/b.png m/b.png\ni/u.png m/u.png\n")
    (problem,) = inspected(sound, images=None, masks=None, list="list.txt")[2]
    assert problem.startswith(f"{sound}/m/u.png: no such file")


def test_an_unknown_mask_value_can_be_ignored_by_a_parameter(sound: Path) -> None:
    Image.fromarray(mask(0, 11)).save(sound / "m/u.png")
    (problem,) = inspected(sound)[2]
    assert "(`11: ignore`, or a class id)" in problem
    dataset, _, problems = inspected(sound, values={11: "ignore"})
    assert problems == []
    assert dataset.records["u"].classes == (0,)


# -- masks with misleading values or colours --------------------------------------------------------------------------

RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)


def coloured(path: Path, values: Any, *colours: tuple[int, int, int], **more: Any) -> None:
    image = Image.fromarray(values)
    image.putpalette([part for colour in colours for part in colour])
    image.save(path, **more)


def test_palettes_may_differ_in_unused_and_ignored_colours_and_may_be_grey(sound: Path) -> None:
    coloured(sound / "m/a.png", mask(0, 1), RED, GREEN, (1, 1, 1))
    coloured(sound / "m/b.png", mask(0, 255), RED, *[(9, 9, 9)] * 254, GREEN)
    coloured(sound / "m/c.png", mask(0, 1, 2), *[(v, v, v) for v in range(256)])
    coloured(sound / "m/u.png", mask(1, 2), (5, 5, 5), GREEN, BLUE)
    assert inspected(sound)[2] == []
    assert inspected(sound, palette=(RED, GREEN, BLUE))[2] == []


def test_a_palette_that_gives_a_value_another_color_than_an_earlier_mask_is_refused(
    sound: Path, tmp_path: Path
) -> None:
    """Tools that choose a new palette for every file write such masks."""
    coloured(sound / "m/a.png", mask(0, 1), RED, GREEN)
    coloured(sound / "m/b.png", mask(1, 2), (0, 0, 0), RED, BLUE)
    for memory in (None, tmp_path / "memory", tmp_path / "memory"):
        problems = inspect(described(sound), 1, memory)[2]
        assert len(problems) == 1
        assert problems[0].startswith(
            f"{sound}/m/b.png: its palette shows value 1 as #ff0000, but that of {sound}/m/a.png as "
        )


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palette_that_permutes_the_colours_of_the_classes_is_refused(suffix: str, sound: Path) -> None:
    for old in (sound / "m").iterdir():
        old.unlink()
    coloured(sound / f"m/a.{suffix}", mask(0, 1, 2), RED, BLUE, GREEN)
    kwargs = {"masks": f"m/{{name}}.{suffix}"}
    assert inspected(sound, **kwargs)[2] == [], "the colours chosen for pictures say nothing of files"
    (problem,) = inspected(sound, **kwargs, palette=(RED, GREEN, BLUE))[2]
    assert problem.startswith(f"{sound}/m/a.{suffix}: value 1 is road, but its palette colour #0000ff is that of tree")


def test_repeated_filler_colours_of_a_palette_are_not_checked(sound: Path) -> None:
    coloured(sound / "m/a.png", mask(0, 1, 2), RED, *[(0, 0, 0)] * 255)
    coloured(sound / "m/b.png", mask(0, 1, 2), RED, GREEN, (0, 0, 0))
    assert inspected(sound, palette=((0, 0, 0), RED, GREEN))[2] != [], "but 0 is red"
    assert inspected(sound, palette=(RED, GREEN, (0, 0, 0)))[2] == []


def test_masks_of_only_0_and_255_are_reported_as_binary(tree: Any) -> None:
    root = tree({"i/a.png": photo(), "i/b.png": photo(), "m/a.png": mask(0, 255), "m/b.png": mask(255)})
    (problem,) = inspected(root, classes=("other", "road"))[2]
    assert problem.startswith("masks contain only 0 and 255, and 255 is read as `ignore`; for binary masks")
    assert inspected(root, classes=("other", "road"), values={255: 1}, ignore=None)[2] == []


def test_a_jpeg_mask_is_refused_for_its_format_not_for_its_values(sound: Path) -> None:
    Image.fromarray(mask(0, 1, 2)).save(sound / "m/u.png", format="JPEG")
    (problem,) = inspected(sound)[2]
    assert problem.startswith(f"{sound}/m/u.png: stored as JPEG, which changes mask values")
