"""Tests that a mask goes into a task of every annotation tool, and comes back from it."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_studio import PASSWORD, TOKEN, USER, screenshot
from label_studio import submitted as sent
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from scipy.ndimage import distance_transform_edt, gaussian_filter, maximum_filter, minimum_filter
from small import ROOT, Project, free_port, wait_for

from stpp.data.reader import ImageReader
from stpp.deploy.regions import regions, without_specks
from stpp.deploy.returned import masks_of_export
from stpp.deploy.task_formats import TASKS
from stpp.deploy.tasks import Proposal, write_task
from stpp.ingest.drawing import draw_masks
from stpp.ingest.inspection import inspect
from stpp.params.data import Data
from stpp.store.manifest import Dataset, Record
from stpp.store.masks import IGNORE, read_png

CLASSES = ("background", "car & cat", "Straße")
PALETTE = ((0, 0, 0), (230, 159, 0), (86, 180, 233))
FILES = {
    "coco": "instances.json",
    "cvat": "annotations.xml",
    "label-studio": "tasks.json",
    "labelme": "images/{name}.json",
}
"""The file of each task that the reader of annotations reads."""
Mask = NDArray[np.uint8]


def blobs(seed: int, height: int, width: int, classes: int, smooth: float) -> Mask:
    """Return a mask of random regions with holes, islands and thin lines."""
    rng = np.random.default_rng(seed)
    heights = np.stack([gaussian_filter(rng.normal(size=(height, width)), smooth) for _ in range(classes)])
    return heights.argmax(axis=0).astype(np.uint8)


masks = st.builds(
    blobs,
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0]),
)


def drawn(mask: Mask, left_out: int | None, tolerance: float) -> tuple[Mask, Mask]:
    """Return the mask that the regions give, and how many regions cover each pixel."""
    shown, count = np.zeros_like(mask), np.zeros_like(mask)
    for one in regions(mask, left_out, tolerance):
        left, top, width, height = one.box
        shown[top : top + height, left : left + width][one.bitmap] = one.label
        count[top : top + height, left : left + width] += one.bitmap
    return shown, count


@settings(deadline=None, max_examples=60)
@given(masks)
def test_exact_regions_give_the_mask_and_cover_no_pixel_twice(mask: Mask) -> None:
    for left_out in (None, 0):
        shown, count = drawn(mask, left_out, 0)
        np.testing.assert_array_equal(shown, mask)
        np.testing.assert_array_equal(count, mask != left_out)


@settings(deadline=None, max_examples=60)
@given(masks, st.sampled_from([1.0, 2.0, 3.0]))
def test_simplified_regions_differ_only_within_the_tolerance_of_a_border(mask: Mask, tolerance: float) -> None:
    shown, count = drawn(mask, None, tolerance)
    padded = np.pad(mask, 1, constant_values=IGNORE)
    far = np.max([distance_transform_edt(padded == label) for label in np.unique(mask)], axis=0)[1:-1, 1:-1]
    same = (shown == mask) & (count == 1)
    assert same[far > tolerance + 0.5].all()


def test_simplified_regions_of_smooth_masks_overlap_the_mask_and_leave_no_gaps() -> None:
    for seed in range(5):
        mask = blobs(seed, 120, 160, 4, 8.0)
        shown, count = drawn(mask, None, 1.0)
        assert (count == 1).mean() > 0.999
        for label in np.unique(mask):
            assert ((shown == label) & (mask == label)).sum() / ((shown == label) | (mask == label)).sum() > 0.95
        points = [sum(len(ring) for one in regions(mask, None, t) for ring in one.rings) for t in (0.0, 1.0)]
        assert points[1] < points[0] / 4


@settings(deadline=None, max_examples=60)
@given(masks, st.integers(2, 30))
def test_specks_become_part_of_a_larger_region_and_are_counted(mask: Mask, least: int) -> None:
    found, count = without_specks(mask, least)
    sizes = [int(one.bitmap.sum()) for one in regions(mask, None, 0)]
    small = sum(size < least for size in sizes)
    assert count == (small if small < len(sizes) else 0)
    kept = [one for one in regions(mask, None, 0) if one.bitmap.sum() >= least or not count]
    for one in kept:
        left, top, width, height = one.box
        assert (found[top : top + height, left : left + width][one.bitmap] == one.label).all()
    if count:
        assert all(one.bitmap.sum() >= least for one in regions(found, None, 0))


def file_name(number: int, name: str) -> str:
    return f"{number}-{name.rpartition('/')[2]}.png"


def made(
    folder: Path, tool: str, proposed: dict[str, Mask], tolerance: float = 0, reason: str = ""
) -> tuple[list[str], list[str]]:
    """Write a task for images of the masks' sizes, named as `stpp suggest` does."""
    folder.mkdir(parents=True)
    items = []
    for number, (name, mask) in enumerate(proposed.items(), 1):
        source = folder.parent / f"{number}.png"
        Image.fromarray(mask * 50).save(source)
        said = f"{number}. {reason}" if reason else ""
        items.append(Proposal(name, file_name(number, name), source, lambda m=mask: m, said, 0.25))
    return write_task(folder, tool, CLASSES, PALETTE, items, tolerance, 1)


