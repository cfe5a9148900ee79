"""Tests a whole run on images with the names that people give them."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import OWN, Project

from stpp.store.files import digest, read_csv, read_ids, read_json
from stpp.store.masks import MaskSet

pytestmark = pytest.mark.slow

NAMES = (
    'Foto {} (Kopie), "a".jpg',
    "日本 #{} 100%.PNG",
    "it's {}.jpeg",
    "=cmd|' {}.png",
    "<b onclick=x>&amp; {}.png",
    "Bild \u202f{} $x_1$ [a]*?.jpg",
)


def name_files(project: Project) -> dict[str, tuple[str, str]]:
    """Draw the data set into `mine` with NAMES; return image and mask by id."""
    project.run("stpp", "draw", "--out", "drawn")
    drawn, mine = project.folder / "drawn", project.folder / "mine"
    files = {}
    for folder in ("photos", "masks"):
        (mine / folder).mkdir(parents=True)
    for at, image in enumerate(sorted((drawn / "images").iterdir())):
        file = NAMES[at % len(NAMES)].format(at)
        name = file.rpartition(".")[0]
        Image.open(image).save(mine / "photos" / file, quality=95)
        (drawn / "masks" / image.name).rename(mine / "masks" / f"{name}.png")
        files[name] = f"photos/{file}", f"masks/{name}.png"
    return files


def test_images_with_any_names_keep_them_in_every_output(project: Project, tmp_path: Path) -> None:
    project.env.pop("STPP_TRACKING")
    files, folder = name_files(project), project.folder
    project.params(data=OWN | {"root": "mine", "images": "photos/{name}.{ext}", "masks": "masks/{name}.png"})
    project.commit("-A")
    project.run("dvc", "repro")

    rows = read_csv(folder / "runs/data/manifest.csv", ("id", "image", "mask"))
    assert {row["id"]: (row["image"], row["mask"]) for row in rows} == files
    assert [row["id"] for row in rows] == sorted(files)
