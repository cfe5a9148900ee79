"""Tests of tables on own data with real DVC experiments: plan, run, interrupt, resume, report."""

import os
import shutil
import signal
import sys
import time

import pytest
from small import Project

from stpp.paper.published import SETTINGS, params_of
from stpp.params.models import Params
from stpp.store.files import read_json
from stpp.tracking.client import client


def settings(project: Project) -> list[str]:
    return sorted(p.relative_to(project.folder).as_posix() for p in project.folder.glob("results/**/[0-9].json"))


@pytest.mark.slow
def test_a_table_on_own_data_is_planned_run_interrupted_resumed_and_reported(project: Project) -> None:
    setting = "own-tiny-tiny-deeplabv3plus-test_resnet"
    del project.env["STPP_TRACKING"]
    project.params(train={"epochs": 15})
    project.commit("-A")
    plan = project.run("stpp", "paper", "plan", "table-1", "--own", "--cell", "*/st", "--cell", "*/suponly")
    assert f"{setting}, seed 0: to run: suponly, st, 2 trainings (runs/teacher, runs/st/student)" in plan
    assert "unknown until `dvc repro split` has counted the images" in plan
    before = (project.folder / "params.yaml").read_bytes()
    command = ["stpp", "paper", "run", "table-1", "--own", "--cell", "*/st", "--cell", "*/suponly"]

    process = project.start(*command)
    deadline = time.monotonic() + 300
    while not list(project.folder.glob(".stpp/runs-st-student-*/state.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert settings(project) == []
    assert (project.folder / "params.yaml").read_bytes() == before

    output = project.run(*command)
    assert "student: epoch 15/15" in output
    assert "teacher: epoch" not in output, "what was trained before the kill comes from DVC's cache"
    assert settings(project) == [f"results/table-1/{setting}/{s}/0.json" for s in ("st", "suponly")]
    assert (project.folder / "params.yaml").read_bytes() == before, "the person's own params stay as they are"
    result = read_json(project.folder / f"results/table-1/{setting}/st/0.json")
    assert f"{setting}/st, seed 0: {result['metrics']['val']['st']['miou']:.1f}" in output
    assert result["params"]["train.seed"] == 0
    assert len(result["split_digest"]) == 32
    assert result["mlflow_run"]

    again = project.run(*command)
    assert f"{setting}, seed 0: finished: suponly, st." in again
    assert "Running stage" not in again
    other = project.run("stpp", "paper", "run", "table-4", "--own", "--cell", "*/st")
    assert f"{setting}, seed 0: finished: st." in other, "the same cell of another table is not run again"

    plan = project.run("stpp", "paper", "plan", "table-4", "--own")
    assert "finished: st. to run: blind, stpp, 4 trainings (runs/blind/student_1, runs/blind/student, " in plan
    assert "; already trained for other cells: runs/teacher" in plan
    assert "GB of checkpoints" in plan
    one = project.run("stpp", "paper", "plan", "table-1", "--own", "--cell", "*/st", "--seed", "2", "--seeds", "5")
    assert [line.split(":")[0] for line in one.splitlines() if line.startswith(setting)] == [f"{setting}, seed 2"]
    project.run("dvc", "repro", "-q", "split")
    assert "h of training on this machine" in project.run("stpp", "paper", "plan", "table-4", "--own")

    # the same cell with other data must run
    text = (project.folder / "params.yaml").read_text()
    (project.folder / "params.yaml").write_text(text.replace("images: 30", "images: 31"))
    changed = project.run("stpp", "paper", "plan", "table-1", "--own", "--cell", "*/st")
    assert f"{setting}, seed 0: to run: st, 2 trainings" in changed
    (project.folder / "params.yaml").write_text(text)

    report = project.run("stpp", "paper", "report", "table-1", "table-4")
    assert "not run" in report
    mlflow = client(project.folder)
    [published] = mlflow.search_runs([mlflow.get_experiment_by_name("paper").experiment_id])
    names = [f"table-{n}.{suffix}" for n in (1, 4) for suffix in ("csv", "html", "md")]
    assert sorted(artifact.path for artifact in mlflow.list_artifacts(published.info.run_id)) == names
    page = (project.folder / "results/report/table-1.html").read_text()
    assert f"<td>{result['metrics']['val']['st']['miou']:.1f}</td>" in page


def test_a_cell_pattern_that_matches_nothing_is_an_error_that_names_the_cells(project: Project) -> None:
    output = project.run("stpp", "paper", "plan", "table-6", "--cell", "nonsense", rc=2)
    assert "pascal-1_8-deeplabv3plus-resnet50/pixel_2" in output
    assert "Traceback" not in output


def test_presets_are_listed_shown_and_used_but_never_replace_uncommitted_changes(project: Project) -> None:
    listed = project.run("stpp", "preset", "list")
    assert "pascal-92-deeplabv3plus-resnet101" in listed
    assert "Table 2, ST++: 65.2" in listed
    assert "camvid" in listed
    refused = project.run("stpp", "preset", "use", "camvid", rc=2)
    assert "params.yaml: holds changes that are not in git: commit them, or use --force" in refused
    shutil.rmtree(project.folder / ".git")
    refused = project.run("stpp", "preset", "use", "camvid", rc=2)
    assert "params.yaml: is in no git repository: copy it first, or use --force" in refused
    project.run("stpp", "preset", "use", "pascal-92-deeplabv3plus-resnet101", "--force")
    text = (project.folder / "params.yaml").read_text()
    assert text == project.run("stpp", "preset", "show", "pascal-92-deeplabv3plus-resnet101")
    assert "no such preset" in project.run("stpp", "preset", "show", "../../params", rc=2)


def test_a_table_with_missing_data_lists_or_weights_starts_nothing(project: Project) -> None:
    assert "has no commit, from which DVC experiments start" in project.run("stpp", "paper", "run", "table-1", rc=2)
    project.commit("-A")
    cell = "pascal-1_8-deeplabv2-resnet101/st"
    output = project.run("stpp", "paper", "run", "table-1", "--cell", cell, rc=2)
    assert "5 problem(s)" in output
    for path in ("data/pascal: ", "splits/pascal/1_8/split_0/labeled.txt: ", "weights/deeplabv2_resnet101_coco"):
        assert path in output
    assert not (project.folder / ".dvc/tmp/exps").exists()


@pytest.mark.slow
def test_files_in_neither_git_nor_dvc_are_named_before_a_run_that_would_miss_them(project: Project) -> None:
    setting, weights = "pascal-1_8-deeplabv2-resnet101", "weights/deeplabv2_resnet101_coco.safetensors"
    image = project.folder / "data/pascal/JPEGImages/1.jpg"
    lists = [project.folder / f"splits/pascal/1_8/split_0/{name}.txt" for name in ("labeled", "unlabeled", "val")]
    project.commit("-A")
    for path in (image, *lists, project.folder / weights):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n")
    words = ["stpp", "paper", "run", "table-1", "--cell", f"{setting}/suponly"]

    output = project.run(*words, rc=2)
    assert "5 problem(s)" in output
    assert "`dvc add data/pascal && git add data/pascal.dvc`" in output
    assert f"`dvc add {weights} && git add {weights}.dvc`" in output
    assert "labeled.txt: the list of split.labeled is not in git, and a run works in a copy; `git add splits`" in output
    assert not (project.folder / ".dvc/tmp/exps").exists()

    project.run("git", "add", "splits")
    project.run("dvc", "add", "-q", "data/pascal", weights)
    assert "2 problem(s)" in project.run(*words, rc=2), "what DVC has, but git does not know of, is not copied"
    project.run("git", "add", "data/pascal.dvc", f"{weights}.dvc")
    params = Params.model_validate(params_of(SETTINGS[setting]))
    code = f"from stpp.paper.plan import missing_inputs; print(missing_inputs({params!r}))"
    assert project.run(sys.executable, "-c", f"from stpp.params.models import *; {code}") == "[]\n"
