"""Tests that images above `max_pixels` are predicted in windows, and that the mask set records the windows."""

import pytest
from small import TINY, Project

from stpp.store.masks import MaskSet

COMMON = ("--data", "runs/data", "--split", "runs/split")


@pytest.mark.slow
def test_a_mask_set_records_its_windows_and_windows_change_predictions(project: Project) -> None:
    found = {}
    for max_pixels in (48 * 48, 48 * 48 - 1):
        project.params(toy={"size": 48}, label={**TINY["label"], "scales": [1.0], "max_pixels": max_pixels})
        if not found:  # both settings label with the same teacher
            project.prepare()
            backbone = ("--backbone", "runs/backbone.safetensors")
            project.run("stpp", "train", "--name", "teacher", *COMMON, *backbone, "--out", "runs/teacher")
        to_label = ("--model", "runs/teacher/model.safetensors", "--ids", "runs/split/unlabeled.txt")
        project.run("stpp", "label", *to_label, *COMMON, "--out", f"runs/label_{max_pixels}")
        found[max_pixels] = MaskSet(project.folder / f"runs/label_{max_pixels}/masks").rows
    whole, windows = found.values()
    assert {row["window"] for row in whole.values()} == {""}
    assert {row["window"] for row in windows.values()} == {"47"}
    assert list(whole) == list(windows)
    assert any(whole[i]["confidence"] != windows[i]["confidence"] for i in whole)
