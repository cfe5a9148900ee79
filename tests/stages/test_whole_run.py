"""Tests whole runs of ST++ and ST with DVC: which stages run, which do not run again, and what they write."""

import json
import re
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file
from small import OWN, Project, ran

from stpp.models import metadata
from stpp.params.file import read_yaml
from stpp.store.files import digest, read_csv, read_ids, read_json
from stpp.tracking.client import client

pytestmark = pytest.mark.slow


def test_st_plus_plus_and_st_run_and_no_stage_runs_twice(copied: Project) -> None:
    project, folder = copied, copied.folder
    stages = [*read_yaml(folder / "dvc.lock")["stages"], *read_yaml(folder / "pipelines/toy/dvc.lock")["stages"]]
    assert len(stages) == 14  # one of them is `check`
    for name in ("draw", "prepare", "split", "train_teacher", "score", "select", "train_student", "report"):
        assert name in stages
    assert len(list((folder / "runs/teacher/checkpoints").iterdir())) == 3

    # the files of the run
    sets = {name: set(read_ids(folder / f"runs/split/{name}.txt")) for name in ("labeled", "unlabeled", "val", "test")}
    assert sum(len(s) for s in sets.values()) == len(set().union(*sets.values())) == 30
    reliable, unreliable = (read_ids(folder / f"runs/selection/{n}.txt") for n in ("reliable", "unreliable"))
    assert set(reliable) | set(unreliable) == sets["unlabeled"] and not set(reliable) & set(unreliable)
    scores = {
        row["id"]: float(row["stability"]) for row in read_csv(folder / "runs/score/scores.csv", ("id", "stability"))
    }
    assert min(scores[i] for i in reliable) >= max(scores[i] for i in unreliable)
    table = project.run("stpp", "show")
    assert "SupOnly" in table and "ST++" in table and "Student 1" in table
    assert "miou" in project.run("dvc", "metrics", "show")

    # the MLflow runs: one parent, one run for each stage that computes, figures in them
    about = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("runs/*/run.json")}
    mlflow = client(folder)
    found = {name: mlflow.get_run(a["run_id"]) for name, a in about.items()}
    assert len({r.data.tags["mlflow.parentRunId"] for r in found.values()}) == 1
    assert {r.info.status for r in found.values()} == {"FINISHED"}
    assert found["teacher"].data.tags["stpp.start"] == found["student"].data.tags["stpp.start"] == "none"
    parent = mlflow.get_run(found["teacher"].data.tags["mlflow.parentRunId"])
    assert (
        parent.data.metrics["val/stpp/miou"]
        == read_json(folder / "runs/evaluation/metrics.json")["val"]["stpp"]["miou"]
    )
    assert parent.data.tags["stpp.run.teacher"] == about["teacher"]["run_id"]
    history = mlflow.get_metric_history(about["student"]["run_id"], "val/miou")
    assert [m.step for m in history] == [1, 2, 3]
    images = [a.path for a in mlflow.list_artifacts(about["student"]["run_id"], "images") if a.path.endswith(".png")]
    assert sorted(re.findall(r"step\D(\d+)", path)[0] for path in images) == ["1", "2", "3"]
    shown = {a.path for a in mlflow.list_artifacts(about["evaluation"]["run_id"], "figures")}
    assert {f"figures/{name}.png" for name in ("stability", "per_class", "reliability", "worst")} <= shown
    assert "per_image.csv" in {a.path for a in mlflow.list_artifacts(about["evaluation"]["run_id"])}
    assert not mlflow.list_artifacts(about["score"]["run_id"], "figures"), "other selections share it"

    versions = {v.run_id: v for v in mlflow.search_model_versions("name = 'tiny'")}
    val = read_json(folder / "runs/evaluation/metrics.json")["val"]
    folders = {"suponly": "teacher", "student_1": "student_1", "stpp": "student"}
    best = folders[max(val, key=lambda name: val[name]["miou"])]
    assert set(versions) == {about[name]["run_id"] for name in ("student", best)}
    version = versions[about["student"]["run_id"]]
    described = found["evaluation"].data.tags["mlflow.note.content"]
    learnt = "nothing else was learnt"  # after three epochs, the models may predict a single class
    assert any(said in described and said in table for said in ("best on val", learnt))
    # After three epochs, the model may predict a single class. Then it did not get the alias by itself.
    mlflow.set_registered_model_alias("tiny", "champion", version.version)
    assert "according to dvc.lock" in project.run("stpp", "audit", "runs/student/model.safetensors")
    assert "the record of MLflow run" in project.run("stpp", "audit", "models:/tiny@champion")

    # nothing has changed
    output = project.run("dvc", "repro")
    assert ran(output) == [] and "up to date" in output

    # a forced stage runs again
    again = project.run("dvc", "repro", "-f", "-s", "evaluate")
    assert "restor" not in again and "already" not in again and "evaluate: " in again

    # a plot's code re-runs the report only
    with (folder / "stpp/report/plots.py").open("a") as file:
        file.write("\n# a thicker line\n")
    assert ran(project.run("dvc", "repro")) == ["report"]

    # ST shares the teacher and the reliable masks
    project.run("git", "add", ".")
    assert "up to date" in project.run("dvc", "status")  # not a word of systems that are not in use
    assert "dvc repro pipelines/st/dvc.yaml" in project.run("stpp", "system", "use", "st")
    st = ran(project.run("dvc", "repro", "pipelines/st/dvc.yaml"))
    assert st == [
        f"pipelines/st/dvc.yaml:{name}" for name in ("label_unreliable", "train_student", "evaluate", "report")
    ]
    assert "  ST " in project.run("stpp", "show")
    of_st = mlflow.get_run(json.loads((folder / "runs/st/student/run.json").read_text())["run_id"])
    assert [a.path for a in mlflow.list_artifacts(of_st.info.run_id, "figures")] == ["figures/curve_st.png"]
    st_parent = mlflow.get_run(of_st.data.tags["mlflow.parentRunId"])
    assert st_parent.info.run_id != parent.info.run_id
    assert st_parent.data.tags["stpp.run.teacher"] == about["teacher"]["run_id"]
    assert "val/st/miou" in st_parent.data.metrics

    # comparing the two gives the same from files and from MLflow
    beside = project.run("stpp", "runs", "compare", "runs/evaluation", "runs/st/evaluation")
    assert "data and split: equal" in beside
    again = project.run("stpp", "runs", "compare", parent.info.run_id, st_parent.info.run_id)
    assert again.splitlines()[1:] == beside.splitlines()[1:]

    # git has the lists and locks but no data or weights, and DVC shows the plots of both pipelines
    project.commit(".")
    project.run("dvc", "remote", "add", "-d", "store", str(folder.parent / "store"))
    project.run("dvc", "push", "-q")
    project.commit(".")
    project.run("git", "clone", "-q", ".", str(folder.parent / "clone"))
    project.run("dvc", "--cd", str(folder.parent / "clone"), "pull", "-q")
    assert "up to date" in project.run("dvc", "--cd", str(folder.parent / "clone"), "status")
    shutil.rmtree(folder.parent / "clone")
    held = project.run("git", "ls-files").splitlines()
    assert {"dvc.lock", "pipelines/st/dvc.lock", "runs/split/labeled.txt", "runs/selection/reliable.txt"} <= set(held)
    assert not [f for f in held if f.startswith(("data/toy/", ".stpp/", "mlflow")) or f.endswith(".safetensors")]
    project.run("dvc", "plots", "show", "-o", "plots")
    page = (folder / "plots/index.html").read_text()
    assert "mIoU on val" in page and "Mean training loss" in page
    assert "blind" not in page
    drawn = {p.name for p in (folder / "plots").rglob("*.png")}
    assert any("stability" in name for name in drawn) and any("curve_st" in name for name in drawn)
    shutil.rmtree(folder / "plots")

    # moving the data retrains nothing
    shutil.move(folder / "data/toy", folder / "elsewhere")
    project.params(data={"root": "elsewhere"})
    assert ran(project.run("dvc", "repro")) == ["prepare"]

    # another ratio repeats the selection, but not the teacher
    before = digest([folder / "runs/teacher"])
    pointer = (folder / "runs/teacher/run.json").read_text()
    project.params(data={"root": "elsewhere"}, select={"ratio": 0.25})
    again = ran(project.run("dvc", "repro"))
    assert again[0] == "select" and "train_student" in again
    assert not {"prepare", "split", "train_teacher", "score"} & set(again)
    assert digest([folder / "runs/teacher"]) == before
    changed = project.run("dvc", "params", "diff")
    assert "select.ratio" in changed and "0.25" in changed
    assert "runs/student_1/metrics.json" in project.run("dvc", "metrics", "diff")
    later = mlflow.get_run(json.loads((folder / "runs/student/run.json").read_text())["run_id"])
    later_parent = mlflow.get_run(later.data.tags["mlflow.parentRunId"])
    assert later_parent.info.run_id != parent.info.run_id
    assert (parent.data.params["select.ratio"], later_parent.data.params["select.ratio"]) == ("0.5", "0.25")
    assert later_parent.data.tags["stpp.run.teacher"] == about["teacher"]["run_id"]

    # results restored from DVC's cache still name their MLflow run
    shutil.rmtree(folder / "runs/teacher")
    project.run("dvc", "checkout")
    assert (folder / "runs/teacher/run.json").read_text() == pointer
    assert mlflow.get_run(json.loads(pointer)["run_id"]).info.status == "FINISHED"


