"""An audit finds what was changed behind a model, whatever it was. Real runs, really tampered with."""

import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from small import ROOT, Project

from stpp.run.lineage import lock_files, md5_of, read_dvc_locks
from stpp.store.files import digest
from stpp.tracking.client import client

pytestmark = pytest.mark.slow
MODEL = "runs/student/model.safetensors"
DOCS = ROOT / "docs/audit.md"


def ids(project: Project, name: str) -> list[str]:
    return (project.folder / f"runs/split/{name}.txt").read_text().split()


def one_pixel_of_a_training_mask(project: Project) -> str:
    path = project.folder / f"data/toy/masks/{ids(project, 'labeled')[0]}.png"
    with Image.open(path) as image:
        pixels, palette = np.array(image), image.getpalette()
    pixels[3, 5] = (pixels[3, 5] + 1) % 6
    changed = Image.fromarray(pixels)
    changed.putpalette(palette)
    changed.save(path)
    return f"data/toy/masks/{path.name}: was changed"


def an_image_swapped_for_another(project: Project) -> str:
    one, other = ids(project, "labeled")[:2]
    shutil.copyfile(project.folder / f"data/toy/images/{other}.png", project.folder / f"data/toy/images/{one}.png")
    return f"data/toy/images/{one}.png: was changed"


def an_image_removed(project: Project) -> str:
    name = ids(project, "unlabeled")[0]
    (project.folder / f"data/toy/images/{name}.png").unlink()
    return f"data/toy/images/{name}.png: is missing"


def a_line_added_to_the_labeled_list(project: Project) -> str:
    name = ids(project, "val")[0]
    with (project.folder / "runs/split/labeled.txt").open("a") as file:
        file.write(f"{name}\n")
    return f"runs/split/labeled.txt: {name} was added"


def a_line_removed_from_the_labeled_list(project: Project) -> str:
    path = project.folder / "runs/split/labeled.txt"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rest))
    return f"runs/split/labeled.txt: {first.strip()} was removed"


