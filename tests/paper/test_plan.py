"""Tests of the time, memory and disk that a plan names."""

import re
from pathlib import Path

import pytest

from stpp.engine.benchmark import memory_of_a_training, size_of
from stpp.paper.plan import Job, estimate
from stpp.params.file import load
from stpp.params.models import Model

ROOT = Path(__file__).parents[2]


def test_a_plan_counts_the_students_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # without a split
    teacher, student = (
        Model(network="deeplabv3plus", backbone=backbone, weights="none", output_stride=16, precision="float32")
        for backbone in ("resnet18", "resnet101")
    )
    params = load([ROOT / "params.yaml"]).model_copy(update={"model": teacher, "student": student})

    def said(*systems: str) -> tuple[float, float]:
        text = estimate([Job("own", 0, params, {}, {}, systems, frozenset())])
        memory, disk = re.findall(r"([\d.]+) GB", text)
        return float(memory), float(disk)

    kept = params.train.checkpoints + 1  # and the model itself
    large, small = size_of(student) / 1e9, size_of(teacher) / 1e9
    memories = [memory_of_a_training(params.model_copy(update={"model": one})) / 1e9 for one in (teacher, student)]
    assert said("suponly") == pytest.approx((memories[0], kept * small), abs=0.06)
    assert said("st") == pytest.approx((memories[1], kept * small + large), abs=0.06)
    assert said("fixmatch") == pytest.approx((memories[0], small), abs=0.06)
    assert memories[1] > memories[0] + 0.2 and large > small + 0.1
