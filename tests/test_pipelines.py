"""Tests that every dvc.yaml is correct: commands, paths, parameters, and the code that can change a result."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML
from small import Project

from stpp.cli import COMMANDS as TABLE
from stpp.cli import load_command
from stpp.paper.systems import ON_MODEL, SYSTEMS
from stpp.params.file import load
from stpp.params.models import Params
from stpp.run.code import PACKAGE, UNWATCHED, import_closure, imports, source_path
from stpp.run.lineage import CHECKED

ROOT = Path(__file__).parent.parent
COMMANDS: Any = {name: load_command(name, command) for name, command in TABLE.items()}


@cache
def stages() -> dict[str, dict[str, Any]]:
    """Return every stage, by its pipeline and name."""
    found = {}
    for path in [ROOT / "dvc.yaml", *sorted((ROOT / "pipelines").glob("*/dvc.yaml"))]:
        whole = YAML(typ="safe").load(path)
        where = "root" if path.parent == ROOT else path.parent.name
        for name, stage in whole["stages"].items():
            if "foreach" in stage:
                found |= {f"{where}:{name}@{key}": one for key, one in each(stage, whole)}
            else:
                found[f"{where}:{name}"] = stage
    return found


def each(stage: dict[str, Any], whole: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the stages of a `foreach`, with `${item}`, `${key}` and `${item.x}` filled in."""
    items = stage["foreach"]
    if isinstance(items, str):  # the name of a variable in the file
        items = next(var[items[2:-1]] for var in whole["vars"] if items[2:-1] in var)
    for key, item in items.items() if isinstance(items, dict) else zip(items, items, strict=True):
        text = json.dumps(stage["do"]).replace("${key}", str(key))
        if isinstance(item, dict):
            for name, value in item.items():
                text = text.replace(f"${{item.{name}}}", str(value))
        else:
            text = text.replace("${item}", str(item))
        yield str(key), json.loads(text)


def overlays(stage: dict[str, Any]) -> list[str]:
    """Return the params files that a command reads over params.yaml."""
    _, *rest = words(stage)
    given = [value for option, value in zip(rest[::2], rest[1::2], strict=True) if option == "--params"]
    assert given[:1] in ([], ["params.yaml"])
    return given[1:]


def names(entries: list[Any]) -> set[str]:
    return {next(iter(e)) if isinstance(e, dict) else e for e in entries}


def written(stage: dict[str, Any]) -> set[str]:
    return names([*stage.get("outs", []), *stage.get("metrics", [])])


def whole_files(stage: dict[str, Any]) -> set[str]:
    """Return the params files that the stage `check` watches as a whole; nothing for other stages."""
    return names(stage["params"]) if words(stage)[0] == "check" else set()


def words(stage: dict[str, Any]) -> list[str]:
    """Return the command and the options after `python -m stpp`.

    `python -m` runs the code beside dvc.yaml, also in a temporary copy of DVC's queue.
    """
    *program, command = shlex.split(stage["cmd"])[:4]
    assert program == ["python", "-m", "stpp"]
    rest = shlex.split(stage["cmd"])[4:]
    while rest and not rest[0].startswith("--"):  # positional arguments
        rest = rest[1:]
    return [command, *rest]


def module(stage: dict[str, Any]) -> str:
    return f"stpp.stages.{words(stage)[0].replace('-', '_')}"


def test_the_command_and_its_options_exist() -> None:
    for where, stage in stages().items():
        command, *rest = words(stage)
        params = COMMANDS[command].params
        assert {w for w in rest if w.startswith("--")} <= {o for p in params for o in p.opts}, where
        assert {p.opts[0] for p in params if p.required and p.opts[0].startswith("--")} <= set(rest), where


def test_every_path_of_the_command_is_declared() -> None:
    for where, stage in stages().items():
        declared = names(stage.get("deps", [])) | written(stage)
        _, *rest = words(stage)
        for option, value in zip(rest[::2], rest[1::2], strict=True):
            if option in ("--name", "--network", "--params"):
                continue
            path = value.partition("=")[2] or value
            inside = any(is_within(d, {path}) or is_within(path, {d}) for d in declared)
            assert inside, f"{where}: {option} {path} is in none of deps, outs and metrics"


