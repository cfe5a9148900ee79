"""Every dvc.yaml tells the truth: commands, paths, parameters, and the code that can change a result."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel
from ruamel.yaml import YAML

from stpp.cli import app
from stpp.code import PACKAGE, closure, source
from stpp.params import Params

ROOT = Path(__file__).parent.parent
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def stages() -> list[Any]:
    found = []
    for path in [ROOT / "dvc.yaml", *sorted((ROOT / "pipelines").glob("*/dvc.yaml"))]:
        for name, stage in YAML(typ="safe").load(path)["stages"].items():
            found.append(pytest.param(stage, id=f"{path.parent.name}:{name}"))
    return found


def names(entries: list[Any]) -> set[str]:
    return {next(iter(e)) if isinstance(e, dict) else e for e in entries}


def words(stage: dict[str, Any]) -> list[str]:
    """What follows `python -m stpp`, which runs the code beside dvc.yaml, also in a temporary copy of DVC's queue."""
    *program, command = shlex.split(stage["cmd"])[:4]
    assert program == ["python", "-m", "stpp"]
    return [command, *shlex.split(stage["cmd"])[4:]]


@pytest.mark.parametrize("stage", stages())
def test_the_command_and_its_options_exist(stage: dict[str, Any]) -> None:
    command, *rest = words(stage)
    options = {o for p in COMMANDS[command].params for o in p.opts}
    assert {w for w in rest if w.startswith("--")} <= options
    required = {p.opts[0] for p in COMMANDS[command].params if p.required}
    assert required <= set(rest)


@pytest.mark.parametrize("stage", stages())
def test_every_path_of_the_command_is_declared(stage: dict[str, Any]) -> None:
    declared = names([*stage.get("deps", []), *stage.get("outs", []), *stage.get("metrics", [])])
    _, *rest = words(stage)
    for option, value in zip(rest[::2], rest[1::2], strict=True):
        if option == "--name":
            continue
        path = value.partition("=")[2] or value
        inside = {d for d in declared if d == path or d.startswith(f"{path}/")}
        assert inside, f"{option} {path} is in none of deps, outs and metrics"


@pytest.mark.parametrize("stage", stages())
def test_every_parameter_exists(stage: dict[str, Any]) -> None:
    for entry in names(stage.get("params", [])):
        model: Any = Params
        for part in entry.split("."):
            assert issubclass(model, BaseModel)
            model = model.model_fields[part].annotation


@pytest.mark.parametrize("stage", stages())
def test_no_stage_watches_how_it_runs_or_where_the_data_lies(stage: dict[str, Any]) -> None:
    sections = {p.split(".")[0] for p in names(stage.get("params", []))}
    assert "runtime" not in sections
    assert "data" not in sections or words(stage)[0] == "prepare"


@pytest.mark.parametrize("stage", stages())
def test_the_code_that_can_change_a_result_is_watched(stage: dict[str, Any]) -> None:
    deps = names(stage["deps"])
    files = {source(m).relative_to(PACKAGE.parent).as_posix() for m in closure(f"stpp.stages.{words(stage)[0]}")}
    missing = {f for f in files if f not in deps and not any(f.startswith(f"{d}/") for d in deps)}
    assert not missing
    code = {d for d in deps if d.startswith("stpp")}
    assert all(any(f == d or f.startswith(f"{d}/") for f in files) for d in code), "a dep that cannot change the result"


@pytest.mark.parametrize("stage", stages())
def test_the_parameters_that_a_stage_reads_are_watched(stage: dict[str, Any]) -> None:
    text = source(f"stpp.stages.{words(stage)[0]}").read_text()
    read = set(re.findall(r"\bp\.(\w+)\b", text)) | set(re.findall(r"load\([^\n]*\)\.(\w+)", text))
    read &= set(Params.model_fields)
    watched = {p.split(".")[0] for p in names(stage.get("params", []))}
    unwatched_by_design = {"runtime", "data"} if words(stage)[0] != "prepare" else {"runtime"}
    assert read - unwatched_by_design <= watched


def test_no_two_stages_write_one_place() -> None:
    outs = [o for p in stages() for o in names([*p.values[0].get("outs", []), *p.values[0].get("metrics", [])])]
    assert len(outs) == len(set(outs))
    assert not [(a, b) for a in outs for b in outs if a != b and b.startswith(f"{a}/")]
