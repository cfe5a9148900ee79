"""Whole runs on images of other bits and bands: they train, and all stages and `stpp predict` read them alike."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from small import OWN, Project

from stpp.models import metadata
from stpp.store.files import read_json
from stpp.store.masks import MaskSet

pytestmark = pytest.mark.slow

NODATA = 65535


def drawn(project: Project) -> Project:
    """Draw the embedded images, and describe them as a person does."""
    project.run("stpp", "draw", "--out", "data/toy")
    (project.folder / "data/toy").rename(project.folder / "data/mine")
    return project


def toy_pixels(path: Path) -> NDArray[np.uint16]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(np.uint16)


def described(project: Project, images: str, **more: object) -> None:
    data = {**OWN, "name": "mine", "root": "data/mine", "images": images, "masks": "masks/{name}.png", **more}
    project.params(data=data)


def run_all(project: Project, overlay: str = "overlay") -> None:
    project.run("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split")
    project.run("stpp", "backbone", "--weights", "weights", "--out", "runs/backbone.safetensors")
    inputs = ("--data", "runs/data", "--split", "runs/split")
    training = (*inputs, "--backbone", "runs/backbone.safetensors")
    project.run("stpp", "train", "--name", "teacher", *training, "--out", "runs/teacher")
    project.run("stpp", "score", "--checkpoints", "runs/teacher/checkpoints", *inputs, "--out", "runs/score")
    project.run("stpp", "select", "--scores", "runs/score", "--out", "runs/selection")
    ids = ("--ids", "runs/split/unlabeled.txt")
    project.run("stpp", "label", "--model", "runs/teacher/model.safetensors", *ids, *inputs, "--out", "runs/label")
    pseudo = ("--pseudo", "runs/label/masks")
    project.run("stpp", "train", "--name", "student", *training, *pseudo, "--out", "runs/student")
    model = ("--model", "stpp=runs/student/model.safetensors")
    project.run("stpp", "evaluate", *inputs, *model, "--out", "runs/evaluation")
    model = ("--model", "runs/student/model.safetensors")
    project.run("stpp", "predict", "data/mine/images", *model, "--out", "out", "--as", "mask", "--as", overlay)
    worst = sorted((project.folder / "runs/evaluation/worst").rglob("*.png"))
    assert worst
    for path in worst:  # `predict` alone reads and predicts as `evaluate` does
        with Image.open(path) as one, Image.open(project.folder / "out/masks" / path.name) as other:
            ours, theirs = np.asarray(one), np.asarray(other)
            assert (ours == theirs)[theirs != 255].all()


def test_a_grey_set_of_12_bits_is_refused_until_its_range_is_given_and_then_trains(project: Project) -> None:
    folder = drawn(project).folder / "data/mine/images"
    for path in folder.iterdir():
        Image.fromarray(toy_pixels(path).mean(2).astype(np.uint16) * 16).save(path)
    described(project, "images/{name}.png")
    said = project.run("stpp", "prepare", "--out", "runs/data", rc=2)
    assert "1 band of 16 bits, but only" in said and "give data.range" in said and "Traceback" not in said
    described(project, "images/{name}.png", range=[0, 3000])
    said = project.run("stpp", "prepare", "--out", "runs/data")
    assert "values above data.range become 255" in said
    run_all(project)
    about = metadata.read_metadata(project.folder / "runs/student/model.safetensors")
    assert about.reading is not None and about.reading.ranges == ((0.0, 3000.0),) and about.reading.channels == 3


def test_four_bands_of_16_bits_with_pixels_without_data_train_and_are_predicted(project: Project) -> None:
    folder = drawn(project).folder / "data/mine/images"
    for path in [*folder.iterdir()]:
        rgb = toy_pixels(path) * 40
        values = np.concatenate([rgb, rgb.max(2, keepdims=True) // 2], axis=2)
        values[:4] = NODATA
        tifffile.imwrite(path.with_suffix(".tif"), values, photometric="minisblack", planarconfig="contig")
        path.unlink()
    described(project, "images/{name}.tif", bands=[4, 1, 2, 3], range="percentile", nodata=NODATA, cache_gb=None)
    said = project.run("stpp", "prepare", "--out", "runs/data", rc=2)
    assert "no such parameter" in said
    described(project, "images/{name}.tif", bands=[4, 1, 2, 3], range="percentile", nodata=NODATA)
    said = project.run("stpp", "prepare", "--out", "runs/data")
    assert "data.range percentile, measured over 30 image(s)" in said
    assert f"{30 * 4 * 32} pixels without data: 30 image(s)" in said
    run_all(project)
    reading = read_json(project.folder / "runs/data/dataset.json")["reading"]
    about = metadata.read_metadata(project.folder / "runs/student/model.safetensors")
    assert about.reading is not None and list(about.reading.mean) == reading["mean"] == list(
        about.start.normalization.mean
    )
    assert len(reading["mean"]) == 4
    pseudo = MaskSet(project.folder / "runs/label/masks")
    for name in pseudo.ids:
        mask = pseudo.read(name)
        assert (mask[:4] == 255).all() and (mask[4:] != 255).all()
    _, *rows = (project.folder / "runs/score/classes.csv").read_text().splitlines()
    assert {sum(map(int, row.split(",")[1:])) for row in rows} == {28 * 32}
    counted = json.loads((project.folder / "runs/evaluation/scores.json").read_text())["val"]["stpp"]
    assert np.sum(counted) <= 6 * 28 * 32