def test_every_dep_in_runs_is_an_out_of_a_stage() -> None:
    """A folder that contains outs cannot be a dep: without the data, DVC does not know its hash.

    This matters for `dvc repro --allow-missing` in a clone.
    """
    outs = {out for stage in stages().values() for out in written(stage)}
    for where, stage in stages().items():
        for dep in names(stage["deps"]):
            assert is_within(dep, outs) or not dep.startswith("runs/"), f"{where}: {dep}"


def test_the_plan_knows_the_network_of_every_training() -> None:
    trained = {}
    for stage in stages().values():
        command, *rest = words(stage)
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        if command.startswith("train"):
            trained[options["--out"]] = options["--backbone"]
    assert {out for out, file in trained.items() if file == "runs/backbone.safetensors"} == set(ON_MODEL)
    assert set(trained.values()) == {"runs/backbone.safetensors", "runs/backbone_student.safetensors"}
    assert {out for one in SYSTEMS.values() for out in one.trains} == set(trained)


def test_every_parameter_exists() -> None:
    for where, stage in stages().items():
        for entry in names(stage.get("params", [])) - set(overlays(stage)) - whole_files(stage):
            model: Any = Params
            for part in entry.split("."):
                assert issubclass(model, BaseModel), where
                assert part in model.model_fields, f"{where}: {entry}"
                model = model.model_fields[part].annotation


def test_no_stage_watches_runtime_and_only_prepare_watches_data() -> None:
    for where, stage in stages().items():
        sections = {p.split(".")[0] for p in names(stage.get("params", [])) - set(overlays(stage)) - whole_files(stage)}
        assert "runtime" not in sections, where
        assert "data" not in sections or words(stage)[0] == "prepare", where


def test_the_code_that_can_change_a_result_is_watched() -> None:
    for where, stage in stages().items():
        deps = names(stage["deps"])
        files = {source_path(m).relative_to(PACKAGE.parent).as_posix() for m in import_closure(module(stage))}
        assert not {f for f in files if not is_within(f, deps)}, where
        code = [d for d in stage["deps"] if isinstance(d, str) and d.startswith("stpp")]
        assert not [d for d in code if not any(is_within(f, {d}) for f in files)], f"{where}: cannot change the result"
        assert code == sorted(code) and len(code) <= 8, where
        rooms = {f"stpp.{d.removeprefix('stpp/')}" for d in code} - {"stpp.store"}  # all modules of a room are watched
        assert not [n for n in UNWATCHED if n in rooms or n.rpartition(".")[0] in rooms], where


def test_the_parameters_that_a_stage_reads_are_watched() -> None:
    for where, stage in stages().items():
        text = source_path(module(stage)).read_text()
        if "stpp.stages.training" in imports(module(stage)):
            text += source_path("stpp.stages.training").read_text()
        read = set(re.findall(r"\b(?:p|params)\.(\w+)\b", text)) | set(re.findall(r"load\([^\n]*\)\.(\w+)", text))
        read &= set(Params.model_fields)
        if "params.yaml" in names(stage.get("params", [])):  # `check` watches all of it
            continue
        watched = {p.split(".")[0] for p in names(stage.get("params", []))}
        unwatched_by_design = {"runtime", "data"} if words(stage)[0] != "prepare" else {"runtime"}
        if words(stage)[0].startswith("train"):
            unwatched_by_design |= {"evaluate"}  # evaluate.batch_size must not cause a new training
        assert read - unwatched_by_design <= watched, where


def test_the_recipe_of_a_stage_has_the_parameters_that_dvc_watches() -> None:
    for where, stage in stages().items():
        recipe = getattr(importlib.import_module(module(stage)), "RECIPE", None)
        if recipe is not None:
            assert recipe.module == module(stage), where
            assert set(recipe.watched) == names(stage["params"]) - set(overlays(stage)), where


def test_an_overlay_is_valid_and_watched_and_changes_watched_parameters() -> None:
    plain = load([ROOT / "params.yaml"])
    for where, stage in stages().items():
        for overlay in overlays(stage):
            whole = {next(iter(e)) for e in stage["params"] if isinstance(e, dict) and next(iter(e.values())) is None}
            assert overlay in whole, f"{where}: an overlay is watched as a whole"
            merged = load([ROOT / "params.yaml", ROOT / overlay])
            changed = {name for name in Params.model_fields if getattr(merged, name) != getattr(plain, name)}
            assert changed, where
            assert changed <= {p.split(".")[0] for p in names(stage["params"])}, where