@pytest.fixture
def proposed() -> dict[str, Mask]:
    """Masks of three images, with holes; the ids have folders and characters of XML and of URLs."""
    names = ("train/Bjørn&<b>'", "b+c%20", "0001")
    return {name: blobs(seed, 30 + seed, 41, 3, 3.0) for seed, name in enumerate(names)}


@pytest.mark.parametrize("tool", TASKS)
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1.5])
def test_the_reader_of_annotations_reads_the_masks_that_a_task_shows(
    tool: str, tolerance: float, proposed: dict[str, Mask], tmp_path: Path
) -> None:
    folder = tmp_path / "task"
    made(folder, tool, proposed, tolerance, "stability 0.25: car & cat 30 %")
    if tool == "label-studio":
        submitted(folder / "tasks.json")
    about: dict[str, Any] = {"name": "back", "kind": "folder", "root": str(folder), "classes": CLASSES}
    data = Data(**about, images="images/{name}.png", annotations={"format": tool, "file": FILES[tool]})
    dataset, _, problems = draw_masks(data, inspect(data, 1)[0], tmp_path / "out", 1)
    assert problems == []
    reader = ImageReader(dataset, folder)
    for number, (name, mask) in enumerate(proposed.items(), 1):
        found = reader.mask(Path(file_name(number, name)).stem)
        np.testing.assert_array_equal(found, read_png(folder / f"proposed/{name}.png"))
        if not tolerance:
            np.testing.assert_array_equal(found, mask)
    known = {one["name"]: one["id"] for one in json.loads((folder / "task.json").read_text())["images"]}
    assert [*known.values()] == [*proposed] and all((folder / "images" / name).is_file() for name in known)


def submitted(tasks: Path) -> None:
    """Turn the predictions of tasks into annotations, as a person does who submits them unchanged."""
    exported = [
        {"id": at, **one, "annotations": [{"id": at, "result": one["predictions"][0]["result"]}]}
        for at, one in enumerate(json.loads(tasks.read_text()))
    ]
    tasks.write_text(json.dumps(exported))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_the_exact_masks_of_a_coco_task(proposed: dict[str, Mask], tmp_path: Path) -> None:
    made(tmp_path / "task", "coco", proposed)
    coco = COCO(tmp_path / "task/instances.json")
    assert {one["name"] for one in coco.loadCats(coco.getCatIds())} == set(CLASSES[1:])
    for image, mask in zip(coco.loadImgs(coco.getImgIds()), proposed.values(), strict=True):
        found = np.zeros_like(mask)
        for one in coco.loadAnns(coco.getAnnIds(image["id"])):
            bitmap = coco.annToMask(one).astype(bool)
            assert bitmap.sum() == one["area"]
            found[bitmap] = one["category_id"]
        np.testing.assert_array_equal(found, mask)


TOOLS = ROOT / ".venv/tools/bin/python"
"""A Python with the tools' own code, which `make tools` installs: it conflicts with the project's packages."""


