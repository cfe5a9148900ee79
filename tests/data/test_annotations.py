"""Tests that annotation files become the masks that a person drew, whichever tool wrote them."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import EXPORTS, FORMS, YOLO, Photo, drawn
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_masks

from stpp.audit.contents import examine
from stpp.data.reader import ImageReader
from stpp.ingest.annotation_files import _area, _of_coco, _of_cvat, _of_via, _paths
from stpp.ingest.drawing import draw_masks
from stpp.ingest.inspection import inspect
from stpp.ingest.shapes import Shape, covered, covered_each, paint
from stpp.params.data import Data
from stpp.store.files import StppError
from stpp.store.manifest import Dataset, read_dataset, write_dataset

CLASSES = ["background", "car", "cat"]
RNG = np.random.default_rng(0)


def photographs(root: Path, photos: list[Photo]) -> None:
    (root / "images").mkdir(parents=True)
    for photo in photos:
        noise = RNG.integers(0, 256, (photo.height, photo.width, 3)).astype(np.uint8)
        Image.fromarray(noise).save(root / f"images/{photo.name}.png")


def described(root: Path, format: str, file: str, classes: list[str] = CLASSES, **kwargs: Any) -> Data:
    labels = {"labels": dict(enumerate(YOLO))} if format == "yolo" else {}
    annotations = {"format": format, "file": file, **labels, **kwargs}
    about: dict[str, Any] = {"name": "mine", "kind": "folder", "root": str(root), "classes": tuple(classes)}
    return Data(**about, images="images/{name}.png", annotations=annotations)


def made(data: Data, out: Path, workers: int = 2) -> tuple[Dataset, list[str], list[str]]:
    dataset, warnings, problems = inspect(data, workers)
    assert not problems
    out.mkdir()
    dataset, more, problems = draw_masks(data, dataset, out, workers)
    write_dataset(out, dataset)
    return dataset, warnings + more, problems


def masks_of(data: Data, out: Path) -> dict[str, NDArray[np.uint8]]:
    """Return the masks that a stage reads, after `prepare` without problems."""
    _, _, problems = made(data, out)
    assert problems == []
    reader = ImageReader(read_dataset(out), Path(data.root))
    return {i: reader.mask(i) for i, record in reader.dataset.records.items() if record.mask}


@pytest.mark.parametrize("format", EXPORTS)
def test_drawn_objects_give_the_mask_of_a_plain_calculation_in_every_format(format: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    photos = []
    for at in range(12):
        photo = Photo(f"{at}", *map(int, rng.integers(16, 40, 2)))
        for _ in range(int(rng.integers(1, 6))):
            form = FORMS[format][int(rng.integers(len(FORMS[format])))]
            photo.objects.append(drawn(rng, CLASSES[int(rng.integers(1, 3))], form, photo.width, photo.height))
        photos.append(photo)
    photographs(tmp_path / "root", photos)
    file = EXPORTS[format](photos, tmp_path / "root")
    found = masks_of(described(tmp_path / "root", format, file), tmp_path / "out")
    assert found.keys() == {photo.name for photo in photos}
    for photo in photos:
        np.testing.assert_array_equal(found[photo.name], photo.mask(CLASSES, 0), photo.name)


SQUARE = [(2.0, 2.0), (8.0, 2.0), (8.0, 8.0), (2.0, 8.0)]


def coco_of(root: Path, *annotations: dict[str, Any], images: list[dict[str, Any]] | None = None, **more: Any) -> str:
    """Write a COCO file; each annotation is a square of class car on image 1 unless it says otherwise."""
    square = [number for point in SQUARE for number in point]
    about = {"image_id": 1, "category_id": 1, "segmentation": [square], "bbox": [2, 2, 6, 6]}
    whole = {
        "images": images or [{"id": 1, "file_name": "a.png", "width": 12, "height": 10}],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "bus"}],
        "annotations": [{"id": at, **about, **one} for at, one in enumerate(annotations, 10)],
        **more,
    }
    (root / "coco.json").write_text(json.dumps(whole))
    return "coco.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a data set of three images of 12 x 10 pixels, a, b and c."""
    photographs(tmp_path / "root", [Photo(name, 12, 10) for name in "abc"])
    return tmp_path / "root"


