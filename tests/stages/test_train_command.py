"""Tests that the metrics of `stpp train` equal an evaluation of its weights, and of its loss."""

import numpy as np
import pytest
from PIL import Image
from small import Project

from stpp.store.files import read_json


def miou(project: Project, model: str, subset: str) -> float:
    """Return the mIoU of a checkpoint on a set of the split, measured by `stpp evaluate`."""
    words = f"stpp evaluate --model m={model} --data runs/data --ids runs/split/{subset}.txt --out out"
    project.run(*words.split())
    return float(read_json(project.folder / "out/metrics.json")[subset]["m"]["miou"])


@pytest.mark.parametrize(("keep", "ema"), [("last", None), ("best_val", None), ("last", 0.9)])
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
