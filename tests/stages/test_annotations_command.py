"""Tests that the stages run on annotation files, or a file for each class, as on masks; the audit goes back to them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import lengths
from PIL import Image
from small import OWN, Project

from stpp.data.datasets import ImageReader
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


def as_files_of_classes(root: Path) -> None:
    """Write the masks below `root` as a file for each class in them, and one of all pixels."""
    (root / "parts").mkdir()
    for path in (root / "masks").glob("*.png"):
        mask = np.asarray(Image.open(path))
        for c in {*np.unique(mask).tolist()} - {0}:
            Image.fromarray((mask == c).astype(np.uint8)).save(root / f"parts/{path.stem}_{CLASSES[c]}.png")
        Image.fromarray(np.ones_like(mask)).save(root / f"parts/{path.stem}.gif")


@pytest.mark.parametrize("way", ["annotations", "a file for each class"])
def test_the_same_teacher_is_trained_whether_masks_come_from_one_file_or_not(way: str, prepared: Project) -> None:
    folder = prepared.folder
    prepared.params(data=FOLDER | {"masks": "masks/{name}.png"}, train={"epochs": 3})
    shots = []
    for of in ("masks", way):
        if of == "annotations":
            as_coco(folder / "data/toy")
            prepared.params(data=FOLDER | {"annotations": {"format": "coco", "file": "coco.json"}}, train={"epochs": 3})
        elif of != "masks":
            as_files_of_classes(folder / "data/toy")
            files = {name: f"parts/{{name}}_{name}*.png" for name in CLASSES[1:]}
            prepared.params(data=FOLDER | {"masks": files, "outside": "parts/{name}.gif"}, train={"epochs": 3})
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
    assert shots[0] == shots[1]
    if way != "annotations":
        return
    said = prepared.run("stpp", "masks", "ls", "runs/data/masks")
    assert len(said.splitlines()) >= 30
    name = lists[0].decode().split()[0]
    mask = np.asarray(ImageReader(read_dataset(folder / "runs/data"), folder / "data/toy").mask(name))
    row, column = np.argwhere(mask > 0)[0].tolist()
    (said,) = prepared.run(*f"stpp masks objects {name} {column} {row}".split()).splitlines()
    assert said.startswith("data/toy/coco.json: object ") and said.endswith(f", {CLASSES[mask[row, column]]}")
    assert said in prepared.run(*f"stpp masks objects {name}".split()).splitlines()
    row, column = np.argwhere(mask == 0)[0].tolist()
    assert "no object there" in prepared.run(*f"stpp masks objects {name} {column} {row}".split())
    assert "give a pixel inside" in prepared.run(*f"stpp masks objects {name} 32 0".split(), rc=2)
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