ONE = ["background", "car"]


def test_a_common_edge_belongs_to_one_of_two_objects_and_a_pixel_to_the_one_that_holds_its_centre(root: Path) -> None:
    halves = [[0, 0, 6.5, 0, 6.5, 10, 0, 10], [6.5, 0, 12, 0, 12, 10, 6.5, 10]]
    file = coco_of(root, *({"category_id": at, "segmentation": [half]} for at, half in enumerate(halves, 1)))
    mask = masks_of(described(root, "coco", file, ["car", "cat"]), root.parent / "out")["a"]
    np.testing.assert_array_equal(mask, np.repeat([[0] * 6 + [1] * 6], 10, axis=0))  # 6.5 is the centre of pixel 6


@pytest.mark.parametrize(
    ("order", "top"), [("file", "cat"), ("small", "car"), ("classes", "cat"), ("classes reversed", "car")]
)
def test_what_lies_on_top_is_settable(order: str, top: str, root: Path) -> None:
    large = [0, 0, 12, 0, 12, 10, 0, 10]
    file = coco_of(root, {}, {"category_id": 2, "segmentation": [large]})
    classes = ["background", "cat", "car"] if order.endswith("reversed") else CLASSES
    data = described(root, "coco", file, classes, order=order.split(maxsplit=1)[0])
    out = root.parent / "out"
    dataset, _, _ = made(data, out)
    mask = ImageReader(dataset, root).mask("a")
    assert classes[mask[5, 5]] == top
    keys = [row["object"] for row in csv.DictReader((out / "objects.csv").read_text().splitlines())]
    assert keys == (["11", "10"] if top == "car" else ["10", "11"])


def test_pixels_without_an_object_are_the_rest(root: Path) -> None:
    file = coco_of(root, {})
    for at, (classes, rest, value) in enumerate(
        [(ONE, None, 0), (ONE, "ignore", 255), (["car", "ground"], "ground", 1), (["car", "sky"], None, 255)]
    ):
        data = described(root, "coco", file, classes, rest=rest)
        dataset, _, _ = made(data, root.parent / f"out{at}")
        mask = ImageReader(dataset, root).mask("a")
        assert (mask[0, 0], mask[5, 5]) == (value, classes.index("car"))


def test_a_label_that_is_no_class_is_named_with_its_count_and_labels_give_it_a_class_or_ignore(root: Path) -> None:
    file = coco_of(root, {}, {"category_id": 3}, {"category_id": 3})
    _, _, problems = made(described(root, "coco", file, ONE), root.parent / "out")
    (said,) = problems
    assert said.startswith(f"{root / file}: 2 object(s) with the label `bus`") and "data.annotations.labels" in said
    assert "11 of images/a.png" in said
    for at, (name, value) in enumerate([("car", 1), ("ignore", 255)]):
        dataset, _, problems = made(
            described(root, "coco", file, ONE, labels={"bus": name}), root.parent / f"other{at}"
        )
        assert ImageReader(dataset, root).mask("a")[5, 5] == value


def test_objects_without_an_area_are_counted_by_kind(root: Path) -> None:
    file = coco_of(
        root,
        {},
        {"segmentation": []},
        {"segmentation": [[1, 1, 3, 3]]},
        {"image_id": 9},
        images=[{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}, {"id": 3, "file_name": "gone.png"}],
    )
    _, warnings, problems = made(described(root, "coco", file, ONE), root.parent / "out")
    assert problems == []
    for said in (
        "1 box(es) without a polygon are not read, such as 11 of images/a.png",
        "1 polygon(s) of fewer than 3 points are not read, such as 12 of images/a.png",
        "1 image(s) of coco.json are not in the data set, such as gone.png",
        "1 object(s) belong to an image that their file does not list, such as 13",
        "1 annotated image(s) without an object that is read stay without a mask, such as images/b.png",
    ):
        assert said in warnings


