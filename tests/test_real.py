"""Tests with real photographs. They are in shared/ beside the repository; without them, the tests are skipped."""

from pathlib import Path

import pytest
from small import ROOT

from stpp.ingest.inspection import inspect
from stpp.ingest.splits import check, draw
from stpp.params.file import load
from stpp.params.models import Data

CAMVID = ROOT.parent / "shared" / "data" / "camvid"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not CAMVID.is_dir(), reason="no CamVid beside the repository"),
]


def test_the_camvid_preset_finds_its_images_classes_and_split(tmp_path: Path) -> None:
    p = load([ROOT / "pipelines/presets/camvid.yaml"])
    dataset, warnings, problems = inspect(Data(**(p.data.model_dump() | {"root": str(CAMVID)})), workers=2)
    assert problems == [] and warnings == []
    assert len(dataset.records) == 701
    assert {(r.width, r.height) for r in dataset.records.values()} == {(480, 360)}
    assert all(c < 11 for r in dataset.records.values() for c in r.classes)
    sets, problems = draw(dataset, p.split, tmp_path)
    assert problems == []
    assert {name: len(ids) for name, ids in sets.items()} == {"test": 233, "val": 101, "labeled": 46, "unlabeled": 321}
    assert check(sets, dataset, p.split, p.train.batch_size) == ([], [])