@pytest.mark.slow
@pytest.mark.skipif(not TOOLS.exists(), reason="run `make tools`")
@pytest.mark.parametrize("tool", TASKS)
def test_the_tools_own_code_reads_the_proposed_masks_of_a_task(tool: str, tmp_path: Path) -> None:
    proposed = {name: blobs(seed, 130 + seed, 161, 3, 6.0) for seed, name in enumerate(("Bjørn&<b>'", "b+c%20"))}
    made(tmp_path / "task", tool, proposed, 0, "stability 0.25")
    command = [TOOLS, ROOT / "tests/tools.py", "read", tool, tmp_path / "task", tmp_path / "found"]
    subprocess.run(command, check=True, capture_output=True)
    for number, (name, mask) in enumerate(proposed.items(), 1):
        label = np.load(tmp_path / f"found/{file_name(number, name)}.npz")["label"]
        wrong = np.where(label == 0, 0, label.astype(int) - 1) != mask
        if tool in ("labelme", "label-studio"):  # Pillow, with which they draw polygons, also fills the border
            wrong &= maximum_filter(mask, 3) == minimum_filter(mask, 3)
        assert set(np.unique(label)) == {0, 2, 3} and not wrong.any()


EXPORTS: dict[str, dict[str, Any]] = {
    "coco_instances": {
        "images": "images/train/{name}.png",
        "annotations": {"format": "coco", "file": "annotations/instances_train.json"},
        "classes": CLASSES,
    },
    "cvat": {
        "images": "images/{name}.png",
        "annotations": {"format": "cvat", "file": "train.xml"},
        "classes": CLASSES,
    },
    "labelme": {
        "images": "{name}.png",
        "annotations": {"format": "labelme", "file": "{name}.json"},
        "classes": CLASSES,
    },
    "voc_segmentation": {
        "images": "JPEGImages/{name}.png",
        "masks": "SegmentationClass/{name}.png",
        "classes": "labelmap.txt",
    },
}
"""The section `data` for each export."""


@pytest.mark.slow
@pytest.mark.skipif(not TOOLS.exists(), reason="run `make tools`")
@pytest.mark.parametrize("form", EXPORTS)
def test_exports_that_the_tools_own_code_writes_are_read_exactly(form: str, tmp_path: Path) -> None:
    proposed = {name: blobs(seed, 130 + seed, 161, 3, 6.0) for seed, name in enumerate(("Bjørn&<b>'", "b+c%20"))}
    made(tmp_path / "task", "coco", proposed)
    command = [TOOLS, ROOT / "tests/tools.py", "write", form, tmp_path / "task", tmp_path / "export"]
    subprocess.run(command, check=True, capture_output=True)
    root = tmp_path / "export"
    data = Data(name="export", kind="folder", root=str(root), **EXPORTS[form])
    dataset, _, problems = inspect(data, 1)
    if data.annotations:
        dataset, _, problems = draw_masks(data, dataset, tmp_path / "out", 1)
    assert problems == [] and dataset.classes == CLASSES
    reader = ImageReader(dataset, root)
    for number, (name, mask) in enumerate(proposed.items(), 1):
        np.testing.assert_array_equal(reader.mask(Path(file_name(number, name)).stem), mask)


LABEL_STUDIO = os.environ.get("LABEL_STUDIO") or shutil.which("label-studio")
"""Its command, which is not in the project's environment."""


@pytest.mark.slow
@pytest.mark.skipif(not LABEL_STUDIO, reason="set LABEL_STUDIO to its command")
def test_label_studio_imports_a_task_shows_it_and_exports_the_proposed_masks(
    project: Project, proposed: dict[str, Mask]
) -> None:
    folder = project.folder / "task"
    made(folder, "label-studio", proposed, 1.0, "stability 0.25")
    project.env |= {
        "LABEL_STUDIO_BASE_DATA_DIR": str(project.folder / "server"),
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(folder),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    account = "--username", USER, "--password", PASSWORD, "--user-token", TOKEN, "--enable-legacy-api-token"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = project.start(
        *[str(LABEL_STUDIO), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)], *account
    )
    wait_for(f"{url}/health", server)
    number, export = sent(url, folder)
    records = {name: Record(name, "", "", m.shape[1], m.shape[0], "", "", ()) for name, m in proposed.items()}
    dataset = Dataset("back", CLASSES, PALETTE, {}, records)
    by = dict.fromkeys(proposed, "user 1")
    assert masks_of_export(export, folder, None, dataset, project.folder / "back") == (by, [])
    for name in proposed:
        shown = read_png(folder / f"proposed/{name}.png")
        np.testing.assert_array_equal(read_png(project.folder / f"back/{name}.png"), shown)
    screenshot(url, number, project.folder / "page.png")
