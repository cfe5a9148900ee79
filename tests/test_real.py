"""Tests with real photographs. They are in shared/ beside the repository; without them, the tests are skipped."""

from pathlib import Path

import pytest
from small import ROOT, Project

from stpp.ingest.inspection import inspect
from stpp.ingest.splits import check, draw
from stpp.params.data import Data
from stpp.params.file import load

CAMVID = ROOT.parent / "shared" / "data" / "camvid"
CAMVID_PRESET = ROOT / "pipelines/presets/camvid.yaml"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not CAMVID.is_dir(), reason="no CamVid beside the repository"),
]


def test_the_camvid_preset_finds_its_images_classes_and_split(tmp_path: Path) -> None:
    p = load([CAMVID_PRESET])
    dataset, warnings, problems = inspect(Data(**(p.data.model_dump() | {"root": str(CAMVID)})), workers=2)
    assert problems == [] and warnings == []
    assert len(dataset.records) == 701
    assert {(r.width, r.height) for r in dataset.records.values()} == {(480, 360)}
    assert all(c < 11 for r in dataset.records.values() for c in r.classes)
    sets, problems = draw(dataset, p.split, tmp_path)
    assert problems == []
    assert {name: len(ids) for name, ids in sets.items()} == {"test": 233, "val": 101, "labeled": 46, "unlabeled": 321}
    assert check(sets, dataset, p.split, p.train.batch_size) == ([], [])


@pytest.mark.parametrize("below", ["", "train"])
def test_init_describes_camvid_as_its_preset_does(project: Project, below: str) -> None:
    """Without a folder for val, it draws val and test from train."""
    given = [str(CAMVID / below), str(CAMVID / f"{below}annot")] if below else [str(CAMVID)] * 2
    said = project.run("stpp", "init", *given, "--force", rc=2)
    assert "hold the values 0-11; which of them are no class (or none)?" in said
    said = project.run("stpp", "init", *given, "--force", "--ignore", "11")
    found, preset = (load([path]).data for path in (project.folder / "params.yaml", CAMVID_PRESET))
    assert (found.images, found.masks) == (preset.images, preset.masks) or below
    assert len(found.classes or ()) == 11 and found.ignore == 11
    project.run("stpp", "prepare", "--out", "runs/data")
    split = project.run("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split")
    counts = "193 unlabeled, 28 labeled, 73 val, 73 test" if below else "321 unlabeled, 46 labeled, 101 val, 233 test"
    assert counts in said and counts in split
