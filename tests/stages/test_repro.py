"""Tests of `dvc repro` after mistyped parameters, kills of DVC itself, and interrupts before a commit."""

import os
import signal
import time
from pathlib import Path

import pytest
from small import OWN, Project

from stpp.run.locks import ENTRY
from stpp.store.files import digest

pytestmark = pytest.mark.slow


def runs(project: Project) -> str:
    return digest([project.folder / "runs", project.folder / "data"])


def test_a_mistyped_parameter_removes_no_results(copied: Project) -> None:
    copied.run("stpp", "system", "use", "st", "blind")
    before, overlay = runs(copied), copied.folder / "pipelines/blind/params.yaml"
    for sections, key in (({"train": {"epochs": "many"}}, "train.epochs"), ({"evaluate": {"panels": -1}}, "panels")):
        copied.params(**sections)
        for words in (["-f"], ["--no-run-cache"], ["train_teacher"], ["pipelines/st/dvc.yaml"]):
            output = copied.run("dvc", "repro", *words, rc=255)
            assert key in output and "Traceback" not in output
            assert runs(copied) == before
    copied.params()
    right = overlay.read_text()
    overlay.write_text("select: {by: chance}\n")
    for pipeline in ("dvc.yaml", "pipelines/blind/dvc.yaml"):
        assert "pipelines/blind/params.yaml: select.by" in copied.run("dvc", "repro", pipeline, rc=255)
        assert runs(copied) == before
    overlay.write_text(right)
    assert "up to date" in copied.run("dvc", "repro")
    copied.params(runtime={"threads": 2})
    output = copied.run("dvc", "repro")
    assert output.count("Running stage") == output.count("Running stage 'check'") == 1
    assert runs(copied) == before


def test_data_that_is_missing_removes_no_results(copied: Project) -> None:
    before = runs(copied)
    copied.params(data={"root": "data/moved"})
    for words in ([], ["-f"], ["train_teacher"]):
        output = copied.run("dvc", "repro", *words, rc=255)
        assert "data.root: data/moved: no such folder" in output and "Traceback" not in output
        assert output.count("Running stage") == output.count("Running stage 'check'") == 1
        assert runs(copied) == before


def test_an_experiment_in_a_copy_names_the_command_that_puts_data_into_it(project: Project) -> None:
    project.run("stpp", "draw", "--out", "mine")
    project.params(data=OWN | {"root": "mine", "images": "images/{name}.png", "masks": "masks/{name}.png"})
    ignored = project.folder / ".gitignore"
    before = ignored.read_text()
    ignored.write_text(before + "/mine\n")
    project.commit("-A")
    output = project.run("dvc", "exp", "run", "--temp", "-S", "train.lr=0.5", rc=255)
    assert "data.root: mine: DVC copied only what git or DVC track; `dvc add mine` and commit" in output
    ignored.write_text(before)
    project.run("dvc", "add", "-q", "mine")
    project.commit("-A")
    project.run("dvc", "exp", "run", "--temp", "-S", "train.lr=0.5", "split")


def test_a_dvc_lock_that_was_cut_by_a_kill_costs_no_results(project: Project) -> None:
    """A kill while DVC writes dvc.lock cuts the file like this."""
    project.run("dvc", "repro", "label_reliable")
    project.run("dvc", "repro", "label_reliable", "-f", "-s")
    lock = project.folder / "dvc.lock"
    whole, before = lock.read_bytes(), runs(project)
    entries = [found.start() for found in ENTRY.finditer(whole.decode())]
    middle, last = entries[len(entries) // 2], entries[-1]
    for end in (0, 20, middle, middle + 70, last, last + 70, len(whole) - 200, len(whole) - 1):
        lock.write_bytes(whole[:end])
        audit = project.run("stpp", "audit", "--offline", "runs/teacher/model.safetensors", rc=2)
        assert "run `stpp check` to repair it" in audit
        assert "dvc.lock: " in project.run("stpp", "check")
        output = project.run("dvc", "repro", "label_reliable")
        ran = [line for line in output.splitlines() if line.startswith("Running stage")]
        assert ran in ([], ["Running stage 'label_reliable':"]), output
        assert not ran or "restoring its results" in output
        assert lock.read_bytes() == whole and runs(project) == before


def test_a_stage_restores_a_cut_dvc_lock_that_dvc_can_read(copied: Project) -> None:
    """DVC has read an incomplete lock and would label again, so the stage stops it. The next call reads all of it."""
    lock, before = copied.folder / "dvc.lock", runs(copied)
    whole = lock.read_text()
    copied.run("stpp", "check")
    lock.write_text(whole[: whole.index("  label_reliable:\n")])
    output = copied.run("dvc", "repro", rc=255)
    assert "ends with select; missing: label_reliable, " in output and "run the same command again" in output
    assert lock.read_text() == whole
    copied.run("dvc", "repro")
    assert runs(copied) == before and lock.read_text() == whole


def test_after_an_interrupt_git_gets_only_the_split_and_the_next_change_runs(project: Project) -> None:
    project.params(train={"epochs": 8})
    dvc = project.cold().start("dvc", "repro", "train_teacher")
    while not list((project.folder / ".stpp").glob("runs-teacher-*/state.pt")):
        assert dvc.poll() is None
        time.sleep(0.02)
    os.killpg(dvc.pid, signal.SIGINT)
    dvc.communicate(timeout=60)
    assert dvc.returncode != 0
    project.run("dvc", "repro", "train_teacher")
    project.commit("-A")
    committed = project.run("git", "ls-files", "runs").split()
    assert {str(Path(name).parent) for name in committed} == {"runs/split"}
    project.params(train={"epochs": 4})
    project.run("dvc", "repro", "train_teacher")
    assert project.run("git", "status", "--short", "runs") == ""


def test_a_failed_first_run_does_not_put_data_into_git(project: Project) -> None:
    project.params(split={"labeled": {"count": 1000}})
    project.run("dvc", "repro", rc=255)
    project.params()
    project.run("dvc", "repro", "split")
    project.commit("-A")
    assert "runs/data" not in project.run("git", "ls-files", "runs")
