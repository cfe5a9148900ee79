"""Tests of `stpp audit` on a project with one stage: the exit code is 1 exactly if there is a contradiction."""

import json
from dataclasses import replace

import pytest
from ruamel.yaml import YAML
from small import Project

from stpp.run.lineage import Content, Execution, as_json, content_of
from stpp.store.files import write_json

MODEL = "runs/student/model.safetensors"


@pytest.fixture
def ran(project: Project) -> tuple[Project, Execution]:
    """Return a model and the list it was trained on. dvc.lock and the model's record agree on both."""
    for name, text in ((MODEL, "weights"), ("lists/train.txt", "a\nb\n")):
        (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (project.folder / name).write_text(text)
    made, read = (content_of(project.folder / name, project.folder) for name in (MODEL, "lists/train.txt"))
    execution = Execution("train_student", "python -m stpp train", (read,), {}, (made,))
    record(project, execution)
    lock(project, execution)
    return project, execution


def record(project: Project, execution: Execution) -> None:
    about = {"lineage": as_json([execution])}
    write_json(project.folder / "runs/student/run.json", json.loads(json.dumps(about)))


def lock(project: Project, execution: Execution) -> None:
    entry = {
        "cmd": execution.cmd,
        **{
            kind: [{"path": one.path, "hash": "md5", "md5": one.md5} for one in getattr(execution, kind)]
            for kind in ("deps", "outs")
        },
    }
    with (project.folder / "dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": {execution.stage: entry}}, file)


def audit(project: Project, rc: int) -> str:
    return project.run("stpp", "audit", MODEL, "--offline", rc=rc)


def test_the_exit_code_is_0_without_changes_and_1_for_a_changed_model_or_input(ran: tuple[Project, Execution]) -> None:
    project, _ = ran
    assert "no contradictions" in audit(project, rc=0)
    (project.folder / "lists/train.txt").write_text("a\nb\nc\n")
    assert "lists/train.txt: was changed since train_student read it" in audit(project, rc=1)
    (project.folder / "lists/train.txt").write_text("a\nb\n")
    (project.folder / MODEL).write_text("other weights")
    assert f"{MODEL}: was changed since it was made" in audit(project, rc=1)


def test_other_inputs_in_dvc_lock_than_in_the_record_are_a_contradiction(ran: tuple[Project, Execution]) -> None:
    project, execution = ran
    (read,) = execution.deps
    for deps in ((replace(read, md5="0" * 32),), (), (read, Content("lists/more.txt", "0" * 32))):
        record(project, replace(execution, deps=deps))
        assert "in runs/student/run.json, of train_student; one of the two was edited" in audit(project, rc=1)
    record(project, execution)
    audit(project, rc=0)