def a_pseudo_mask_edited_inside_its_shard(project: Project) -> str:
    shard = next(s for s in sorted((project.folder / "runs/label_reliable/masks").glob("*.zip")) if len(names(s)))
    name = names(shard)[0]
    with zipfile.ZipFile(shard) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    blank = project.folder / "blank.png"
    Image.fromarray(np.full((32, 32), 3, np.uint8)).save(blank)
    entries[name] = blank.read_bytes()
    blank.unlink()
    with zipfile.ZipFile(shard, "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return f"mask {Path(name).stem} does not match its hash in manifest.csv"


def names(shard: Path) -> list[str]:
    with zipfile.ZipFile(shard) as archive:
        return archive.namelist()


def a_checkpoint_replaced(project: Project) -> str:
    shutil.copyfile(
        project.folder / "runs/student_1/model.safetensors", project.folder / "runs/teacher/model.safetensors"
    )
    return "runs/teacher/model.safetensors: is not what train_teacher wrote"


def the_model_itself_replaced(project: Project) -> str:
    shutil.copyfile(project.folder / "runs/student_1/model.safetensors", project.folder / MODEL)
    return f"{MODEL}: was changed since it was made"


def a_parameter_edited_after_the_run(project: Project) -> str:
    path = project.folder / "params.yaml"
    path.write_text(path.read_text().replace("lr: 0.02", "lr: 0.03"))
    return "params.yaml: train.lr is 0.03; it was 0.02 when train_student ran"


def code_edited_after_the_run(project: Project) -> str:
    with (project.folder / "stpp/engine/fit.py").open("a") as file:
        file.write("# another line\n")
    return "stpp/engine: was changed since"


def a_hash_in_dvc_lock_edited(project: Project) -> str:
    edit_lock(project, lambda stages: stages["train_student"]["deps"][0].update(md5="0" * 32))
    return " in dvc.lock"


def a_parameter_in_dvc_lock_edited(project: Project) -> str:
    edit_lock(project, lambda stages: stages["train_student"]["params"]["params.yaml"]["train"].update(lr=0.5))
    return "params.yaml: train.lr is 0.5 in dvc.lock"


def a_hash_in_dvc_lock_edited_to_fit_another_list(project: Project) -> str:
    """The forger knows what DVC compares, and makes it all agree; the record of the run still does not."""
    a_line_removed_from_the_labeled_list(project)
    manifest = project.folder / "runs/split/manifest.csv"
    rows, kept = manifest.read_text().splitlines(), ids(project, "labeled")
    left = [row for row in rows if ",labeled," not in row or row.split(",")[0] in kept]
    assert len(left) == len(rows) - 1
    manifest.write_text("\n".join(left) + "\n")
    old = next(c.md5 for e in read_dvc_locks(project.folder) for c in e.outs if c.path == "runs/split")
    for lock in lock_files(project.folder):
        lock.write_text(lock.read_text().replace(old, md5_of(project.folder / "runs/split", project.folder)))
    return "in runs/student/run.json, of train_student; one of the two was edited"


def edit_lock(project: Project, edit: Callable[[dict[str, dict[str, object]]], object]) -> None:
    path = project.folder / "dvc.lock"
    yaml = YAML()
    whole = yaml.load(path)
    edit(whole["stages"])
    yaml.dump(whole, path)


def a_record_edited(project: Project) -> str:
    path = project.folder / "runs/student/run.json"
    about = json.loads(path.read_text())
    about["lineage"][0]["params"]["params.yaml"]["train"]["lr"] = 0.5
    path.write_text(json.dumps(about))
    return "runs/student/run.json: is not what train_student wrote"


def a_run_logged_against_another_split(project: Project) -> str:
    run_id = json.loads((project.folder / "runs/student/run.json").read_text())["run_id"]
    client(project.folder).set_tag(run_id, "stpp.split.digest", "another")
    return f"MLflow run {run_id} was logged with other content: stpp.split.digest is another in MLflow"


def a_split_that_kept_its_name_and_changed(project: Project) -> str:
    manifest = project.folder / "runs/split/manifest.csv"
    before = manifest.read_text()
    manifest.write_text(before.replace(",labeled,", ",unlabeled,", 1))
    project.commit("-A")
    manifest.write_text(before)
    project.commit("-A")
    return "split tiny: had other content"


def the_model_replaced_and_its_stage_removed_from_dvc_lock(project: Project) -> str:
    edit_lock(project, lambda stages: stages.pop("train_student"))
    shutil.copyfile(project.folder / "runs/student_1/model.safetensors", project.folder / MODEL)
    return "differs from the file that train_student wrote according to runs/student/run.json"


def a_dependency_removed_from_dvc_lock(project: Project) -> str:
    def without(stages: dict[str, Any]) -> None:
        deps = stages["train_student"]["deps"]
        deps[:] = [dep for dep in deps if dep["path"] != "runs/label_unreliable/masks"]

    edit_lock(project, without)
    return "runs/label_unreliable/masks: nothing in dvc.lock"


def a_stage_removed_from_dvc_lock_and_what_it_read_changed(project: Project) -> str:
    edit_lock(project, lambda stages: stages.pop("prepare"))
    (project.folder / f"data/toy/images/{ids(project, 'labeled')[0]}.png").write_bytes(b"x")
    return "prepare: is a stage in runs/student/run.json, but not in dvc.lock"


def a_command_in_dvc_lock_edited(project: Project) -> str:
    edit_lock(project, lambda stages: stages["train_student"].update(cmd="python -m stpp train --name other"))
    return "train_student: ran `python -m stpp train --name other` in dvc.lock"


def a_damaged_manifest(project: Project) -> str:
    path = project.folder / "runs/data/manifest.csv"
    path.write_text(path.read_text().replace(",32,32,", ",x,32,", 1))
    return "runs/data: not what `stpp prepare` writes"


def verdict(output: str) -> str:
    return output.splitlines()[0]


@pytest.mark.parametrize(
    "tamper",
    [
        one_pixel_of_a_training_mask,
        an_image_swapped_for_another,
        an_image_removed,
        a_line_added_to_the_labeled_list,
        a_line_removed_from_the_labeled_list,
        a_pseudo_mask_edited_inside_its_shard,
        a_checkpoint_replaced,
        the_model_itself_replaced,
        a_parameter_edited_after_the_run,
        code_edited_after_the_run,
        a_hash_in_dvc_lock_edited,
        a_parameter_in_dvc_lock_edited,
        a_hash_in_dvc_lock_edited_to_fit_another_list,
        a_record_edited,
        a_run_logged_against_another_split,
        a_split_that_kept_its_name_and_changed,
        the_model_replaced_and_its_stage_removed_from_dvc_lock,
        a_dependency_removed_from_dvc_lock,
        a_stage_removed_from_dvc_lock_and_what_it_read_changed,
        a_command_in_dvc_lock_edited,
        a_damaged_manifest,
    ],
    ids=lambda tamper: tamper.__name__,
)
def test_what_was_tampered_with_is_named(copied: Project, tamper: Callable[[Project], str]) -> None:
    said = tamper(copied)
    output = copied.run("stpp", "audit", MODEL, "--out", "audit", rc=1)
    assert "contradiction" in verdict(output)
    assert said in output
    (found,) = json.loads((copied.folder / "audit/audit.json").read_text())
    assert any(said in problem for problem in found["problems"])
    assert "contradiction" in (copied.folder / "audit/audit.html").read_text()


def test_nothing_contradicts_what_nobody_touched(copied: Project) -> None:
    output = copied.run("stpp", "audit", "--out", "audit")
    assert output.count("no contradictions\n") == 3, "teacher, student 1 and student"
    found = json.loads((copied.folder / "audit/audit.json").read_text())
    for one in found:
        assert one["problems"] == one["not_looked_at"] == one["suspects"] == []
        for execution in one["executions"]:
            assert {link["verdict"] for link in execution["deps"] + execution["outs"]} == {"verified"}
    (student,) = [one for one in found if one["model"] == MODEL]
    stages = {execution["stage"] for execution in student["executions"]}
    assert {"train_student", "label_unreliable", "select", "split", "prepare", "pipelines/toy/dvc.yaml:draw"} <= stages
    tracked = {e["stage"] for e in student["executions"] if e["mlflow_run"]}
    assert {"train_student", "train_student_1", "train_teacher", "score", "label_reliable"} <= tracked


def test_a_held_out_image_under_another_name_and_encoding_is_shown_beside_it(copied: Project) -> None:
    held_out, trained = ids(copied, "val")[0], ids(copied, "unlabeled")[0]
    images = copied.folder / "data/toy/images"
    with Image.open(images / f"{held_out}.png") as image:
        larger = image.convert("RGB").resize((40, 40), Image.Resampling.BICUBIC)
    larger.save(images / f"{trained}.png", format="JPEG", quality=80)
    copied.run("stpp", "audit", MODEL, "--out", "audit", rc=1)
    (found,) = json.loads((copied.folder / "audit/audit.json").read_text())
    assert [(s["held_out"]["id"], s["trained_on"]["id"]) for s in found["suspects"]] == [(held_out, trained)]
    page = (copied.folder / "audit/audit.html").read_text()
    assert page.count("<img alt='' src='data:image/jpeg;base64,") == 2


def test_without_the_split_it_is_said_what_was_not_looked_at(copied: Project) -> None:
    shutil.rmtree(copied.folder / "runs/split")
    output = copied.run("stpp", "audit", MODEL)
    assert "not checked:\n  history of the split's name, and held-out images that look like training images" in output


def test_a_model_of_an_old_commit_is_traced_from_git_dvcs_cache_and_mlflow(copied: Project, tmp_path: Path) -> None:
    model = tmp_path / "handed over.safetensors"
    shutil.copyfile(copied.folder / MODEL, model)
    for name in ("dvc.lock", "pipelines/toy/dvc.lock"):
        (copied.folder / name).unlink()
    shutil.rmtree(copied.folder / "runs")
    copied.commit("-A")

    output = copied.run("stpp", "audit", str(model))
    assert "according to dvc.lock of commit" in output
    assert "in DVC's cache" in output
    assert "runs/split  md5" in output
    assert "in git at" in output

    shutil.rmtree(copied.folder / ".git")
    output = copied.run("stpp", "audit", str(model))
    assert "according to the record of MLflow run" in output
    assert "by train_teacher" in output, "the record holds what is behind it"

    output = copied.run("stpp", "audit", str(model), "--offline", rc=2)
    assert "no dvc.lock, run.json, commit or MLflow run lists a file with its hash" in output
    assert "Traceback" not in output


def test_an_older_model_is_traced_while_a_newer_one_is_in_its_place(copied: Project) -> None:
    copied.params(train={"epochs": 2, "checkpoints": 2})
    copied.run("dvc", "repro", "-q")
    output = copied.run("stpp", "audit", "models:/tiny/1")
    assert verdict(output).startswith("models:/tiny/1: no contradictions")
    assert "runs/student/model.safetensors  md5" in output and "in DVC's cache" in output

    run_id = client(copied.folder).get_model_version("tiny", "1").run_id
    client(copied.folder).set_tag(run_id, "stpp.split.digest", "another")
    assert "was logged with other content" in copied.run("stpp", "audit", "models:/tiny/1", rc=1)


def test_without_dvc_lock_an_edited_record_is_held_to_that_of_its_run(copied: Project) -> None:
    for lock in lock_files(copied.folder):
        lock.unlink()
    assert "no contradictions" in copied.run("stpp", "audit", MODEL)
    a_record_edited(copied)
    said = "runs/student/run.json: differs from the record of MLflow run"
    assert said in copied.run("stpp", "audit", MODEL, rc=1)


def test_a_run_of_mlflow_is_traced(copied: Project) -> None:
    run_id = json.loads((copied.folder / "runs/student/run.json").read_text())["run_id"]
    shutil.rmtree(copied.folder / "runs")
    (copied.folder / "dvc.lock").unlink()
    output = copied.run("stpp", "audit", f"runs:/{run_id}")
    assert f"according to the record of MLflow run {run_id}" in output
    shown = client(copied.folder).get_parent_run(run_id).info.run_name
    for short in (run_id[:8], f"runs:/{run_id[:8]}", shown):  # the newest training of the parent run is the student
        assert f"according to the record of MLflow run {run_id}" in copied.run("stpp", "audit", short)
    assert "MLflow" in copied.run("stpp", "audit", "runs:/0123456789abcdef0123456789abcdef", rc=2)


def test_a_clone_without_data_proves_that_lock_params_code_and_split_agree(copied: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "clone", copied.env)
    subprocess.run(["git", "clone", "-q", str(copied.folder), str(project.folder)], check=True)
    would_run, offline = re.findall(r"(?m)^((?:dvc repro --dry|stpp audit --offline).*?) +#", DOCS.read_text())
    project.run("bash", "-c", would_run)
    project.run("bash", "-c", offline)
    (project.folder / "weights/README.md").write_text("another")
    project.run("bash", "-c", would_run, rc=1)
    project.run("git", "checkout", "-q", ".")
    output = project.run("stpp", "audit", MODEL, "--offline")
    assert "no contradictions; " in verdict(output)
    assert "pinned by hash" in output
    assert "train_student: its record is not here, so dvc.lock" in output
    with (project.folder / "runs/split/labeled.txt").open("a") as file:
        file.write("toy_00001\n")
    assert "runs/split: is not" in project.run("stpp", "audit", MODEL, "--offline", rc=1)


def test_what_a_person_may_add_contradicts_nothing(copied: Project) -> None:
    """A list, a pin, weights; integer keys in params; a run of another data set whose split has the same name."""
    copied.run("stpp", "split", "pin", "tiny")
    (copied.folder / "splits/mine.txt").write_text("toy_00001\n")
    (copied.folder / "weights/mine.safetensors").write_text("weights")
    mlflow = client(copied.folder)
    run = mlflow.create_run(mlflow.create_experiment("another"), tags={"stpp.split.digest": "x"})
    mlflow.log_param(run.info.run_id, "split.name", "tiny")
    assert "no contradictions" in verdict(copied.run("stpp", "audit", MODEL))


def test_an_audit_changes_nothing(copied: Project) -> None:
    watched = [copied.folder / name for name in ("runs", "data", "splits", "dvc.lock", "params.yaml", "mlflow.db")]
    before = digest(watched)
    copied.run("stpp", "audit")
    assert digest(watched) == before