def test_an_image_that_a_person_left_empty_is_all_rest_only_where_the_format_says_so(root: Path) -> None:
    cases = [
        ("yolo", "{name}.txt", "a", "0 0.1 0.1 0.9 0.1 0.9 0.9\n", "b", ""),
        ("cvat", "{name}.xml", "a", CVAT, "b", CVAT.split("<polygon", maxsplit=1)[0] + "</image></annotations>"),
    ]
    for format, pattern, one, text, other, empty in cases:
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / pattern.format(name=one)).write_text(text)
        (root / "labels" / pattern.format(name=other)).write_text(empty)
        labels = {"labels": {0: "car"}} if format == "yolo" else {}
        data = described(root, format, f"labels/{pattern}", ONE, **labels)
        found = masks_of(data, root.parent / format)
        assert set(found) == ({"a", "b"} if format == "yolo" else {"a"})
        assert format != "yolo" or not found["b"].any()


CVAT = """<annotations><image id="0" name="a.png" width="12" height="10">
<polygon label="car" points="2,2;8,2;8,8"/></image></annotations>"""


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("images/x/0.png", "x/0"),
        ("x/0.png", "x/0"),
        ("C:\\\\photos\\\\y\\\\0.png", "y/0"),
        ("elsewhere/1.png", "x/1"),
        ("elsewhere/0.png", None),
        ("../../etc/passwd", None),
        ("0.png", None),
    ],
)
def test_an_image_is_found_by_its_path_then_by_a_name_that_only_one_has(
    listed: str, found: str | None, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    photographs(root, [])
    for name in ("x/0", "y/0", "x/1"):
        (root / "images" / name).parent.mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (10, 12, 3)).astype(np.uint8)).save(root / f"images/{name}.png")
    file = coco_of(root, {}, images=[{"id": 1, "file_name": listed.replace("\\\\", "\\")}])
    data = Data(**(described(root, "coco", file, ONE).model_dump() | {"images": "images/{set}/{name}.png"}))
    dataset, warnings, _ = made(data, tmp_path / "out")
    assert [i for i, record in dataset.records.items() if record.mask] == ([found] if found else [])
    assert found or any("image(s) of coco.json" in said for said in warnings)