def test_every_overlay_is_read_by_a_stage() -> None:
    read = {overlay for stage in stages().values() for overlay in overlays(stage)}
    there = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("pipelines/*/*.yaml") if p.name != "dvc.yaml"}
    assert read == {p for p in there if not p.startswith("pipelines/presets/")}


def test_all_parameters_are_checked_before_any_stage_begins() -> None:
    """DVC removes the outs of a stage before it runs the stage, so a check inside the stage would be too late."""
    every = list(stages().values())
    (check,) = (stage for stage in every if words(stage)[0] == "check")
    there = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("pipelines/*/*.yaml") if p.name != "dvc.yaml"}
    assert check["params"] == [{"params.yaml": None}]
    assert {p for p in there if not p.startswith("pipelines/presets/")} <= names(check["deps"])
    after = {CHECKED}
    left = [stage for stage in every if stage is not check]
    while ready := [stage for stage in left if any(is_within(dep, after) for dep in names(stage["deps"]))]:
        after |= {out for stage in ready for out in written(stage)}
        left = [stage for stage in left if stage not in ready]
    assert not left


def is_within(path: str, places: set[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def test_git_ignores_what_dvc_stores_and_nothing_else(tmp_path: Path) -> None:
    """The committed file must name all of them, because DVC removes its own lines when a stage fails."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    shutil.copyfile(ROOT / ".gitignore", tmp_path / ".gitignore")
    stored, committed = set[str](), set[str]()
    for stage in stages().values():
        for out in [*stage.get("outs", []), *stage.get("metrics", [])]:
            name, about = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            (stored if about.get("cache", True) else committed).add(name)
    assert committed == {"runs/split", "runs/selection", "runs/blind/selection"}
    committed |= {f"{folder}/{file}" for folder in committed for file in ("labeled.txt", "reliable.txt")}
    committed |= {"results/table-1/own.json", "splits/mine.txt", "data/mine.dvc", "weights/mine.pth.dvc"}
    asked = "\0".join([*stored, *committed])
    words = ["git", "-C", tmp_path, "check-ignore", "-z", "--stdin"]
    ignored = subprocess.run(words, input=asked, capture_output=True, text=True, check=True).stdout
    assert set(ignored.rstrip("\0").split("\0")) == stored


def test_no_two_stages_write_to_the_same_path() -> None:
    outs = [out for stage in stages().values() for out in written(stage)]
    assert len(outs) == len(set(outs))
    assert not [(a, b) for a in outs for b in outs if a != b and b.startswith(f"{a}/")]


CHANGED = """
import json, sys
from pathlib import Path
from stpp.run import code
from stpp.run.resume import recipe_hash
found = {}
def keys():  # what a module imports stays, and is read once
    return {stage: recipe_hash(f"stpp.stages.{stage}", {}) for stage in sys.argv[1:]}
before = keys()
for file in sorted(code.PACKAGE.rglob("*.py")):
    text = file.read_text()
    file.write_text(text + "ONE_MORE = 1\\n")
    after = keys()
    file.write_text(text)
    found[file.relative_to(code.PACKAGE.parent).as_posix()] = [s for s in before if before[s] != after[s]]
print(json.dumps(found))
"""


def test_a_changed_module_changes_the_keys_of_only_those_stages_that_watch_it(
    tmp_path: Path,
) -> None:
    shutil.copytree(PACKAGE, tmp_path / "stpp", ignore=shutil.ignore_patterns("__pycache__"))
    deps = {words(stage)[0].replace("-", "_"): names(stage["deps"]) for stage in stages().values()}
    call = [sys.executable, "-c", CHANGED, *deps]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True)
    for file, noticed in json.loads(done.stdout).items():
        watching = {stage for stage, paths in deps.items() if is_within(file, paths)}
        assert set(noticed) <= watching, f"{file} changes the results of {noticed}, and DVC looks at it for {watching}"
        room = file.split("/")[1]
        if room in ("params", "tracking", "report", "audit", "paper", "deploy", "cli.py") or file.endswith(
            ("progress.py", "training_lines.py")
        ):
            assert not {"train", "train_online"} & {*noticed, *watching}, file
        if room in ("data", "engine", "models") and not file.endswith(("__init__.py", "benchmark.py")):
            assert noticed, f"{file} changes nothing"


PARTS = ("jitter", "grayscale", "blur", "cutout")


@pytest.mark.parametrize("part", PARTS)
def test_an_ablation_switches_off_its_parts_and_keeps_the_other_values(part: str, tmp_path: Path) -> None:
    """Paper, Figure 3b. It holds for any values in params.yaml."""
    mine = {name: round(0.31 + 0.1 * i, 2) for i, name in enumerate(PARTS)}
    (tmp_path / "mine.yaml").write_text(json.dumps({"augment": {"strong": mine}}))
    base = [ROOT / "params.yaml", tmp_path / "mine.yaml"]
    for which, off in (("only", set(PARTS) - {part}), ("no", {part})):
        merged = load([*base, ROOT / f"pipelines/ablation/{which}_{part}.yaml"])
        expected = {name: 0.0 if name in off else value for name, value in mine.items()}
        assert {name: getattr(merged.augment.strong, name) for name in PARTS} == expected
        assert merged.augment.strong_labeled is None


def test_both_sets_get_the_published_strong_augmentation() -> None:
    both = load([ROOT / "params.yaml", ROOT / "pipelines/ablation/both_sets.yaml"]).augment
    assert both.strong_labeled == both.strong == load([ROOT / "params.yaml"]).augment.strong
    cutout = load([ROOT / "params.yaml", ROOT / "pipelines/ablation/cutout_labeled.yaml"]).augment
    alone = load([ROOT / "params.yaml", ROOT / "pipelines/ablation/only_cutout.yaml"]).augment
    assert cutout.strong_labeled == alone.strong
    assert cutout.strong == both.strong


def test_every_round_labels_with_the_model_of_the_round_before_and_trains_on_these_masks() -> None:
    found = stages()
    for n in (1, 2, 3):
        labeller = "runs/student" if n == 1 else f"runs/iterative/{n - 1}/student"
        assert f"--model {labeller}/model.safetensors" in found[f"iterative:label@{n}"]["cmd"]
        assert "--ids runs/split/unlabeled.txt" in found[f"iterative:label@{n}"]["cmd"]
        assert f"--pseudo runs/iterative/{n}/label/masks" in found[f"iterative:train_student@{n}"]["cmd"]


def test_every_figure_of_a_report_is_a_plot_of_dvc() -> None:
    """Pipelines that may not have been run list single files, because DVC complains about missing folders."""
    for path in [ROOT / "dvc.yaml", *sorted((ROOT / "pipelines").glob("*/dvc.yaml"))]:
        whole = YAML(typ="safe").load(path)
        drawn = set()
        for name, stage in whole["stages"].items():
            several = [one for _, one in each(stage, whole)] if "foreach" in stage else [stage]
            drawn |= {out for one in several for out in names(one["outs"]) if name == "report" or out.endswith(".png")}
        plots = {(path.parent / plot).resolve() for plot in whole.get("plots", []) if isinstance(plot, str)}
        assert path.parent == ROOT or all(plot.suffix == ".png" for plot in plots)
        assert {plot if plot in {ROOT / out for out in drawn} else plot.parent for plot in plots} == {
            ROOT / out for out in drawn
        }


def test_data_and_weights_added_to_dvc_are_restored_in_a_clone(project: Project, tmp_path: Path) -> None:
    given = {"data/mine/a.jpg": "an image", "weights/mine.safetensors": "weights"}
    for path, text in given.items():
        (project.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (project.folder / path).write_text(text)
    project.run("dvc", "add", "-q", "data/mine", "weights/mine.safetensors")
    project.commit("-A")
    clone = tmp_path / "clone"
    project.run("git", "clone", "-q", ".", str(clone))
    assert not (clone / "data/mine").exists()
    project.run("dvc", "--cd", str(clone), "cache", "dir", str(project.folder / ".dvc/cache"))
    project.run("dvc", "--cd", str(clone), "checkout", "-q", "--allow-missing")
    assert {path: (clone / path).read_text() for path in given} == given
