"""Tests of `stpp predict`: it needs only a checkpoint and photos, keeps existing files, and names unreadable ones."""

import io
import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from small import Project
from torch.nn.functional import interpolate

from stpp.data.transforms import normalize
from stpp.models import build, metadata
from stpp.params.models import Model
from stpp.stages.predict import _overlay
from stpp.store.files import digest
from stpp.store.reading import Reading

MODEL = Model(backbone="test_resnet", output_stride=16)
ABOUT = metadata.CheckpointMetadata(MODEL, ("sky", "road", "<b>sign</b>"), ((1, 2, 3), (200, 100, 0), (0, 0, 255)))


@pytest.fixture
def photos(project: Project) -> Project:
    """Return a project with a checkpoint and a folder of photos of several sizes and kinds, one with an orientation."""
    torch.manual_seed(1)
    build.save(project.folder / "model.safetensors", build.build(MODEL, 3).state_dict(), ABOUT)
    folder = project.folder / "photos"
    (folder / "deep/er").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.jpg", (40, 64, 3)), ("deep/b.png", (33, 47, 3)), ("deep/er/c d.bmp", (17, 90, 3))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / name)
    turned = Image.fromarray(rng.integers(0, 256, (30, 50, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    (folder / "notes.md").write_text("no image")
    return project


def predict(project: Project, *words: str, rc: int = 0) -> str:
    output = project.run("stpp", "predict", *words, "--model", "model.safetensors", "--out", "out", rc=rc)
    assert "Traceback" not in output
    return output


def test_a_folder_gives_masks_with_the_same_names_and_sizes(photos: Project) -> None:
    output = predict(photos, "photos", "--as", "mask", "--as", "overlay", "--as", "probabilities")
    assert "4 of 4 images" in output
    assert "warning: EXIF orientation: turned upright: 1 image(s), such as photos/turned.jpg" in output
    out = photos.folder / "out"
    assert {p.relative_to(out / "masks").as_posix() for p in (out / "masks").rglob("*.png")} == {
        "a.png",
        "deep/b.png",
        "deep/er/c d.png",
        "turned.png",
    }
    with Image.open(out / "masks/turned.png") as turned:
        assert turned.size == (30, 50), "upright, as a person sees the photo"
    network = build.load(MODEL, 3, photos.folder / "model.safetensors").eval()
    with Image.open(photos.folder / "photos/deep/b.png") as photo, Image.open(out / "masks/deep/b.png") as mask:
        pixels = np.asarray(photo)
        with torch.inference_mode():
            scores = network(torch.from_numpy(normalize(pixels))[None]).softmax(1)[0]
        predicted = np.asarray(mask)
        assert (predicted == scores.argmax(0).numpy()).all()
        assert mask.getpalette()[:9] == [1, 2, 3, 200, 100, 0, 0, 0, 255]  # type: ignore[index]
        with Image.open(out / "overlays/deep/b.png") as overlay:
            colours = np.array(ABOUT.palette)[predicted]
            assert (np.abs(np.asarray(overlay).astype(int) - (pixels.astype(int) + colours) / 2) <= 1).all()
    with np.load(out / "probabilities/deep/b.npz") as held:
        np.testing.assert_allclose(held["probabilities"], scores.numpy(), atol=1e-3)
        assert tuple(held["classes"]) == ABOUT.classes
    assert json.loads((out / "predictions.json").read_text())["classes"] == list(ABOUT.classes)


def test_an_overlay_leaves_the_background_clear() -> None:
    image, mask = np.full((1, 3, 3), 100, np.uint8), np.array([[0, 1, 2]], np.uint8)
    about = replace(ABOUT, classes=("_background_", *ABOUT.classes[1:]))
    shown = [np.asarray(Image.open(io.BytesIO(_overlay(image, mask, one)))) for one in (about, ABOUT)]
    assert shown[0].tolist() == [[[100, 100, 100], [150, 100, 50], [50, 50, 177]]]
    assert shown[1].tolist() == [[[50, 51, 51], [150, 100, 50], [50, 50, 177]]]


@pytest.mark.parametrize("words", [["photos/*.jpg"], ["list.txt"], ["photos/a.jpg", "photos/turned.jpg"]])
def test_images_can_be_given_as_patterns_lists_and_files(photos: Project, words: list[str]) -> None:
    (photos.folder / "list.txt").write_text("photos/a.jpg\r\n\r\nphotos/turned.jpg\n")
    predict(photos, *words)
    assert {p.name for p in (photos.folder / "out/masks").iterdir()} == {"a.png", "turned.png"}


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_predicted(photos: Project) -> None:
    (photos.folder / "photos/broken.png").write_bytes(b"no image at all")
    cut = (photos.folder / "photos/a.jpg").read_bytes()[:300]
    (photos.folder / "photos/cut.jpg").write_bytes(cut)
    output = predict(photos, "photos", rc=2)
    assert "broken.png: not an image" in output
    assert "cut.jpg: cannot be read: damaged or truncated" in output
    assert len(list((photos.folder / "out/masks").rglob("*.png"))) == 4


def test_an_overflow_in_the_network_is_reported_with_the_image(photos: Project) -> None:
    state = build.load(MODEL, 3, photos.folder / "model.safetensors").state_dict()
    large = {"classifier.weight": torch.full_like(state["classifier.weight"], 3e38)}
    build.save(photos.folder / "model.safetensors", state | large, ABOUT)
    output = predict(photos, "photos", rc=2)
    assert "photos/a.jpg: the network's probabilities are not finite" in output
    assert not list((photos.folder / "out").rglob("*.png"))


def test_photos_that_are_not_supported_are_named_and_counted_and_the_others_are_predicted(photos: Project) -> None:
    """Once, a HEIC photo beside a JPEG of the same name was skipped without a message."""
    folder = photos.folder / "photos"
    (folder / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    shutil.copyfile(folder / "a.jpg", folder / "scan")
    for name in (".DS_Store", "._a.jpg", "Thumbs.db"):
        (folder / name).write_bytes(b"\xff\xd8\xff")
    (photos.folder / "elsewhere").mkdir()
    (folder / "link").symlink_to(photos.folder / "elsewhere")
    output = predict(photos, "photos", rc=2)
    assert "4 of 7 images" in output
    assert "a.HEIC: .heic cannot be read; convert it to PNG or JPEG" in output
    assert "scan: its content is JPEG, but its name does not say so; rename or convert it" in output
    assert "link: a link to a folder, which is not followed" in output
    assert "skipped, not images: 3 hidden, 1 .md" in output
    assert len(list((photos.folder / "out/masks").rglob("*.png"))) == 4


def test_files_of_a_user_or_of_another_model_are_not_replaced(photos: Project) -> None:
    (photos.folder / "out").mkdir()
    (photos.folder / "out/mine.txt").write_text("mine")
    assert "out: already exists" in predict(photos, "photos", rc=2)
    assert [p.name for p in (photos.folder / "out").iterdir()] == ["mine.txt"]
    (photos.folder / "out/mine.txt").unlink()
    predict(photos, "photos")
    before = digest([photos.folder / "out"])
    assert "of another model or with other options" in predict(photos, "photos", "--tta", rc=2)
    build.save(photos.folder / "model.safetensors", build.build(MODEL, 3).state_dict(), ABOUT)
    assert "of another model or with other options" in predict(photos, "photos", rc=2)
    assert digest([photos.folder / "out"]) == before


def test_results_inside_the_photos_folder_are_not_predicted_again(photos: Project) -> None:
    for _ in range(2):
        output = photos.run("stpp", "predict", "photos", "--model", "model.safetensors", "--out", "photos/out")
        assert "4 of 4 images" in output


def test_results_of_another_photo_with_the_same_name_and_files_of_a_user_are_not_replaced(photos: Project) -> None:
    predict(photos, "photos/a.jpg")
    masks = photos.folder / "out/masks"
    before = (masks / "a.png").read_bytes()
    (photos.folder / "again").mkdir()
    shutil.copyfile(photos.folder / "photos/deep/b.png", photos.folder / "again/a.png")
    assert "its results would replace those of" in predict(photos, "again/a.png", rc=2)
    assert (masks / "a.png").read_bytes() == before
    (masks / "turned.png").write_text("mine")
    output = predict(photos, "photos", rc=2)
    assert "turned.png: already exists and was not written by stpp" in output
    assert (masks / "turned.png").read_text() == "mine"
    assert (masks / "deep/b.png").is_file(), "the rest is done"


def test_an_image_with_the_longest_name_is_predicted(photos: Project) -> None:
    name = "x" * 251
    shutil.copyfile(photos.folder / "photos/deep/b.png", photos.folder / f"photos/{name}.png")
    predict(photos, "photos")
    assert (photos.folder / f"out/masks/{name}.png").is_file()


@pytest.mark.parametrize("line", [b'{"name": [1]}\n', b"\xff\n", b"[]\n", b"3\n", b'{"name": "a", "image": 3}\n'])
def test_a_damaged_journal_only_costs_time(photos: Project, line: bytes) -> None:
    predict(photos, "photos")
    with (photos.folder / "out/done.jsonl").open("ab") as file:
        file.write(line)
    assert "4 of 4 images" in predict(photos, "photos")


def test_a_second_call_predicts_only_new_and_changed_images(photos: Project) -> None:
    predict(photos, "photos")
    times = {p: p.stat().st_mtime_ns for p in (photos.folder / "out/masks").rglob("*.png")}
    shutil.copyfile(photos.folder / "photos/deep/b.png", photos.folder / "photos/new.png")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(photos.folder / "photos/a.jpg")
    (photos.folder / "out/masks/turned.png").unlink()
    predict(photos, "photos")
    again = {p: p.stat().st_mtime_ns for p in (photos.folder / "out/masks").rglob("*.png")}
    written = {p.name for p, at in again.items() if times.get(p) != at}
    assert written == {"a.png", "new.png", "turned.png"}


@pytest.mark.slow
def test_a_killed_prediction_resumes_and_gives_the_same_masks(photos: Project) -> None:
    rng = np.random.default_rng(1)
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(photos.folder / f"photos/{i:02}.png")
    process = photos.start("stpp", "predict", "photos", "--model", "model.safetensors", "--out", "out")
    masks = photos.folder / "out/masks"
    deadline = time.monotonic() + 120
    while len(list(masks.glob("*.png"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(list(masks.rglob("*.png")))
    assert done < 64
    with (photos.folder / "out/done.jsonl").open("a") as file:
        file.write('{"name": "cut sh')  # as after a kill in the middle of a line
    predict(photos, "photos")
    photos.run("stpp", "predict", "photos", "--model", "model.safetensors", "--out", "other")
    assert digest([masks]) == digest([photos.folder / "other/masks"])


def test_windows_and_test_time_augmentation_are_options(photos: Project) -> None:
    output = photos.folder / "out/probabilities"
    kinds = ["photos/a.jpg", "--as", "probabilities"]
    found = {}
    for name, more in (("whole", []), ("windows", ["--window", "32"]), ("tta", ["--tta"])):
        predict(photos, *kinds, *more)
        with np.load(output / "a.npz") as held:
            found[name] = held["probabilities"]
        shutil.rmtree(photos.folder / "out")
    assert {one.shape for one in found.values()} == {(3, 40, 64)}
    for name in ("windows", "tta"):
        assert not np.allclose(found[name], found["whole"], atol=1e-3)
        np.testing.assert_allclose(found[name].astype(float).sum(0), 1, atol=5e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no images found"),
        (["photos/*.gif"], "photos/*.gif: no images found"),
        (["empty.txt"], "empty.txt: no images found"),
        (["wrong.txt"], "photos/x.jpg: no such file"),
        (["photos/a.jpg", "again/a.png"], "its results would have the same name as those of photos/a.jpg"),
    ],
)
def test_inputs_without_images_are_reported_before_anything_is_written(
    photos: Project, words: list[str], said: str
) -> None:
    (photos.folder / "empty.txt").write_text("\n")
    (photos.folder / "wrong.txt").write_text("photos/a.jpg\nphotos/x.jpg\n")
    (photos.folder / "again").mkdir()
    shutil.copyfile(photos.folder / "photos/deep/b.png", photos.folder / "again/a.png")
    assert said in predict(photos, *words, rc=2)
    assert not (photos.folder / "out").exists()


def test_the_error_names_a_file_that_is_not_a_checkpoint_of_stpp(photos: Project) -> None:
    path = photos.folder / "model.safetensors"
    build.save(path, build.build(MODEL, 3).state_dict())
    assert "no valid metadata about its network and classes" in predict(photos, "photos", rc=2)
    path.write_bytes(b"PK\x03\x04")
    assert "not readable as weights" in predict(photos, "photos", rc=2)
    path.unlink()
    assert "model.safetensors: no such file" in predict(photos, "photos", rc=2)
    assert not (photos.folder / "out").exists()


@pytest.mark.parametrize(
    "about",
    [
        metadata.CheckpointMetadata(MODEL, ("a",), ((0, 0, 0),)),
        metadata.CheckpointMetadata(MODEL, ("a", "b"), ((0, 0, 0),)),
        metadata.CheckpointMetadata(MODEL, ("a", "b"), ((0, 0, 0), (0, 0, 256))),
        metadata.CheckpointMetadata(MODEL, tuple(map(str, range(300))), ((0, 0, 0),) * 300),
    ],
)
def test_a_checkpoint_with_invalid_metadata_about_its_classes_is_refused(
    tmp_path: Path, about: metadata.CheckpointMetadata
) -> None:
    build.save(tmp_path / "m.safetensors", {"x": torch.zeros(1)}, about)
    with pytest.raises(Exception, match="invalid metadata about its"):
        metadata.read_metadata(tmp_path / "m.safetensors")


def test_metadata_of_a_checkpoint_is_read_back_and_gives_equal_bytes(tmp_path: Path) -> None:
    state = {"x": torch.zeros(1)}
    for name in ("a", "b"):
        build.save(tmp_path / name, state, ABOUT)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert metadata.read_metadata(tmp_path / "a") == ABOUT


def test_test_time_augmentation_is_the_mean_over_five_scales_and_flips(photos: Project) -> None:
    state = build.load(MODEL, 3, photos.folder / "model.safetensors").state_dict()
    sure = {"classifier.weight": 50 * state["classifier.weight"]}
    build.save(photos.folder / "model.safetensors", state | sure, ABOUT)
    predict(photos, "photos/deep/b.png", "--as", "probabilities", "--tta")
    network = build.load(MODEL, 3, photos.folder / "model.safetensors").eval()
    x = torch.from_numpy(normalize(np.asarray(Image.open(photos.folder / "photos/deep/b.png"))))[None]
    size = x.shape[2:]
    views = {"plain": torch.zeros(3, *size), "mirrored": torch.zeros(3, *size)}
    for scale in (0.5, 0.75, 1.0, 1.5, 2.0):
        scaled = interpolate(x, [int(side * scale) for side in size], mode="bilinear", align_corners=True)
        with torch.inference_mode():
            for name, seen in (("plain", scaled), ("mirrored", scaled.flip(3))):
                p = interpolate(network(seen).softmax(1), list(size), mode="bilinear", align_corners=True)
                views[name] += (p.flip(3) if name == "mirrored" else p)[0] / 10
    with np.load(photos.folder / "out/probabilities/b.npz") as held:
        found = held["probabilities"].astype(float)
    np.testing.assert_allclose(found, (views["plain"] + views["mirrored"]).numpy(), atol=2e-3)
    assert not np.allclose(found, 2 * views["plain"].numpy(), atol=4e-3), "the mirror images count"


def test_predictions_are_tasks_for_tools_which_a_second_call_leaves_to_the_person(photos: Project) -> None:
    words = "photos", "--as", "labelme", "--as", "coco"
    said = predict(photos, *words)
    out = photos.folder / "out"
    assert "out/labelme: a task of 4 images" in said and "1. labelme out/labelme/images" in said
    known = json.loads((out / "coco/instances.json").read_text())
    assert sorted(one["file_name"] for one in known["images"]) == [
        "a.jpg",
        "deep/b.png",
        "deep/er/c d.bmp",
        "turned.jpg",
    ]
    turned = next(one for one in known["images"] if one["file_name"] == "turned.jpg")
    assert (turned["width"], turned["height"]) == (30, 50)
    corrected = out / "labelme/images/deep/er/c d.json"
    assert json.loads(corrected.read_text())["imagePath"] == "c d.bmp" and corrected.with_suffix(".bmp").is_file()
    corrected.write_text("corrected")
    assert "out/labelme: stays as it is" in predict(photos, *words)
    assert corrected.read_text() == "corrected"


def test_a_geotiff_gives_a_mask_at_the_same_place(photos: Project) -> None:
    """Transform and projection are those of the image, as stored; a photo without them gives a note."""
    scale, tie = (10.0, 10.0, 0.0), (0.0, 0.0, 0.0, 399960.0, 5300040.0, 0.0)
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632)
    tags = [(33550, 12, 3, scale, True), (33922, 12, 6, tie, True), (34735, 3, len(keys), keys, True)]
    values = np.random.default_rng(0).integers(0, 5000, (40, 50, 3)).astype(np.uint16)
    values[:5] = 0
    folder = photos.folder / "field"
    folder.mkdir()
    tifffile.imwrite(folder / "geo.tif", values, photometric="rgb", compression="lzw", extratags=tags)
    shutil.copyfile(photos.folder / "photos/a.jpg", folder / "a.jpg")
    reading = Reading((), ((0.0, 5000.0),), 0.0)
    network = build.load(MODEL, 3, photos.folder / "model.safetensors")
    build.save(photos.folder / "model.safetensors", network.state_dict(), replace(ABOUT, reading=reading))
    assert "`--as geotiff` writes masks with its transform" in predict(photos, "field/geo.tif")
    shutil.rmtree(photos.folder / "out")
    said = predict(photos, "field", "--as", "mask", "--as", "geotiff")
    assert "without transform and projection, so its GeoTIFF has none: 1 image(s), such as field/a.jpg" in said
    out = photos.folder / "out"
    with Image.open(out / "masks/geo.png") as image, tifffile.TiffFile(out / "geotiffs/geo.tif") as written:
        page = written.pages.first
        mask = page.asarray()
        assert np.array_equal(mask, np.asarray(image)) and (mask[:5] == 255).all()
        found = {tag.code: tag.value for tag in page.tags}
        assert (found[33550], found[33922], found[34735]) == (scale, tie, keys)
        assert found[42113] == "255" and page.colormap[:, 1].tolist() == [257 * c for c in ABOUT.palette[1]]
    with Image.open(out / "geotiffs/geo.tif") as image:
        assert np.array_equal(np.asarray(image), mask)
