"""Several processes, started for real: on one machine, on two simulated ones, and killed."""

import json
import os
import re
import shutil
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import ROOT, Project, torchrun

pytestmark = pytest.mark.slow

COMMON = ("--data", "runs/data", "--split", "runs/split")
TRAIN = ("stpp", "train", "--name", "teacher", *COMMON, "--backbone", "runs/backbone.safetensors")
SCORE = ("stpp", "score", "--checkpoints", "runs/teacher/checkpoints", *COMMON)
LABEL = ("stpp", "label", "--model", "runs/teacher/model.safetensors", "--ids", "runs/split/unlabeled.txt", *COMMON)
EVALUATE = ("stpp", "evaluate", "--model", "teacher=runs/teacher/model.safetensors", *COMMON)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder, but run.json, which names the execution."""
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != "run.json")
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


def module(command: tuple[str, ...]) -> list[str]:
    return ["python", "-m", *command]


@pytest.fixture
def trained(prepared: Project) -> Project:
    prepared.params(label={"soft": True})
    prepared.run(*module(TRAIN), "--out", "runs/teacher")
    return prepared


def on(project: Project, processes: int, **more: str) -> Project:
    return replace(project, env=project.env | {"STPP_NPROC": str(processes)} | more)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_scores_masks_and_evaluations_are_the_same_bytes_on_any_processes_and_machines(trained: Project) -> None:
    outs = {}
    for processes in (1, 2, 4):
        many = on(trained, processes)
        out = f"runs/on_{processes}"
        commands = (SCORE, LABEL, EVALUATE)[: 3 if processes < 4 else 2]
        said = [many.run(*module(command), "--out", f"{out}/{command[1]}") for command in commands]
        assert [text.count(f"; {out}/") for text in said] == [1] * len(said), "one process alone says what was done"
        outs[processes] = content(trained.folder / out)
    assert {"score/scores.csv", "label/masks/manifest.csv", "evaluate/metrics.json"} <= set(outs[1])
    assert outs[2] == outs[1]
    assert outs[4] == {name: data for name, data in outs[1].items() if not name.startswith("evaluate/")}

    # an outer torchrun
    outer = ("python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    trained.run(*outer, "-m", *SCORE, "--out", "runs/outer")
    assert content(trained.folder / "runs/outer") == content(trained.folder / "runs/on_1/score")

    # two machines
    shared = {"STPP_NNODES": "2", "STPP_MASTER": f"127.0.0.1:{free_port()}"}
    work = " && ".join(" ".join([*module(c), "--out", f"runs/two/{c[1]}"]) for c in (SCORE, LABEL, EVALUATE))
    cluster = (*module(("stpp", "cluster")), "--", "bash", "-c", work)
    second = on(trained, 2, **shared, STPP_NODE_RANK="1").start(*cluster)
    first = on(trained, 2, **shared, STPP_NODE_RANK="0").start(*cluster)
    said = [node.communicate(timeout=600)[0] for node in (first, second)]
    assert first.returncode == 0, said[0]
    assert second.returncode == 0, said[1]
    assert content(trained.folder / "runs/two") == outs[1]


def fitted(processes: int, step: str, out: Path, accumulate: int = 1) -> dict[str, Any]:
    """The curve and weights that all processes of one training end in."""
    out.mkdir()
    script = [str(ROOT / "tests/engine/part_of_fit.py"), step, str(accumulate), str(out)]
    torchrun(processes, *script)
    ranks = [json.loads((out / f"{rank}.json").read_text()) for rank in range(processes)]
    assert all(rank == ranks[0] for rank in ranks)
    found: dict[str, Any] = ranks[0]
    return found


@pytest.mark.parametrize(
    ("step", "ways"), [("frozen", [(1, 1), (2, 1), (4, 1)]), ("hard", [(1, 1), (2, 2)])], ids=["plain", "hard"]
)
def test_with_batch_norm_frozen_the_loss_curve_and_weights_are_those_of_one_process(
    step: str, ways: list[tuple[int, int]], tmp_path: Path
) -> None:
    """ways: processes, and parts of the batch in each of them."""
    alone, *others = (fitted(count, step, tmp_path / f"{count}", parts) for count, parts in ways)
    for many in others:
        for mine, theirs in zip(alone["curve"], many["curve"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-5, nan_ok=True)
        for name, values in alone["weights"].items():
            assert many["weights"][name] == pytest.approx(values, rel=1e-4, abs=1e-6), name
    assert len({row["train/loss"] for row in alone["curve"]}) == 3, "it learns something"


def test_with_batch_norm_live_all_processes_validate_and_keep_the_same_running_statistics(tmp_path: Path) -> None:
    mean = fitted(2, "supervised", tmp_path / "out")["weights"]["1.running_mean"]
    assert any(abs(value) > 0.01 for value in mean), "they were learnt"


def test_a_training_on_two_processes_says_so_and_one_whose_batch_does_not_divide_is_refused_once(
    prepared: Project,
) -> None:
    said = on(prepared, 2).run(*module(TRAIN), "--out", "runs/teacher")
    assert "at batch 4 on 2 processes; lr 0.005 (train.lr x 4 / 16)" in said
    assert said.count("network from scratch") == 1
    refused = on(prepared, 3).run(*module(TRAIN), "--out", "runs/other", rc=2)
    assert refused.count("train.batch_size 4 is shared by 3 processes") == 1
    assert "Traceback" not in refused


def test_a_process_that_dies_ends_the_others_and_the_same_command_goes_on(prepared: Project) -> None:
    many = on(prepared, 2)
    many.params(train={"epochs": 15, "checkpoints": 3})
    running = many.start(*module(TRAIN), "--out", "runs/teacher")
    deadline = time.monotonic() + 300
    while not list(many.folder.glob(".stpp/runs-teacher-*/state.pt")):
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    victim = next(process.pid for process in many.living() if "RANK" in process.environ())
    os.kill(victim, signal.SIGKILL)
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 1
    assert f"(pid {victim}) was killed by SIGKILL, and the other processes were stopped" in said
    assert "Traceback" not in said
    assert not (many.folder / "runs/teacher").exists()
    again = many.run(*module(TRAIN), "--out", "runs/teacher")
    assert len(re.findall(r"teacher: resumed at epoch [\d.]+/15", again)) == 1, "one process says it"
    assert (many.folder / "runs/teacher/model.safetensors").is_file()


def test_what_fails_on_one_machine_ends_on_the_other_with_its_exit_code(prepared: Project) -> None:
    shared = {"STPP_NNODES": "2", "STPP_MASTER": f"127.0.0.1:{free_port()}"}
    cluster = (*module(("stpp", "cluster")), "--", *module(SCORE), "--out", "runs/score")  # there are no checkpoints
    second = on(prepared, 1, **shared, STPP_NODE_RANK="1").start(*cluster)
    first = on(prepared, 1, **shared, STPP_NODE_RANK="0").start(*cluster)
    said = [node.communicate(timeout=600)[0] for node in (first, second)]
    assert (first.returncode, second.returncode) == (2, 2), said
    assert "runs/teacher/checkpoints: no such file or folder" in said[0]
    assert "Traceback" not in "".join(said)


def test_the_machine_that_failed_is_named_on_the_others(prepared: Project, tmp_path: Path) -> None:
    shutil.copytree(prepared.folder, tmp_path / "second")
    shutil.rmtree(tmp_path / "second/runs/split")
    shared = {"STPP_NNODES": "2", "STPP_MASTER": f"127.0.0.1:{free_port()}"}
    cluster = (*module(("stpp", "cluster")), "--", *module(TRAIN), "--out", "runs/teacher")
    second = on(replace(prepared, folder=tmp_path / "second"), 1, **shared, STPP_NODE_RANK="1").start(*cluster)
    first = on(prepared, 1, **shared, STPP_NODE_RANK="0").start(*cluster)
    said = [node.communicate(timeout=600)[0] for node in (first, second)]
    assert "machine 1 (STPP_NODE_RANK=1) failed" in said[0] and "Traceback" not in said[0], said
    assert "runs/split" in said[1] and "machine 1" not in said[1]


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"STPP_NPROC": "many"}, "STPP_NPROC=many: expected a whole number"),
        ({"STPP_NNODES": "2", "STPP_MASTER": "here"}, "STPP_MASTER=here: expected the first machine's host:port"),
    ],
)
def test_what_is_wrong_with_the_environment_is_said(prepared: Project, env: dict[str, str], said: str) -> None:
    output = replace(prepared, env=prepared.env | env).run(*module(TRAIN), "--out", "runs/teacher", rc=2)
    assert said in output
    assert "Traceback" not in output
