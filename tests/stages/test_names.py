"""Tests a whole run on images with the names that people give them: every output has these names."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import OWN, Project

from stpp.store.files import read_csv, read_ids, read_json
from stpp.store.masks import MaskSet
from stpp.tracking.client import client

pytestmark = pytest.mark.slow

NAMES = (
    'Foto {} (Kopie), "a".jpg',
    "日本 #{} 100%.PNG",
    "it's {}.jpeg",
    "=cmd|' {}.png",
    "<b onclick=x>&amp; {}.png",
    "Bild \u202f{} $x_1$ [a]*?.jpg",
)
BARE = range(24, 30)
"""The images without a mask, one for each of NAMES."""


def named(project: Project) -> dict[str, tuple[str, str]]:
    """Draw a data set with NAMES into the folder `mine`, and return the paths of image and mask by id."""
    project.run("stpp", "draw", "--out", "drawn")
    drawn, mine = project.folder / "drawn", project.folder / "mine"
    files = {}
    for folder in ("photos", "masks"):
        (mine / folder).mkdir(parents=True)
    for at, image in enumerate(sorted((drawn / "images").iterdir())):
        file = NAMES[at % len(NAMES)].format(at)
        name = file.rpartition(".")[0]
        Image.open(image).save(mine / "photos" / file)
        files[name] = f"photos/{file}", "" if at in BARE else f"masks/{name}.png"
        if at not in BARE:
            (drawn / "masks" / image.name).rename(mine / "masks" / f"{name}.png")
    return files


def pngs(folder: Path) -> set[str]:
    """Return the names of the PNGs below a folder, without their ending."""
    return {path.relative_to(folder).as_posix().removesuffix(".png") for path in folder.rglob("*.png")}


def test_every_output_of_a_run_has_the_names_that_people_give(project: Project) -> None:
    project.env.pop("STPP_TRACKING")
    files, folder = named(project), project.folder
    data = OWN | {"root": "mine", "images": "photos/{name}.{ext}", "masks": "masks/{name}.png"}
    project.params(data=data, split={"test": None, "unlabeled": {}})
    project.run("dvc", "add", "-q", "mine")
    project.commit("-A")
    project.run("dvc", "repro")

    rows = read_csv(folder / "runs/data/manifest.csv", ("id", "image", "mask"))
    assert {row["id"]: (row["image"], row["mask"]) for row in rows} == files
    assert [row["id"] for row in rows] == sorted(files)
    sets = {path.stem: read_ids(path) for path in (folder / "runs/split").glob("*.txt")}
    assert sorted(i for ids in sets.values() for i in ids) == sorted(files)
    with (folder / "runs/split/manifest.csv").open(newline="", encoding="utf-8") as file:
        assert {(row["id"], row["set"]) for row in csv.DictReader(file)} == {
            (i, name) for name, ids in sets.items() for i in ids
        }
    unlabeled = set(sets["unlabeled"])
    scores = {row["id"] for row in read_csv(folder / "runs/score/scores.csv", ("id", "stability"))}
    chosen = [i for which in ("reliable", "unreliable") for i in read_ids(folder / f"runs/selection/{which}.txt")]
    masks = [MaskSet(folder / f"runs/label_{which}/masks") for which in ("reliable", "unreliable")]
    assert scores == {*chosen} == {i for one in masks for i in one.ids} == unlabeled
    known = {row["id"] for row in read_csv(folder / "runs/evaluation/quality.csv", ("id", "miou"))}
    assert known == {i for i in unlabeled if files[i][1]}
    assert pngs(folder / "runs/evaluation/panels/stpp") <= set(sets["val"])

    project.commit("-A")
    assert "no contradictions" in project.run("stpp", "audit", "--out", "audit")
    assert "<b onclick" not in (folder / "audit/audit.html").read_text()
    about, mlflow = read_json(folder / "runs/evaluation/run.json"), client(folder)
    for figure in mlflow.list_artifacts(about["run_id"], "figures"):
        assert Path(mlflow.download_artifacts(about["run_id"], figure.path)).stat().st_size

    project.run("stpp", "predict", "mine/photos", "--model", "runs/student/model.safetensors", "--out", "predicted")
    assert pngs(folder / "predicted/masks") == set(files)
    project.run("stpp", "suggest", "--n", "12", "--out", "next")
    suggested = read_csv(folder / "next/suggested.csv", ("id", "image"))
    assert all(row["image"] == files[row["id"]][0] for row in suggested) and len(suggested) == 12
    assert [row["id"] for row in suggested] == read_ids(folder / "next/suggested.txt")

    # The pseudo masks of images without a mask, out of the mask sets and into a new split.
    bare = {i for i, (_, mask) in files.items() if not mask}
    for one in masks:
        project.run("stpp", "masks", "extract", str(one.folder), "--out", "all")
        if ids := bare & {*one.ids}:
            words = [word for i in ids for word in ("--id", i)]
            project.run("stpp", "masks", "extract", str(one.folder), "--out", "new", *words)
    assert (pngs(folder / "all"), pngs(folder / "new")) == (unlabeled, bare)
    project.run("stpp", "label", "add", "new", "--name", "second", "--as", "classes")
    assert set(read_ids(folder / "splits/second/labeled.txt")) == {*sets["labeled"], *bare}
    for name in bare:
        with Image.open(folder / "all" / f"{name}.png") as one, Image.open(folder / f"mine/masks/{name}.png") as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))
    project.run("dvc", "repro", "split")
    assert set(read_ids(folder / "runs/split/labeled.txt")) == {*sets["labeled"], *bare}
