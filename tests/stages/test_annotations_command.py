"""Tests that the stages run on annotation files, or a file for each class, as on masks; the audit goes back to them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import lengths
from PIL import Image
from small import OWN, Project

from stpp.audit.history import added_masks
from stpp.data.reader import ImageReader
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


def test_prepare_reports_wrong_annotations_and_keeps_the_results_that_are_there(prepared: Project) -> None:
    before = (prepared.folder / "runs/data/dataset.json").read_bytes()
    as_coco(prepared.folder / "data/toy")
    for file, said in (("coco.json", ""), ("nowhere.json", "No such file")):
        prepared.params(data=FOLDER | {"annotations": {"format": "coco", "file": file, "labels": {"box": "disk"}}})
        found = prepared.run("stpp", "prepare", "--out", "runs/data", rc=2)
        assert said in found and "Traceback" not in found
        assert (prepared.folder / "runs/data/dataset.json").read_bytes() == before
    assert "data.annotations.file: data/toy/nowhere.json" in prepared.run("stpp", "check", rc=2)


@pytest.mark.parametrize("images", ["images/{name}.png", "{folder}/{name}.{ext}"])
def test_added_masks_stand_beside_an_annotation_file_and_take_the_place_of_its_objects(
    images: str, prepared: Project
) -> None:
    folder, root = prepared.folder, prepared.folder / "data/toy"
    truth = {path.stem: np.asarray(Image.open(path)) for path in (root / "masks").glob("*.png")}
    as_coco(root)
    whole = read_json(root / "coco.json")
    first, second = (one["file_name"].removesuffix(".png") for one in whole["images"][:2])
    whole["images"] = whole["images"][1:]
    whole["annotations"] = [one for one in whole["annotations"] if one["image_id"]]
    (root / "coco.json").write_text(json.dumps(whole))
    data = FOLDER | {"images": images, "annotations": {"format": "coco", "file": "coco.json"}}
    prepared.params(data=data, split={"labeled": {"count": 7}})
    steps = (
        ("stpp", "prepare", "--out", "runs/data"),
        ("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split"),
    )
    for step in steps:
        prepared.run(*step)
    before = read_dataset(folder / "runs/data")
    i, j = (next(one.id for one in before.records.values() if one.image.endswith(f"{n}.png")) for n in (first, second))
    (folder / f"new/{i}.png").parent.mkdir(parents=True)
    Image.fromarray(truth[first]).save(folder / f"new/{i}.png")
    for _ in range(2):  # as after a kill before the params file was written
        prepared.params(data=data, split={"labeled": {"count": 7}})
        prepared.run("stpp", "label", "add", "new", "--name", "second")
    added = root / "added" / Path(before.records[i].image)
    assert np.array_equal(np.asarray(Image.open(added)), truth[first])
    said = "".join(prepared.run(*step) for step in steps)
    assert "1 image(s) have the mask of data.annotations.added in place of their objects" in said
    dataset = read_dataset(folder / "runs/data")
    assert [*dataset.records] == [*before.records]
    reader = ImageReader(dataset, root)
    assert all(
        np.array_equal(reader.mask(n), reader_before) for n, reader_before in ((i, truth[first]), (j, truth[second]))
    )
    assert i in (folder / "runs/split/labeled.txt").read_text().split()
    assert "which has no objects" in prepared.run("stpp", "masks", "objects", i, rc=2)
    (split,) = added_masks(folder / "splits", "second", folder / "runs/data")
    assert split == "split second: 1 masks that tiny does not have"
    for pixels, what in ((np.full((3, 3), 1), "3 x 3 pixels"), (np.full((32, 32), 77), "value 77 is no class id")):
        Image.fromarray(pixels.astype(np.uint8)).save(added)
        assert what in prepared.run(*steps[0], rc=2)
    added.rename(added.with_name("nobody.png"))
    said = prepared.run(*steps[0])
    assert "belong to no image of the data set" in said and "nobody.png" in said


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
