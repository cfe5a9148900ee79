"""Looking at a data set once: all that is wrong with it is said at once, and what is right is written down."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stpp.ingest.inspection import inspect
from stpp.params.models import Data
from stpp.store.manifest import Dataset

RNG = np.random.default_rng(0)


def photo(width: int = 8, height: int = 6) -> Any:
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


def mask(*values: int, width: int = 8, height: int = 6) -> Any:
    """A mask that holds these values and no other."""
    return np.resize(np.array(values, dtype=np.uint8), (height, width))


def described(root: Path, **kwargs: Any) -> Data:
    known = {"name": "mine", "kind": "folder", "root": str(root), "images": "i/{name}.png", "masks": "m/{name}.png"}
    return Data(**(known | {"classes": ("sky", "road", "tree")} | kwargs))


def looked(root: Path, workers: int = 1, **kwargs: Any) -> tuple[Dataset, list[str], list[str]]:
    return inspect(described(root, **kwargs), workers)


@pytest.fixture
def sound(tree: Any) -> Path:
    """Three images with masks of all classes, and one without."""
    files = {f"i/{name}.png": photo() for name in "abcu"}
    root: Path = tree({**files, "m/a.png": mask(0, 1), "m/b.png": mask(2, 255), "m/c.png": mask(255)})
    return root


def add_every_problem(root: Path) -> dict[str, str]:
    """Break a data set in every way at once: what must be said, and of which file."""
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
    Image.fromarray(photo()).save(root / "i/my photo.png")
    return {
        "i/cut.png: ": "truncated",
        "i/page.png: ": "not an image",
        "m/size.png: ": "6 x 8 pixels, but its image has 8 x 6",
        "m/value.png: ": "value 7 is not one of the 4 classes",
        "m/colour.png: ": "one channel of class ids",
        "m/cutmask.png: ": "truncated",
        "i/twin.png: ": "i/a.png: remove one",
        "i/my photo.png: ": "cannot be an id",
        "class car (3) ": "has no pixel",
    }


CLASSES = ("sky", "road", "tree", "car")


def test_every_problem_is_reported_at_once_each_naming_its_file(sound: Path) -> None:
    expected = add_every_problem(sound)
    _, _, problems = looked(sound, classes=CLASSES)
    assert len(problems) == len(expected)
    for start, said in expected.items():
        place = start if start.startswith("class") else f"{sound}/{start}"
        assert [p for p in problems if p.startswith(place) and said in p], start


def test_every_problem_has_a_remedy(sound: Path) -> None:
    add_every_problem(sound)
    for problem in looked(sound, classes=CLASSES)[2]:
        assert any(word in problem for word in ("remove", "replace", "rename", "make", "add it", "convert", "check"))


@pytest.mark.parametrize("broken", [False, True])
def test_the_number_of_workers_changes_nothing(broken: bool, sound: Path) -> None:
    if broken:
        add_every_problem(sound)
    results = [looked(sound, workers, classes=CLASSES) for workers in (0, 1, 4)]
    assert results[0] == results[1] == results[2]
    assert list(results[0][0].records) == list(results[2][0].records)


def test_a_sound_data_set_has_no_problem_and_images_need_no_mask(sound: Path) -> None:
    dataset, warnings, problems = looked(sound)
    assert (warnings, problems) == ([], [])
    assert list(dataset.records) == ["a", "b", "c", "u"]
    assert (dataset.records["u"].mask, dataset.records["u"].mask_sha256, dataset.records["u"].classes) == ("", "", ())


def test_the_record_of_an_image_tells_its_size_classes_and_hashes(sound: Path) -> None:
    dataset, _, _ = looked(sound)
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


def test_what_is_handled_is_said_once_and_stops_nothing(sound: Path) -> None:
    for name in ("g", "h"):
        Image.fromarray(photo()[:, :, 0]).save(sound / f"i/{name}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(8, 6)).save(sound / "i/turned.png", exif=exif)
    Image.fromarray(mask(1, width=6, height=8)).save(sound / "m/turned.png")
    dataset, warnings, problems = looked(sound)
    assert problems == []
    assert (dataset.records["turned"].width, dataset.records["turned"].height) == (6, 8)
    assert len(warnings) == 2
    (grey,) = [w for w in warnings if "grey-scale" in w]
    assert grey.endswith("2 image(s), such as g")
    (turned,) = [w for w in warnings if "EXIF" in w]
    assert turned.endswith("1 image(s), such as turned")


def test_no_image_is_a_problem_of_its_own(tree: Any) -> None:
    root = tree({"other/a.png": photo()})
    dataset, warnings, problems = looked(root)
    assert dataset.records == {}
    assert warnings == ["skipped: 1 file(s) in other/ match no pattern, such as a.png"]
    assert len(problems) == 1
    assert problems[0].startswith(f"{root}: no image found with the pattern i/{{name}}.png")


def test_a_data_set_without_any_mask_is_a_problem(tree: Any) -> None:
    (problem,) = looked(tree({"i/a.png": photo()}))[2]
    assert problem.startswith("no image has a mask")
    assert "data.masks" in problem


def test_a_class_without_a_pixel_is_named(sound: Path) -> None:
    (sound / "m/b.png").unlink()
    assert [p.split(";")[0] for p in looked(sound)[2]] == ["class tree (2) has no pixel in any mask"]


def test_the_same_image_under_three_names_is_two_problems(sound: Path) -> None:
    for name in ("x", "y"):
        (sound / f"i/{name}.png").write_bytes((sound / "i/a.png").read_bytes())
    problems = looked(sound)[2]
    assert [p.split(": ")[0] for p in problems] == [f"{sound}/i/x.png", f"{sound}/i/y.png"]
    assert all(f"the same image as {sound}/i/a.png" in p for p in problems)


def test_equal_masks_are_no_problem(sound: Path) -> None:
    (sound / "m/u.png").write_bytes((sound / "m/a.png").read_bytes())
    assert looked(sound)[2] == []


def test_a_listed_mask_that_is_not_there_is_named(sound: Path) -> None:
    (sound / "list.txt").write_text("i/a.png m/a.png\ni/b.png m/b.png\ni/u.png m/u.png\n")
    (problem,) = looked(sound, images=None, masks=None, list="list.txt")[2]
    assert problem.startswith(f"{sound}/m/u.png: no such file")


def test_an_unlisted_value_can_be_ignored_by_name(sound: Path) -> None:
    Image.fromarray(mask(0, 11)).save(sound / "m/u.png")
    (problem,) = looked(sound)[2]
    assert "(`11: ignore`, or a class id)" in problem
    dataset, _, problems = looked(sound, values={11: "ignore"})
    assert problems == []
    assert dataset.records["u"].classes == (0,)


# -- masks that are not what they seem --------------------------------------------------------------------------------

RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)


def coloured(path: Path, values: Any, *colours: tuple[int, int, int], **more: Any) -> None:
    image = Image.fromarray(values)
    image.putpalette([part for colour in colours for part in colour])
    image.save(path, **more)


def test_palettes_that_agree_are_no_problem_whatever_is_unused_ignored_or_grey(sound: Path) -> None:
    coloured(sound / "m/a.png", mask(0, 1), RED, GREEN, (1, 1, 1))
    coloured(sound / "m/b.png", mask(0, 255), RED, *[(9, 9, 9)] * 254, GREEN)
    coloured(sound / "m/c.png", mask(0, 1, 2), *[(v, v, v) for v in range(256)])
    coloured(sound / "m/u.png", mask(1, 2), (5, 5, 5), GREEN, BLUE)
    assert looked(sound)[2] == []
    assert looked(sound, palette=(RED, GREEN, BLUE))[2] == []


def test_a_palette_that_gives_a_value_another_color_than_an_earlier_mask_is_refused(
    sound: Path, tmp_path: Path
) -> None:
    """As tools make them that choose a palette for every file."""
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
    assert looked(sound, **kwargs)[2] == [], "the colours chosen for pictures say nothing of files"
    (problem,) = looked(sound, **kwargs, palette=(RED, GREEN, BLUE))[2]
    assert problem.startswith(f"{sound}/m/a.{suffix}: value 1 is road, but its palette colour #0000ff is that of tree")


def test_colours_that_fill_a_palette_up_say_nothing(sound: Path) -> None:
    coloured(sound / "m/a.png", mask(0, 1, 2), RED, *[(0, 0, 0)] * 255)
    coloured(sound / "m/b.png", mask(0, 1, 2), RED, GREEN, (0, 0, 0))
    assert looked(sound, palette=((0, 0, 0), RED, GREEN))[2] != [], "but 0 is red"
    assert looked(sound, palette=(RED, GREEN, (0, 0, 0)))[2] == []


def test_masks_of_0_and_255_are_told_for_binary(tree: Any) -> None:
    root = tree({"i/a.png": photo(), "i/b.png": photo(), "m/a.png": mask(0, 255), "m/b.png": mask(255)})
    (problem,) = looked(root, classes=("other", "road"))[2]
    assert problem.startswith("masks contain only 0 and 255, and 255 is read as `ignore`; for binary masks")
    assert looked(root, classes=("other", "road"), values={255: 1}, ignore=None)[2] == []


def test_a_jpeg_mask_is_refused_and_no_value_is_blamed(sound: Path) -> None:
    Image.fromarray(mask(0, 1, 2)).save(sound / "m/u.png", format="JPEG")
    (problem,) = looked(sound)[2]
    assert problem.startswith(f"{sound}/m/u.png: stored as JPEG, which changes mask values")
