"""Tests that the metrics of `stpp train` equal an evaluation of its weights."""

import pytest
from small import Project

from stpp.store.files import read_json


def miou(project: Project, model: str, subset: str) -> float:
    """Return the mIoU of a checkpoint on a set of the split, measured by `stpp evaluate`."""
    words = f"stpp evaluate --model m={model} --data runs/data --ids runs/split/{subset}.txt --out out"
    project.run(*words.split())
    return float(read_json(project.folder / "out/metrics.json")[subset]["m"]["miou"])


@pytest.mark.parametrize("keep", ["last", "best_val"])
def test_the_model_is_the_kept_epoch_and_its_metrics_equal_an_evaluation(prepared: Project, keep: str) -> None:
    prepared.params(train={"keep": keep})
    common = "--data runs/data --split runs/split --backbone runs/backbone.safetensors"
    prepared.run(*f"stpp train --name teacher {common} --out runs/teacher".split())
    val = read_json(prepared.folder / "runs/teacher/metrics.json")["val"]
    model = "runs/teacher/model.safetensors"
    assert miou(prepared, model, "val") == pytest.approx(val["miou_last" if keep == "last" else "miou_best"])
    assert val["miou_best"] >= val["miou_last"]
    of_epochs = [miou(prepared, f"runs/teacher/checkpoints/{j}.safetensors", "val") for j in (1, 2, 3)]
    assert [max(of_epochs), of_epochs[-1]] == pytest.approx([val["miou_best"], val["miou_last"]])
