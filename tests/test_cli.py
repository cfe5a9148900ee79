"""Tests of the command line: an error is one clear message with exit code 2, and leaves no incomplete files."""

import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from small import BIN, ROOT, Project

from stpp.cli import COMMANDS, Command, load_command, reflowed
from stpp.models.networks import NETWORKS
from stpp.stages import weights


def test_help_names_every_command_quickly() -> None:
    began = time.monotonic()
    out = subprocess.run([BIN / "stpp", "--help"], capture_output=True, text=True, check=True).stdout
    seconds = time.monotonic() - began
    for name in ("prepare", "split", "train", "score", "select", "label", "evaluate", "report", "show", "masks"):
        assert name in out
    assert seconds < 5  # it takes 0.5 s on an idle core; test_architecture checks its imports


def test_help_wraps_paragraphs_at_the_terminals_width_and_keeps_lists() -> None:
    text = "First line.\n\nA paragraph\nof two lines. And a list:\n- one\n- two\n  in two lines\n\nThe end."
    assert reflowed(text) == (
        "First line.\n\nA paragraph of two lines. And a list:\n- one\n- two\n  in two lines\n\nThe end."
    )


def test_the_table_of_commands_has_the_first_help_line_of_each_command() -> None:
    def told(name: str, command: Command) -> None:
        if command.target:
            assert (load_command(name, command).help or "").partition("\n")[0] == command.about
        for each, one in command.commands.items():
            told(each, one)

    for name, command in COMMANDS.items():
        told(name, command)
    shown = subprocess.run([BIN / "stpp", "split", "--help"], capture_output=True, text=True, check=True).stdout
    assert "pin" in shown and "--lists" in shown
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert subprocess.check_output([BIN / "stpp", "--version"], text=True) == f"stpp {version}\n"


@pytest.mark.parametrize("entry", ["-m", "script"])
def test_ctrl_c_at_any_moment_prints_no_traceback(project: Project, entry: str) -> None:
    """Ctrl-C comes while modules load, while the command line is built, while a command runs, or at the end."""
    module, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["stpp"].split(":")
    words = {"-m": ["-m", "stpp"], "script": ["-c", f"import sys; from {module} import {function}; sys.exit(main())"]}
    codes = set()
    for delay in range(20, 620, 60):
        process = project.start(sys.executable, *words[entry], "check")
        time.sleep(delay / 1000)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert "/stpp/" not in output, output  # before code of stpp runs, Python itself may print a traceback
        codes.add(process.returncode)
    assert 130 in codes


IN_A_DESTRUCTOR = """
import os, signal
import stpp.__main__, stpp.cli
class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(9): pass
def command():
    Last()
    print("went on")
stpp.cli.main = command
stpp.__main__.main()
"""


def test_ctrl_c_while_an_object_is_destroyed_ends_the_command(project: Project) -> None:
    output = project.run(sys.executable, "-c", IN_A_DESTRUCTOR, rc=130)
    assert "went on" not in output and "Traceback" not in output


def fails(project: Project, *command: str) -> str:
    """Run a command that must end with exit code 2 and no traceback. Return its output."""
    output = project.run(*command, rc=2)
    assert "Traceback" not in output
    return output


def test_a_missing_params_file_is_named(project: Project) -> None:
    (project.folder / "params.yaml").unlink()
    assert "params.yaml: no such file" in fails(project, "stpp", "prepare", "--out", "runs/data")


def test_a_wrong_parameter_is_named_with_its_section(project: Project) -> None:
    project.params(train={"learning_rate": 0.1})
    output = fails(project, "stpp", "prepare", "--out", "runs/data")
    assert "train.learning_rate" in output


def test_a_missing_data_folder_is_named_and_nothing_is_written(project: Project) -> None:
    assert "data.root: data/toy is not a folder" in fails(project, "stpp", "prepare", "--out", "runs/data")
    assert not (project.folder / "runs").exists()


def test_all_problems_of_the_data_are_reported_at_once_and_the_old_manifest_stays(prepared: Project) -> None:
    toy = prepared.folder / "data/toy"
    (toy / "images/toy_00000.png").write_bytes((toy / "images/toy_00000.png").read_bytes()[:200])
    (toy / "images/toy_00001.png").write_bytes((toy / "images/toy_00002.png").read_bytes())
    Image.fromarray(np.full((32, 32), 77, np.uint8)).save(toy / "masks/toy_00003.png")
    Image.fromarray(np.zeros((16, 32), np.uint8)).save(toy / "masks/toy_00004.png")
    before = (prepared.folder / "runs/data/manifest.csv").read_bytes()
    output = fails(prepared, "stpp", "prepare", "--out", "runs/data")
    for name in ("toy_00000.png", "toy_00002.png", "toy_00003.png", "toy_00004.png"):
        assert name in output
    assert "value 77" in output
    assert (prepared.folder / "runs/data/manifest.csv").read_bytes() == before


