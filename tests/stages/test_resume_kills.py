"""Tests that work survives kill -9 at any moment and gives the same bytes; with real processes and real kills."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from small import Project

from stpp.store.files import digest

pytestmark = pytest.mark.slow

DATA = "--data runs/data --split runs/split --out OUT"
TRAIN = f"stpp train --name teacher --backbone runs/backbone.safetensors {DATA}".split()


def outs(folder: Path) -> dict[str, str]:
    """Return the hashes of all outs except run.json, which is different in each run, and files that DVC adds."""
    return {
        f.relative_to(folder).as_posix(): digest([f])
        for f in folder.rglob("*")
        if f.is_file() and f.name not in ("run.json", ".gitignore")
    }


def kill_and_repeat(project: Project, command: list[str], seed: int, seconds: float) -> int:
    """Kill the command's process group after its first saved work, then at random moments, then let it end.

    Return the number of kills. It is at least 1, because the first saved work is not all of it.
    """
    chance = random.Random(seed)
    before = kept(project)
    process = project.start(*command)
    wait_for(lambda: kept(project) - before)
    kills = 0
    for delay in (chance.uniform(0, 0.05), *(chance.uniform(0.2, 0.9) * seconds for _ in range(2))):
        try:
            output, _ = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            process = project.start(*command)
        else:
            assert process.returncode == 0, output
            return kills
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return kills


def kept(project: Project) -> set[Path]:
    """Return the files of saved work: states, scored parts, labelled shards and evaluated models."""
    home = project.folder / ".stpp"
    patterns = ("*/state.pt", "*/part-*.csv", "*/masks/*.zip", "*/on-*/*.json")
    return {f for pattern in patterns for f in home.glob(pattern)}


def undisturbed(project: Project, command: list[str], out: str) -> tuple[dict[str, str], float]:
    """Run the command without a kill. Return the hashes of its outs, and its duration in seconds."""
    began = time.monotonic()
    project.run(*[w.replace("OUT", out) for w in command])
    return outs(project.folder / out), time.monotonic() - began


@pytest.mark.parametrize(
    ("workers", "more"), [(0, {}), (2, {"optimizer": "adamw", "lr": 0.004, "accumulate": 2, "ema": 0.9})]
)
def test_a_training_killed_at_random_ends_with_the_same_bytes(
    prepared: Project, workers: int, more: dict[str, object]
) -> None:
    prepared.params(train={"epochs": 8, **more}, runtime={"workers": workers})
    expected, seconds = undisturbed(prepared, TRAIN, "runs/first")
    killed = [w.replace("OUT", "runs/second") for w in TRAIN]
    assert kill_and_repeat(prepared, killed, workers, seconds) > 0
    assert outs(prepared.folder / "runs/second") == expected


def test_predictions_killed_at_random_end_with_the_same_bytes(prepared: Project) -> None:
    """This covers scoring, labelling and evaluation."""
    prepared.params(evaluate={"batch_size": 1}, score={"shards": 12}, label={"shards": 12})
    prepared.run(*[w.replace("OUT", "runs/teacher") for w in TRAIN])
    teacher = "runs/teacher/model.safetensors"
    commands = (
        "stpp score --checkpoints runs/teacher/checkpoints",
        f"stpp label --model {teacher} --ids runs/split/unlabeled.txt",
        f"stpp evaluate --model a={teacher} --model b={teacher} --model c={teacher}",
    )
    for seed, words in enumerate(commands):
        command = f"{words} {DATA}".split()
        out = f"runs/{command[1]}"
        expected, seconds = undisturbed(prepared, command, f"{out}_first")
        assert kill_and_repeat(prepared, [w.replace("OUT", f"{out}_second") for w in command], seed, seconds) > 0
        assert outs(prepared.folder / f"{out}_second") == expected


def test_short_stages_killed_at_random_leave_complete_outs_or_none(prepared: Project) -> None:
    """These stages save no partial work. A file with its final name is complete, and the next attempt succeeds."""
    prepared.params(toy={"images": 300})
    chance, kills = random.Random(0), 0
    for words in (
        "stpp draw --out data/toy",
        "stpp prepare --out runs/data",
        "stpp split --data runs/data --lists splits --out runs/split",
        "stpp backbone --weights weights --out runs/backbone.safetensors",
    ):
        place = prepared.folder / words.split()[-1]
        remove(place)
        began = time.monotonic()
        prepared.run(*words.split())
        seconds, expected = time.monotonic() - began, digest([place])
        for _ in range(4):
            remove(place)
            process = prepared.start(*words.split())
            time.sleep(chance.uniform(0.3, 1) * seconds)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
            process.communicate()
            assert not place.exists() or digest([place]) == expected
        prepared.run(*words.split())
        assert digest([place]) == expected
        assert not list(place.parent.glob(".*.partial"))
    assert kills > 4


def remove(place: Path) -> None:
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def wait_for(condition: object, seconds: float = 120) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [c for child in map(int, found) for c in (child, *children(child))]


@pytest.mark.parametrize("who", ["stage", "group"])
def test_a_training_killed_under_dvc_resumes_with_the_next_repro(project: Project, who: str) -> None:
    project.params(train={"epochs": 12})
    project.run("dvc", "repro", "split", "backbone")
    expected, seconds = undisturbed(project, TRAIN, "runs/first")
    chance, home = random.Random(who), project.folder / ".stpp"
    before = kept(project)
    for _ in range(2):
        dvc = project.cold().start("dvc", "repro", "train_teacher")
        wait_for(lambda: kept(project) - before and children(dvc.pid))  # noqa: B023 - it is called at once
        time.sleep(chance.uniform(0, 0.2 * seconds))
        assert dvc.poll() is None, "too late to kill it"
        if who == "stage":
            os.kill(children(dvc.pid)[-1], signal.SIGKILL)
        else:
            os.killpg(dvc.pid, signal.SIGKILL)
        dvc.communicate(timeout=60)
        assert dvc.returncode not in (0, None)
        assert list(home.glob("runs-teacher-*/state.pt")), "what was done is kept"
        assert not (project.folder / "runs/teacher/model.safetensors").exists()
    project.run("dvc", "repro", "train_teacher")
    assert outs(project.folder / "runs/teacher") == expected


def test_the_next_repro_waits_for_a_stage_whose_dvc_was_killed(project: Project) -> None:
    project.params(train={"epochs": 40})
    project.run("dvc", "repro", "split", "backbone")
    expected, _ = undisturbed(project, TRAIN, "runs/first")
    home = project.folder / ".stpp"
    dvc = project.cold().start("dvc", "repro", "train_teacher")
    wait_for(lambda: list(home.glob("runs-teacher-*/state.pt")))
    stage = children(dvc.pid)
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()
    assert any(Path(f"/proc/{pid}").exists() for pid in stage), "the stage lives on"
    output = project.run("dvc", "repro", "train_teacher")
    dvc.communicate()
    assert "waiting for it" in output
    assert "is done" not in output
    assert output.count("epochs of") == 0, "the second copy must not train"
    assert outs(project.folder / "runs/teacher") == expected
    assert "up to date" in project.run("dvc", "repro", "train_teacher")


def test_a_second_copy_with_other_parameters_is_refused_and_names_the_first(prepared: Project) -> None:
    prepared.params(train={"epochs": 30})
    command = [w.replace("OUT", "runs/teacher") for w in TRAIN]
    first = prepared.cold().start(*command)
    wait_for(lambda: list((prepared.folder / ".stpp").glob("runs-teacher-*/state.pt")))
    prepared.params(train={"epochs": 4})
    output = prepared.run(*command, rc=2)
    assert f"kill {first.pid}" in output
    assert "Traceback" not in output
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()


@pytest.mark.slow
def test_a_saved_state_that_is_not_finite_is_named_and_kept(prepared: Project) -> None:
    prepared.params(train={"epochs": 200})
    command = [word.replace("OUT", "runs/teacher") for word in TRAIN]
    process = prepared.start(*command)
    wait_for(lambda: list((prepared.folder / ".stpp").glob("runs-teacher-*/state.pt")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (path,) = (prepared.folder / ".stpp").glob("runs-teacher-*/state.pt")
    state = torch.load(path, weights_only=True)
    state["network"]["classifier.bias"][0] = float("nan")
    torch.save(state, path)
    before = path.read_bytes()
    output = prepared.run(*command, rc=2)
    assert "state.pt: classifier.bias has NaN or infinite values" in output and "Traceback" not in output
    assert path.read_bytes() == before and not (prepared.folder / "runs/teacher").exists()


def test_a_stage_killed_before_dvc_records_it_restores_its_results(project: Project) -> None:
    project.run("dvc", "repro", "split", "backbone")
    dvc = project.cold().start("dvc", "repro", "train_teacher")
    done = project.folder / "runs/teacher/run.json"
    wait_for(done.exists)
    os.killpg(dvc.pid, signal.SIGKILL)
    dvc.communicate()
    before = outs(project.folder / "runs/teacher")
    assert "train_teacher" not in (project.folder / "dvc.lock").read_text()
    output = project.run("dvc", "repro", "train_teacher")
    assert "restoring its results" in output
    assert outs(project.folder / "runs/teacher") == before
    project.run("dvc", "repro", "score")
    assert not [f for f in (project.folder / ".stpp").glob("runs-teacher-*") if f.is_dir()], (
        "recorded work is discarded"
    )


def test_ctrl_c_prints_one_line_about_how_to_resume(prepared: Project) -> None:
    prepared.params(train={"epochs": 30})
    process = prepared.cold().start(*[w.replace("OUT", "runs/teacher") for w in TRAIN])
    wait_for(lambda: list((prepared.folder / ".stpp").glob("runs-teacher-*/state.pt")))
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert output.count("run the same command again") == 1


def test_a_full_disk_is_reported_leaves_no_partial_files_and_the_next_run_succeeds(prepared: Project) -> None:
    """A limit on the file size simulates the full disk: writing fails in the middle of the first saved state."""
    command = " ".join(TRAIN).replace("OUT", "runs/teacher")
    output = prepared.cold().run("bash", "-c", f"ulimit -f 2000; {command}", rc=2)
    assert "the disk is full" in output and "Traceback" not in output
    left = [
        f
        for f in (prepared.folder / ".stpp").rglob("*")
        if f.is_file() and f.suffix != ".lock" and not f.name.startswith("inspected-")
    ]
    assert left == [] and not (prepared.folder / "runs/teacher").exists()
    prepared.run(*command.split())
    assert (prepared.folder / "runs/teacher/model.safetensors").exists()