def test_folders_may_have_a_file_each_whose_images_have_the_same_names(tmp_path: Path) -> None:
    root = tmp_path / "root"
    photographs(root, [])
    for at, folder in enumerate(("train", "val")):
        (root / "images" / folder).mkdir()
        Image.fromarray(RNG.integers(0, 256, (10, 12, 3)).astype(np.uint8)).save(root / f"images/{folder}/0.png")
        coco_of(root, {"category_id": at + 1}, images=[{"id": 1, "file_name": "0.png"}])
        (root / "coco.json").rename(root / f"{folder}.json")
    data = described(root, "coco", "{set}.json")
    data = Data(**(data.model_dump() | {"images": "images/{set}/{name}.png"}))
    found = masks_of(data, tmp_path / "out")
    assert (found["train/0"][5, 5], found["val/0"][5, 5]) == (1, 2)
    rows = (tmp_path / "out/annotations.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["file", "train.json", "val.json"]


def test_equal_input_gives_equal_bytes_and_the_digest_follows_the_pixels(root: Path) -> None:
    shots = []
    for at, (workers, order) in enumerate([(1, "file"), (4, "file"), (1, "small")]):
        file = coco_of(
            root,
            {},
            {"category_id": 2, "segmentation": [[0, 0, 12, 0, 12, 10]]},
            {"image_id": 2},
            images=[{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        )
        dataset, _, _ = made(described(root, "coco", file, order=order), root.parent / f"out{at}", workers)
        folder = root.parent / f"out{at}"
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        shots.append((files, dataset.digest))
    assert shots[0] == shots[1]
    assert shots[0][1] != shots[2][1]


def annotation(**about: Any) -> str:
    """Return a COCO file with one annotation."""
    square = [number for point in SQUARE for number in point]
    one = {"id": 7, "image_id": 1, "category_id": 1, "segmentation": [square], **about}
    images = [{"id": 1, "file_name": "a.png", "width": 12, "height": 10}]
    return json.dumps({"images": images, "categories": [{"id": 1, "name": "car"}], "annotations": [one]})


def rle(counts: Any, size: tuple[int, int] = (10, 12)) -> str:
    return annotation(segmentation={"counts": counts, "size": size})


HOSTILE = {
    "a polygon of 200,000 points": ("coco", annotation(segmentation=[[1, 2] * 200_000]), "a polygon of 200000 points"),
    "a zigzag": ("coco", annotation(segmentation=[[0, 0, 1, 10] * 50_000], image_id=1), ""),
    "NaN": ("coco", annotation(segmentation=[[1, 1, float("nan"), 2, 3, 3]]), "no number, or far outside"),
    "an infinite coordinate": ("coco", annotation(segmentation=[[1, 1, 1e999, 2, 3, 3]]), "no number, or far outside"),
    "a coordinate far out": ("coco", annotation(segmentation=[[1, 1, 1e30, 2, 3, 3]]), "no number, or far outside"),
    "a number of 400 digits": ("coco", annotation(segmentation=[[1, 1, 10**400, 2, 3, 3]]), "annotations[0]"),
    "a text as coordinate": ("coco", annotation(segmentation=[["x", 1, 2, 2, 3, 3]]), "annotations[0]"),
    "run lengths beyond the mask": ("coco", rle([60, 61]), "121 pixels for a mask of 120"),
    "run lengths of another size": ("coco", rle([3, 6], (3, 3)), ""),
    "more run lengths than pixels": ("coco", rle([1] * 10**6), "run lengths beyond"),
    "negative run lengths": ("coco", rle([130, -10]), "no whole numbers"),
    "a mask of 10^12 pixels": ("coco", rle([10**12], (10**6, 10**6)), "limit"),
    "a mask larger than its image": ("coco", rle([400], (20, 20)), "is not inside the image"),
    "a damaged text of run lengths": ("coco", rle("\x7f\x00"), "no text of COCO"),
    "an endless number in run lengths": ("coco", rle("o" * 1000 + "0"), "beyond 32 bits"),
    "another size of the image": ("coco", annotation().replace('"width": 12', '"width": 13'), "13 x 10 pixels there"),
    "two images of one id": (
        "coco",
        annotation().replace('"images": [', '"images": [{"id": 1, "file_name": "b.png"}, '),
        "two images have the id",
    ),
    "an image twice": (
        "coco",
        annotation().replace('"images": [', '"images": [{"id": 2, "file_name": "a.png"}, '),
        "lists the image a twice",
    ),
    "no image id": ("coco", annotation().replace('"image_id": 1, ', ""), "image_id"),
    "a JSON bomb of nesting": ("coco", '{"annotations": ' + "[" * 10**6, "nested too deeply"),
    "a truncated file": ("coco", annotation()[:-30], "not readable as JSON"),
    "an empty file": ("coco", "", "not readable as JSON"),
    "another encoding": ("coco", annotation().encode("utf-16"), "not UTF-8"),
    "another tool's file": ("coco", "[]", "no COCO file"),
    "a list of numbers for Label Studio": ("label-studio", "[1, 2]", "[0]"),
    "JSON-MIN": ("label-studio", '[{"id": 1, "image": "a.png", "label": []}]', "JSON-MIN"),
    "an XML bomb": (
        "cvat",
        '<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><annotations>&d;</annotations>',
        "declares a document type",
    ),
    "an XML file of another tool": ("cvat", "<html></html>", "no CVAT file"),
    "XML nested deeply": ("cvat", "<annotations>" + "<a>" * 10**5, "nested too deeply"),
    "CVAT for video": ("cvat", "<annotations><track/></annotations>", "CVAT for images"),
    "not XML": ("cvat", "{}", "not readable as XML"),
    "a VIA file without regions": ("via", '{"a.png1": {"filename": "a.png"}}', "regions"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_in_one_line_that_names_it(name: str, root: Path) -> None:
    format, content, said = HOSTILE[name]
    (root / "export").write_bytes(content if isinstance(content, bytes) else content.encode())
    data = described(root, format, "export", ONE)
    try:
        _, _, problems = made(data, root.parent / "out")
    except StppError as error:
        problems = [str(error)]
    problems = [problem for problem in problems if "has no pixel in any mask" not in problem]
    assert all(said in problem and "\n" not in problem and len(problem) < 600 for problem in problems)
    assert all(problem.startswith(str(root / "export")) for problem in problems)
    assert bool(problems) == bool(said)


PEAK = """
import resource, sys
from pathlib import Path
from stpp.ingest.annotation_files import coco, cvat
from stpp.store.files import StppError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    [*(coco if sys.argv[1].endswith("json") else cvat)(Path(sys.argv[1]))]
except StppError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("name", ["points.json", "text.json", "tag.xml"])
def test_a_value_of_40_mb_is_given_up_before_it_fills_the_memory(name: str, tmp_path: Path) -> None:
    with (tmp_path / name).open("w") as file:
        file.write('<annotations><image id="' if name == "tag.xml" else '{"annotations": [{"id": ')
        file.write(
            {"points.json": "[" + "1,2," * 10**7, "text.json": '"' + "x" * 40 * 10**6}.get(name, "x" * 40 * 10**6)
        )
    command = [sys.executable, "-c", PEAK, str(tmp_path / name)]
    said, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said.startswith(f"{tmp_path / name}: not readable as") and "is longer than" in said
    assert int(peak) < 600  # MB


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
def test_polygons_agree_with_pycocotools_up_to_the_boundary_and_its_run_lengths_are_read_exactly() -> None:
    """Polygons of the size of real objects have an IoU of at least 0.985, and a median above 0.995."""
    rng = np.random.default_rng(2)
    ious = []
    for _ in range(200):
        height, width = map(int, rng.integers(200, 640, 2))
        angles, radii = np.sort(rng.random(24)) * 2 * np.pi, rng.uniform(0.6, 1, 24) * rng.uniform(25, 150)
        centre = rng.uniform((0, 0), (width, height))
        points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        theirs = coco_masks.frPyObjects([points.reshape(-1).tolist()], height, width)[0]
        bitmap = coco_masks.decode(theirs) > 0
        counts = {"size": [height, width], "counts": theirs["counts"].decode()}
        own, read = (
            painted(_of_coco({"id": 1, "image_id": 1, "category_id": 1, "segmentation": area}), height, width)
            for area in ([points.reshape(-1).tolist()], counts)
        )
        np.testing.assert_array_equal(read, bitmap)
        ious.append((own & bitmap).sum() / max((own | bitmap).sum(), 1) if bitmap.sum() > 500 else 1.0)
    assert min(ious) > 0.985
    assert np.median(ious) > 0.995


def test_objects_that_are_drawn_together_cover_what_each_covers_alone() -> None:
    for _ in range(200):
        height, width = map(int, RNG.integers(1, 20, 2))
        whole = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
        shapes = [
            Shape("", "", "", "polygon", (whole,)),
            Shape("", "", "", "polygon", tuple(RNG.integers(-4, 44, (2, 5, 2)) / 2)),
            Shape("", "", "", "polygon", (RNG.random((3, 2)),), relative=True),
            Shape("", "", "", "ellipse", (RNG.random(5) * 9,)),
        ]
        shapes = [shapes[at] for at in RNG.integers(0, 4, 6)]
        for one, together in zip(shapes, covered_each(shapes, height, width), strict=True):
            np.testing.assert_array_equal(together, covered(one, height, width))


def test_objects_that_together_cross_too_many_rows_are_drawn_one_by_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = coco_of(root, {}, {"category_id": 2, "segmentation": [[0, 0, 6, 0, 6, 10, 0, 10]]})
    masks = []
    for limit in (100, 20, 19):
        monkeypatch.setattr("stpp.ingest.shapes.CROSSINGS", limit)
        dataset, _, problems = made(described(root, "coco", file), root.parent / f"out-{limit}")
        assert bool(problems) == (limit == 19)
        masks.append(ImageReader(dataset, root).mask("a") if not problems else None)
    np.testing.assert_array_equal(masks[0], masks[1])
    assert "object 11 of images/a.png: a polygon whose edges cross 20 rows (limit: 19)" in problems[0]


def painted(shape: Any, height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), np.uint8)
    paint(mask, covered(shape, height, width), 1)
    return mask > 0


@pytest.mark.parametrize(
    ("url", "paths"),
    [
        ("/data/upload/1/0a1b2c3d-a.png", ["data/upload/1/0a1b2c3d-a.png", "data/upload/1/a.png"]),
        ("/data/local-files/?d=photos/x%20y/a.png", ["photos/x y/a.png"]),
        ("s3://bucket/photos/a.png", ["photos/a.png"]),
        ("https://host:8080/a.png?token=1", ["a.png"]),
    ],
)
def test_the_address_of_a_task_gives_the_path_of_its_image(url: str, paths: list[str]) -> None:
    assert [path.lstrip("/") for path in _paths(url)] == paths


@pytest.mark.parametrize("turn", [-200, -30, 0, 45, 90, 123])
def test_turned_rectangles_and_ellipses_turn_clockwise_about_their_centre_or_corner(turn: float) -> None:
    """A point is inside if it is inside the upright shape after it is turned back."""
    rows, columns = np.mgrid[:60, :80] + 0.5
    angle = np.deg2rad(turn)

    def back(x: float, y: float) -> tuple[Any, Any]:
        dx, dy = columns - x, rows - y
        return dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)

    box = {"label": "car", "xtl": "30.2", "ytl": "20.1", "xbr": "52.6", "ybr": "31.4", "rotation": str(turn)}
    dx, dy = back((30.2 + 52.6) / 2, (20.1 + 31.4) / 2)
    inside = (abs(dx) < (52.6 - 30.2) / 2) & (abs(dy) < (31.4 - 20.1) / 2)
    np.testing.assert_array_equal(painted(_of_cvat("box", "0", "0", box), 60, 80), inside)

    value = {"x": 50.17, "y": 40.1, "width": 30, "height": 20, "rotation": turn, "rectanglelabels": ["car"]}
    about = {"value": value, "original_width": 80, "original_height": 60, "type": "rectanglelabels"}
    dx, dy = back(40.136, 24.06)
    inside = (dx > 0) & (dx < 24) & (dy > 0) & (dy < 12)
    np.testing.assert_array_equal(painted(_area("0", "0", "car", about), 60, 80), inside)

    ellipse = {"name": "ellipse", "cx": 41.37, "cy": 29.2, "rx": 25.5, "ry": 11.1, "theta": angle}
    dx, dy = back(41.37, 29.2)
    inside = (dx / 25.5) ** 2 + (dy / 11.1) ** 2 < 1
    np.testing.assert_array_equal(painted(_of_via("0", "0", ellipse, {"class": "car"}), 60, 80), inside)


def test_the_audit_compares_files_and_masks_with_their_manifests(root: Path) -> None:
    out = root.parent / "out"
    square = [number for x, y in SQUARE for number in (x + 1, y)]
    shots = []
    for at, area in enumerate([[square], [[0, 0, 5, 0, 5, 5]]]):
        file = coco_of(root, {}, {"segmentation": area})
        made(described(root, "coco", file, ONE), root.parent / f"out{at}" if at else out)
        shots.append((root / file).read_bytes())
    (root / "coco.json").write_bytes(shots[0])
    about, problems = examine.__wrapped__(out, root.parent, "root")
    assert problems == []
    assert "4 of 4 files have the manifest's sha256; 1 masks drawn from 2 objects in coco.json" in about
    (root / "coco.json").write_bytes(shots[1])
    (said,) = examine.__wrapped__(out, root.parent, "root")[1]
    assert said.startswith("root/coco.json: was changed")
    (root / "coco.json").write_bytes(shots[0])
    (shard,) = (out / "masks").glob("*.zip")
    shutil.copyfile(root.parent / "out1/masks" / shard.name, shard)
    (said,) = examine.__wrapped__(out, root.parent, "root")[1]
    assert "mask a does not match its hash" in said
    shutil.copyfile(root.parent / "out1/masks/manifest.csv", out / "masks/manifest.csv")
    (said,) = examine.__wrapped__(out, root.parent, "root")[1]
    assert "mask a: differs from" in said