def test_all_problems_of_a_split_are_reported_at_once(prepared: Project) -> None:
    (prepared.folder / "splits/mine.txt").write_text("toy_00000\nnobody\ntoy_00000\n")
    prepared.params(split={"labeled": {"list": "mine.txt"}}, train={"batch_size": 16})
    command = ["stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split"]
    output = fails(prepared, *command)
    assert "mine.txt:2: nobody" in output
    assert "mine.txt:3: toy_00000 is listed twice" in output
    assert "train.batch_size 16" in output


def test_the_error_for_missing_weights_names_the_three_choices(prepared: Project) -> None:
    prepared.params(model={"weights": "mine.pth"})
    output = fails(prepared, "stpp", "backbone", "--weights", "weights", "--out", "runs/backbone.safetensors")
    assert "`none`" in output and "r160_in1k" in output and "a file in weights/" in output


def test_check_names_the_error_in_an_overlay_and_writes_only_if_all_parameters_are_valid(project: Project) -> None:
    overlay = project.folder / "pipelines/blind/params.yaml"
    right = overlay.read_text()
    overlay.write_text("select: {by: chance}\n")
    output = fails(project, "stpp", "check", "--out", "runs/checked.txt")
    assert "pipelines/blind/params.yaml: select.by: " in output and output.count("error") == 1
    assert not (project.folder / "runs").exists()
    overlay.write_text(right)
    assert "16 overlays: valid" in project.run("stpp", "check", "--out", "runs/checked.txt")
    assert (project.folder / "runs/checked.txt").read_text() == "params are valid\n"


def test_check_names_the_sections_that_dvc_would_miss(project: Project) -> None:
    params = project.folder / "params.yaml"
    lines = [line for line in params.read_text().splitlines() if not line.startswith("student:")]
    params.write_text("\n".join(lines))
    assert "params.yaml: student: DVC needs this section in the file; add `student: null`" in fails(
        project, "stpp", "check"
    )
    params.write_text("\n".join([*lines, "student:"]))
    project.run("stpp", "check")


def test_check_names_all_that_is_missing_at_once_and_nothing_that_dvc_makes_or_pulls(project: Project) -> None:
    mine = {"kind": "folder", "root": "photos", "images": "{name}.png", "classes": ["a", "b"]}
    project.params(
        data=mine,
        split={"labeled": {"list": "mine.txt"}, "test": {"list": "../outside.txt"}},
        model={"weights": "own.pth"},
        student={"weights": "small.pth"},
    )
    output = fails(project, "stpp", "check", "--out", "runs/checked.txt")
    for problem in (
        "data.root: photos: no such folder",
        "split.labeled.list: splits/mine.txt: no such file; lists must lie in splits/",
        "split.test.list: splits/../outside.txt: no such file",
        "model.weights: weights/own.pth: no such file",
        "student.weights: weights/small.pth: no such file",
    ):
        assert output.count(problem) == 1, "once, not for each overlay"
    assert not (project.folder / "runs").exists()

    for name in ("splits/mine.txt", "outside.txt", "weights/own.pth", "weights/small.pth"):
        (project.folder / name).write_text("")
    assert fails(project, "stpp", "check").count(": no such") == 1
    (project.folder / "photos.dvc").write_text("")
    assert project.run("stpp", "check").count("data.root: photos is not here; `dvc pull` fetches it") == 1
    (project.folder / "photos.dvc").unlink()
    (project.folder / "photos").mkdir()
    project.params(data=mine | {"classes": "labelmap.txt"})
    assert "data.classes: photos/labelmap.txt: no such file" in fails(project, "stpp", "check")
    (project.folder / "photos/labelmap.txt").write_text("sky\nroad\n")
    project.run("stpp", "check")
    project.params(data=mine)
    assert "dvc pull" not in project.run("stpp", "check", "--out", "runs/checked.txt")
    assert (project.folder / "runs/checked.txt").read_text() == "params are valid\n"


def test_show_before_any_run_says_what_to_do(project: Project) -> None:
    assert "dvc repro" in fails(project, "stpp", "show")


@pytest.mark.parametrize("stem", ["images", "masks"])
def test_drawing_twice_gives_the_same_bytes(project: Project, stem: str) -> None:
    project.run("stpp", "draw", "--out", "a")
    project.run("stpp", "draw", "--out", "b")
    names = sorted(p.name for p in (project.folder / "a" / stem).iterdir())
    assert len(names) == 30
    for name in names:
        paths = [project.folder / x / stem / name for x in "ab"]
        assert Path(paths[0]).read_bytes() == Path(paths[1]).read_bytes()


def test_commands_for_weights_accept_the_same_networks_as_the_parameters() -> None:
    """The commands list the names again, because Typer only takes literal choices."""
    assert set(get_args(get_args(weights.Network)[0])) == set(NETWORKS)