def test_own_photographs_need_no_masks_if_they_are_unlabelled(project: Project) -> None:
    """The kind `folder` describes the data by two patterns and mapped mask values. Only some images have masks."""
    project.run("stpp", "draw", "--out", "drawn")
    masks = sorted((project.folder / "drawn/masks").iterdir())
    for mask in masks[18:]:
        mask.unlink()
    for i, image in enumerate(sorted((project.folder / "drawn/images").iterdir())):
        group = "train" if i < 18 else "more"
        (project.folder / f"own/{group}").mkdir(parents=True, exist_ok=True)
        image.rename(project.folder / f"own/{group}/{image.name}")
    (project.folder / "drawn/masks").rename(project.folder / "own/trainannot")
    data = OWN | {"name": "own", "root": "own", "images": "{set}/{name}.png", "masks": "{set}annot/{name}.png"}
    split = {"labeled": {"ids": "train/*"}, "val": {"ids": "train/*", "count": 6}, "test": None}
    project.params(data=data, split=split)
    project.run("dvc", "repro", "train_student_1")
    ids = read_ids(project.folder / "runs/split/unlabeled.txt")
    assert len(ids) == 12 and all(i.startswith("more/") for i in ids)
    assert read_csv(project.folder / "runs/score/quality.csv", ("id", "miou")) == []


