"""Tests that the stages run on annotation files as on mask files, and that the audit goes back to the files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import lengths
from PIL import Image
from small import OWN, Project

from stpp.ingest.toy import CLASSES
from stpp.store.files import read_json
from stpp.store.manifest import read_dataset

FOLDER: dict[str, object] = {
    **OWN,
    "root": "data/toy",
    "images": "images/{name}.png",
    "classes": [*CLASSES],
    "values": None,
}
COMMON = "--data runs/data --split runs/split --backbone runs/backbone.safetensors"


def as_coco(root: Path) -> None:
    """Write the masks below `root` as a COCO file, one object of run lengths for each class of a mask; remove them."""
    images, annotations = [], []
    for at, path in enumerate(sorted((root / "masks").glob("*.png"))):
        mask = np.asarray(Image.open(path))
        images.append({"id": at, "file_name": path.name})
        for c in set(np.unique(mask).tolist()) - {0}:
            area = {"size": list(mask.shape), "counts": lengths((mask == c).T.reshape(-1))}
            about: dict[str, Any] = {"id": len(annotations), "image_id": at, "category_id": c, "segmentation": area}
            annotations.append(about)
        path.unlink()
    categories = [{"id": c, "name": name} for c, name in enumerate(CLASSES)]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco.json").write_text(json.dumps(whole))


def test_annotation_files_train_the_same_teacher_as_the_masks_that_they_describe(prepared: Project) -> None:
    folder = prepared.folder
    prepared.params(data=FOLDER | {"masks": "masks/{name}.png"}, train={"epochs": 3})
    shots = []
    for _ in range(2):
        prepared.run("stpp", "check")
        prepared.run("stpp", "prepare", "--out", "runs/data")
        prepared.run("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split")
        prepared.run(*f"stpp train --name teacher {COMMON} --out runs/teacher".split())
        prepared.run(
            *["stpp", "evaluate", "--model", "m=runs/teacher/model.safetensors", "--data", "runs/data"],
            *["--ids", "runs/split/val.txt", "--out", "out"],
        )
        lists = [(folder / f"runs/split/{name}.txt").read_bytes() for name in ("labeled", "unlabeled", "val")]
        weights = (folder / "runs/teacher/model.safetensors").read_bytes()
        shots.append((lists, weights, read_json(folder / "out/metrics.json")["val"]))
        as_coco(folder / "data/toy")
        prepared.params(data=FOLDER | {"annotations": {"format": "coco", "file": "coco.json"}}, train={"epochs": 3})
    assert shots[0] == shots[1]
    said = prepared.run("stpp", "masks", "ls", "runs/data/masks")
    assert len(said.splitlines()) >= 30
    (folder / "new").mkdir()
    said = prepared.run(*["stpp", "label", "add", "new", "--name", "second"], rc=2)
    assert "masks come from annotation files" in said


def test_prepare_reports_wrong_annotations_and_keeps_the_results_that_are_there(prepared: Project) -> None:
    before = (prepared.folder / "runs/data/dataset.json").read_bytes()
    as_coco(prepared.folder / "data/toy")
    for file, said in (("coco.json", ""), ("nowhere.json", "No such file")):
        prepared.params(data=FOLDER | {"annotations": {"format": "coco", "file": file, "labels": {"box": "disk"}}})
        found = prepared.run("stpp", "prepare", "--out", "runs/data", rc=2)
        assert said in found and "Traceback" not in found
        assert (prepared.folder / "runs/data/dataset.json").read_bytes() == before
    assert "data.annotations.file: data/toy/nowhere.json" in prepared.run("stpp", "check", rc=2)


@pytest.mark.slow
def test_the_audit_goes_back_to_the_annotation_file_and_finds_a_changed_one(project: Project) -> None:
    project.run("stpp", "draw", "--out", "data/toy")
    as_coco(project.folder / "data/toy")
    project.params(data=FOLDER | {"root": "data/own", "annotations": {"format": "coco", "file": "coco.json"}})
    (project.folder / "data/toy").rename(project.folder / "data/own")
    project.commit("-A")
    project.run("dvc", "repro", "-q", "train_teacher")
    said = project.run("stpp", "audit", "--offline")
    assert "objects in coco.json: data/objects.csv names those of each" in said
    objects = (project.folder / "runs/data/objects.csv").read_text().splitlines()[1:]
    assert f"30 masks drawn from {len(objects)} objects" in said
    assert len(read_dataset(project.folder / "runs/data").records) == 30
    path = project.folder / "data/own/coco.json"
    path.write_text(path.read_text() + " ")
    assert "data/own/coco.json: was changed" in project.run("stpp", "audit", "--offline", rc=1)
