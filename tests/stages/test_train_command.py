"""Tests that the metrics of `stpp train` equal an evaluation of its weights, and of its loss."""

import numpy as np
import pytest
import torch
from PIL import Image
from small import Project

from stpp.data.normalization import Normalization
from stpp.deploy.predictor import Predictor
from stpp.engine.device import emulates_bfloat16
from stpp.models.build import build
from stpp.models.metadata import Start
from stpp.params.models import Model
from stpp.stages.training import _start
from stpp.store.files import read_json
from stpp.store.masks import MaskSet


def miou(project: Project, model: str, subset: str) -> float:
    """Return the mIoU of a checkpoint on a set of the split, measured by `stpp evaluate`."""
    words = f"stpp evaluate --model m={model} --data runs/data --ids runs/split/{subset}.txt --out out"
    project.run(*words.split())
    return float(read_json(project.folder / "out/metrics.json")[subset]["m"]["miou"])


@pytest.mark.parametrize(("keep", "ema"), [("best_val", None), ("last", 0.9)])
def test_the_model_is_the_kept_epoch_and_its_metrics_equal_an_evaluation(
    prepared: Project, keep: str, ema: float | None
) -> None:
    prepared.params(train={"keep": keep, "ema": ema})
    common = "--data runs/data --split runs/split --backbone runs/backbone.safetensors"
    prepared.run(*f"stpp train --name teacher {common} --out runs/teacher".split())
    val = read_json(prepared.folder / "runs/teacher/metrics.json")["val"]
    model = "runs/teacher/model.safetensors"
    assert miou(prepared, model, "val") == pytest.approx(val["miou_last" if keep == "last" else "miou_best"])
    assert val["miou_best"] >= val["miou_last"]
    of_epochs = [miou(prepared, f"runs/teacher/checkpoints/{j}.safetensors", "val") for j in (1, 2, 3)]
    assert [max(of_epochs), of_epochs[-1]] == pytest.approx([val["miou_best"], val["miou_last"]])


def test_a_student_learns_from_soft_masks_of_its_teacher(prepared: Project) -> None:
    prepared.params(
        label={"soft": True, "threshold": 0.25, "scales": [1.0], "flip": False},
        train={"loss": {"class_weights": "frequency", "ohem": 0.5, "dice": 1.0}},
    )
    common = "--data runs/data --split runs/split"
    train = f"stpp train {common} --backbone runs/backbone.safetensors"
    prepared.run(*f"{train} --name teacher --out runs/teacher".split())
    model, ids = prepared.folder / "runs/teacher/model.safetensors", "--ids runs/split/unlabeled.txt"
    prepared.run(*f"stpp label --model {model} {ids} {common} --out runs/label".split())
    masks, predictor = MaskSet(prepared.folder / "runs/label/masks"), Predictor(model, torch.device("cpu"))
    for name in masks.ids:
        image = np.array(Image.open(prepared.folder / f"data/toy/images/{name}.png").convert("RGB"))
        p, mask, levels = (
            predictor.probabilities(image).permute(1, 2, 0).numpy(),
            masks.read(name),
            masks.read_levels(name),
        )
        assert np.array_equal(levels.sum(2, dtype=int), np.where(mask == 255, 0, 255))
        assert np.abs(levels - 255 * p)[mask != 255].max(initial=0) < 1.01
    student = f"{train} --name student --pseudo runs/label/masks --out runs/student"
    assert "give one of the two" in prepared.run(*f"{student} --as-long-as runs/split/unlabeled.txt".split(), rc=2)
    said = prepared.run(*student.split())
    assert "pseudo-labelled (soft); " in said
    assert 0 < read_json(prepared.folder / "runs/student/metrics.json")["train_loss"] < 10


def test_class_weights_by_frequency_count_the_labelled_masks_and_a_wrong_number_of_weights_is_refused(
    prepared: Project,
) -> None:
    common = "--data runs/data --split runs/split --backbone runs/backbone.safetensors --out runs/teacher"
    prepared.params(train={"loss": {"class_weights": [1.0, 2.0]}})
    said = prepared.run(*f"stpp train --name teacher {common}".split(), rc=2)
    assert "train.loss.class_weights has 2 numbers, but the data set has 6 classes (background, " in said
    prepared.params(train={"loss": {"class_weights": "frequency", "ohem": 0.5, "dice": 1.0}})
    said = prepared.run(*f"stpp train --name teacher {common}".split())
    about = read_json(prepared.folder / "runs/teacher/run.json")
    pixels = np.zeros(256, int)
    for name in (prepared.folder / "runs/split/labeled.txt").read_text().split():
        mask = Image.open(prepared.folder / f"data/toy/masks/{name}.png")
        pixels += np.bincount(np.asarray(mask).ravel(), minlength=256)
    assert list(about["class_pixels"].values()) == pixels[:6].tolist()
    weights = about["class_weights"]
    assert f"class weights: background {weights['background']:.3g}, " in said
    assert weights["background"] == min(weights.values()) < 1 < max(weights.values())


def test_a_training_that_is_as_long_as_a_students_keeps_no_checkpoints_to_score(prepared: Project) -> None:
    common = "--name teacher --data runs/data --split runs/split --backbone runs/backbone.safetensors"
    prepared.run(*f"stpp train {common} --out runs/teacher".split())
    said = prepared.run(*f"stpp train {common} --as-long-as runs/split/unlabeled.txt --out runs/long".split())
    assert "8 labelled x 4, 0 pseudo-labelled; 3 epochs of 8 iterations" in said
    assert [(prepared.folder / f"runs/{of}/checkpoints").exists() for of in ("teacher", "long")] == [True, False]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("freeze", [False, True])
def test_a_training_says_what_is_frozen(channels: int, freeze: bool) -> None:
    model = Model(backbone="test_resnet", weights="mine.pth", freeze=freeze)
    network = build(model, 2, Normalization((0.5,) * channels, (0.2,) * channels))
    started = frozenset(name for name in network.state_dict() if name.startswith("backbone."))
    said = _start(Start("mine.pth"), network, started)
    assert said.startswith("backbone from mine.pth")
    assert ("the backbone frozen" in said) == freeze
    assert ("first layer, whose weights for 3 channels were adapted to 4" in said) == (freeze and channels == 4)


def test_a_training_warns_if_its_processor_only_emulates_bfloat16(prepared: Project) -> None:
    for precision in ("bfloat16", "float32"):
        prepared.params(model={"precision": precision}, train={"epochs": 3})
        prepared.run(*["stpp", "backbone", "--weights", "weights", "--out", "runs/backbone.safetensors"])
        common = "--data runs/data --split runs/split --backbone runs/backbone.safetensors"
        said = prepared.run(*f"stpp train --name teacher {common} --out runs/{precision}".split())
        slow = precision == "bfloat16" and emulates_bfloat16(torch.device("cpu"))
        assert ("no instructions for bfloat16" in said) == slow
