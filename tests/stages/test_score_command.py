"""Tests of the tables of `stpp score`, with networks that predict one class everywhere."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from small import Project

from stpp.models import build, metadata
from stpp.params.models import Model
from stpp.store.files import read_csv, read_ids
from stpp.store.manifest import read_dataset

MODEL = Model(backbone="mobilenetv3_small_050", output_stride=16)


def test_the_last_checkpoint_by_number_is_the_reference_of_all_columns(
    prepared: Project,
) -> None:
    """f_1 .. f_9 predict class 0, f_10 predicts class 1 with probability 1 / 2, so no mask agrees with M_iK."""
    dataset = read_dataset(prepared.folder / "runs/data")
    classes = len(dataset.classes)
    torch.manual_seed(0)
    state = build.build(MODEL, classes).state_dict()
    about = metadata.CheckpointMetadata(MODEL, dataset.classes, dataset.palette)
    for j in range(1, 11):
        bias = torch.zeros(classes)
        bias[int(j == 10)] = math.log(classes - 1)
        constant = {"classifier.weight": torch.zeros_like(state["classifier.weight"]), "classifier.bias": bias}
        build.save(prepared.folder / f"checkpoints/{j}.safetensors", state | constant, about)
    words = "stpp score --checkpoints checkpoints --data runs/data --split runs/split --out runs/score"
    prepared.run(*words.split())

    ids = sorted(read_ids(prepared.folder / "runs/split/unlabeled.txt"))
    rows = read_csv(prepared.folder / "runs/score/scores.csv", ("id", "stability", "confidence"))
    assert [row["id"] for row in rows] == ids
    assert {float(row["stability"]) for row in rows} == {0.0}
    assert [float(row["confidence"]) for row in rows] == pytest.approx([0.5] * len(ids), abs=1e-6)
    quality = read_csv(prepared.folder / "runs/score/quality.csv", ("id", "miou"))
    assert [row["id"] for row in quality] == ids
    for row in quality:
        true = np.asarray(Image.open(prepared.folder / "data/toy" / dataset.records[row["id"]].mask))
        occurring = set(np.unique(true).tolist()) - {255} | {1}
        assert float(row["miou"]) == pytest.approx(100 * (true == 1).sum() / true.size / len(occurring))
    counts = read_csv(prepared.folder / "runs/score/classes.csv", ("id", *dataset.classes))
    assert [row["id"] for row in counts] == ids
    for row in counts:
        record = dataset.records[row["id"]]
        found = [int(row[name]) for name in dataset.classes]
        assert found == [record.width * record.height if c == 1 else 0 for c in range(classes)]
