"""Tests of `label` on an existing mask set: it reuses exactly the shards whose inputs and code are unchanged."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import Project

from stpp.models.build import build, save
from stpp.params.models import Model
from stpp.store.files import read_ids
from stpp.store.manifest import read_dataset
from stpp.store.masks import MaskSet

COMMON = ("--data", "runs/data", "--split", "runs/split")
BACKBONE = "resnet18"
"""Random weights of this network predict several classes, so another photograph gets another mask."""
IDS, MODEL, SHARDS = "runs/split/unlabeled.txt", "runs/model.safetensors", 3


def label(project: Project, out: str = "runs/label", ids: str = IDS) -> int:
    """Run `stpp label`. Return how many shards were reused."""
    command = ("--model", MODEL, "--ids", ids, *COMMON, "--out", out)
    return reused_shards(project.run("stpp", "label", *command))


def reused_shards(said: str) -> int:
    found = re.search(rf"(\d+) of {SHARDS} shards are reused", said)
    return int(found[1]) if found else 0


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "masks").iterdir()}


def equals_new_set(project: Project, ids: str = IDS) -> bool:
    """Return whether the mask set has the same bytes as one that is labelled in a new folder."""
    anew = f"runs/anew_{len(list((project.folder / 'runs').iterdir()))}"
    assert label(project, anew, ids) == 0
    return files(project.folder / "runs/label") == files(project.folder / anew)


def draw_weights(project: Project, seed: int) -> None:
    torch.manual_seed(seed)
    model = Model(backbone=BACKBONE, output_stride=16, weights="none")
    classes = len(read_dataset(project.folder / "runs/data").classes)
    save(project.folder / MODEL, build(model, classes).state_dict())


def shorter(project: Project) -> None:
    """Write shorter.txt, the list without its first id."""
    (project.folder / "shorter.txt").write_text("".join(f"{i}\n" for i in read_ids(project.folder / IDS)[1:]))


def change(project: Project, name: str) -> None:
    """Replace the photograph of an id by another one."""
    dataset = read_dataset(project.folder / "runs/data")
    path = project.folder / "data/toy" / dataset.records[name].image
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    project.run("stpp", "prepare", "--out", "runs/data")
    project.run("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split")


@pytest.fixture(scope="module")
def labelled_once(prepared_once: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = prepared_once.copy_to(tmp_path_factory.mktemp("labelled") / "project")
    made.params(model={"backbone": BACKBONE}, label={"soft": True})
    draw_weights(made, 0)
    assert label(made) == 0
    return made


@pytest.fixture
def labelled(labelled_once: Project, tmp_path: Path) -> Project:
    return labelled_once.copy_to(tmp_path / "project")


def test_only_the_shard_of_a_changed_photograph_is_labelled_again(labelled: Project) -> None:
    before = files(labelled.folder / "runs/label")
    name = read_ids(labelled.folder / IDS)[0]
    change(labelled, name)
    assert label(labelled) == SHARDS - 1
    now = files(labelled.folder / "runs/label")
    (touched,) = [shard for shard in before if shard.endswith(".zip") and before[shard] != now[shard]]
    with zipfile.ZipFile(labelled.folder / "runs/label/masks" / touched) as archive:
        assert f"{name}.png" in archive.namelist()
    assert equals_new_set(labelled)


def test_a_list_without_an_id_changes_only_its_shard(labelled: Project) -> None:
    shorter(labelled)
    assert label(labelled, ids="shorter.txt") == SHARDS - 1
    assert equals_new_set(labelled, "shorter.txt")


def test_other_weights_or_parameters_label_all_shards_again(labelled: Project) -> None:
    draw_weights(labelled, 1)
    assert label(labelled) == 0
    labelled.params(model={"backbone": BACKBONE}, label={"scales": [1.0], "batch_size": 4, "shards": SHARDS})
    assert label(labelled) == 0


@pytest.mark.parametrize("damage", ["a shard", "the manifest", "shards.csv", "{}", "{", "a file more"])
def test_a_mask_set_that_was_changed_is_not_reused(labelled: Project, damage: str) -> None:
    place = labelled.folder / "runs/label"
    shards = sorted((place / "masks").glob("*.zip"))
    if damage == "a shard":
        shards[0].write_bytes(shards[1].read_bytes())
    elif damage == "the manifest":
        manifest = place / "masks/manifest.csv"
        manifest.write_text(re.sub(r"0\.\d{6}", "0.999999", manifest.read_text()))
    elif damage == "shards.csv":
        (place / "masks/shards.csv").write_text("shard,key\n")
    elif damage.startswith("{"):
        (place / "run.json").write_text(damage)
    else:
        (place / "masks/more.txt").write_text("more")
    shorter(labelled)
    assert label(labelled, ids="shorter.txt") == 0


@pytest.mark.slow
def test_dvc_keeps_the_mask_set_in_place_and_a_forced_run_labels_all_again(copied: Project) -> None:
    place, ids = copied.folder / "runs/label_unreliable", copied.folder / "runs/selection/unreliable.txt"
    before = files(copied.folder / "runs/label_unreliable")
    assert reused_shards(copied.run("dvc", "repro", "-f", "-s", "label_unreliable")) == 0
    assert files(place) == before
    rest = read_ids(ids)[1:]
    ids.unlink()
    ids.write_text("".join(f"{i}\n" for i in rest))
    assert reused_shards(copied.run("dvc", "repro", "-s", "label_unreliable")) == SHARDS - 1
    assert [*MaskSet(place / "masks").ids] == sorted(rest)
