"""Tests every system of the paper with DVC, on data that trains in seconds. No stage may run twice."""

import numpy as np
import pytest
from small import Project, ran

from stpp.paper.systems import SYSTEMS, iterations
from stpp.params.file import load
from stpp.store.files import read_csv, read_ids, read_json
from stpp.store.masks import MaskSet

pytestmark = pytest.mark.slow


def test_every_system_runs_and_no_stage_runs_twice(copied: Project) -> None:
    """ST++ has run already: the other systems share its teacher, scores and masks."""
    project, folder = copied, copied.folder
    project.env["STPP_TRACKING"] = "off"
    project.run("stpp", "system", "use", "--all")
    stages = ran(project.run("dvc", "repro", "--all-pipelines"))
    assert len(stages) == len(set(stages)) and all(stage.startswith("pipelines/") for stage in stages)
    trainings = [stage for stage in stages if "train" in stage]
    outs = {out for system in SYSTEMS.values() for out in system.trains}
    assert len(trainings) == len(outs - {"runs/teacher", "runs/student_1", "runs/student"})

    for name, system in SYSTEMS.items():
        metrics = read_json(folder / system.evaluation / "metrics.json")
        assert 1 < metrics["val"][name]["miou"] <= 100
        assert 1 < metrics["test"][name]["miou"] <= 100
    teachers = {
        read_json(folder / "runs" / place / "evaluation/metrics.json")["val"]["suponly"]["miou"]
        for place in ("", "suponly")
    }
    assert len(teachers) == 1

    p = load([folder / "params.yaml"])
    counts = [len(read_ids(folder / f"runs/split/{of}.txt")) for of in ("labeled", "unlabeled")]
    for out in {out for system in SYSTEMS.values() for out in system.trains}:
        *_, last = read_csv(folder / out / "curve.csv", ("iteration",))
        assert float(last["iteration"]) == iterations(out, *counts, p.train, p.select.ratio), out

    columns = ("train/loss",)
    losses = {
        name: [float(row["train/loss"]) for row in read_csv(folder / f"runs/{name}/student/curve.csv", columns)]
        for name in ("plain", "st", "ablation/both_sets", "ablation/only_cutout", "ablation/cutout_labeled")
    }
    assert len({tuple(loss) for loss in losses.values()}) == len(losses)

    masks = folder / "runs/pixel"
    confident, filled = MaskSet(masks / "label_confident/masks"), MaskSet(masks / "label_rest/masks")
    assert set(confident.ids) == set(filled.ids) == set(read_ids(folder / "runs/split/unlabeled.txt"))
    ignored = 0
    for name in confident.ids:
        before, after = confident.read(name), filled.read(name)
        ignored += int((before == 255).sum())
        assert not (after == 255).any()
        assert np.array_equal(after[before != 255], before[before != 255])
    assert ignored

    ours, blind = (read_ids(folder / f"runs/{place}selection/reliable.txt") for place in ("", "blind/"))
    assert len(ours) == len(blind)
    assert set(ours) != set(blind)
    figures = {path.stem for path in folder.glob("runs/figures/*.png")}
    assert figures == {"figure_1", "figure_3a", "figure_3b", "figure_4", "figure_6", "figure_8"}

    # a changed overlay re-runs only its own system
    overlay = folder / "pipelines/blind/params.yaml"
    overlay.write_text(overlay.read_text() + "  seed: 5\n")
    again = ran(project.run("dvc", "repro", "pipelines/blind/dvc.yaml"))
    assert again
    assert all(stage.startswith("pipelines/blind/dvc.yaml:") for stage in again)