def test_a_frozen_vision_transformer_labels_for_students_of_another_network(project: Project) -> None:
    torch.save(timm.create_model("test_vit").state_dict(), project.folder / "weights/vit.pth")
    large = {"network": "dpt", "backbone": "test_vit", "weights": "vit.pth", "freeze": True}
    project.params(model=large, student={"backbone": "test_resnet", "output_stride": 16, "precision": "bfloat16"})
    project.run("dvc", "repro", "-q")
    first, last = (load_file(project.folder / f"runs/teacher/checkpoints/{j}.safetensors") for j in (1, 3))
    frozen = {name for name in first if torch.equal(first[name], last[name])}
    assert frozen == {name for name in first if name.startswith("backbone.")}
    files = [project.folder / f"runs/{name}/model.safetensors" for name in ("teacher", "student_1", "student")]
    said = [metadata.read_metadata(file) for file in files]
    networks = [("dpt", "test_vit", "float32"), *2 * [("deeplabv3plus", "test_resnet", "bfloat16")]]
    assert [(one.model.network, one.model.backbone, one.model.precision) for one in said] == networks
    assert said[0].start.normalization != said[1].start.normalization == said[2].start.normalization
    assert read_json(project.folder / "runs/evaluation/metrics.json")["val"].keys() == {"suponly", "student_1", "stpp"}
    audit = project.run("stpp", "audit", "--offline", "runs/student/model.safetensors")
    assert "no contradictions" in audit
    assert "deeplabv3plus on test_resnet (none)" in audit and "dpt on test_vit (vit.pth)" in audit

    # another student retrains no teacher
    project.params(model=large, student={"backbone": "test_resnet", "output_stride": 8})
    assert ran(project.run("dvc", "repro", "train_student_1")) == ["backbone", "train_student_1"]
