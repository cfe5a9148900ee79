"""Tests that the audit compares files, ids and masks of a folder with the manifest in it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import mask_set

from stpp.audit.contents import examine
from stpp.store.files import sha256, write_csv, write_ids
from stpp.store.manifest import Dataset, Record, write_dataset

PALETTE = ((0, 0, 0), (255, 0, 0))


def problems(folder: Path) -> list[str]:
    return examine.__wrapped__(folder, folder.parent, "photos")[1]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return the folder with a manifest of three photographs, two of them with masks."""
    records = {}
    for name, mask in (("a", "a-mask.png"), ("b", "b-mask.png"), ("c", "")):
        for file, grey in ((f"{name}.png", ord(name)), (mask, 1)):
            if file:
                (tmp_path / "photos").mkdir(exist_ok=True)
                Image.fromarray(np.full((4, 4), grey, np.uint8)).save(tmp_path / "photos" / file)
        mask_hash = sha256(tmp_path / "photos" / mask) if mask else ""
        image_hash = sha256(tmp_path / f"photos/{name}.png")
        records[name] = Record(name, f"{name}.png", mask, 4, 4, image_hash, mask_hash, (1,) if mask else ())
    write_dataset(tmp_path / "data", Dataset("n", ("x", "y"), PALETTE, {0: 0, 1: 1}, records))
    return tmp_path / "data"


@pytest.mark.parametrize("file", ["a.png", "b-mask.png", "c.png"])
def test_a_changed_or_missing_image_or_mask_is_named(data: Path, file: str) -> None:
    assert problems(data) == []
    path = data.parent / "photos" / file
    path.write_bytes(path.read_bytes() + b"!")
    (said,) = problems(data)
    assert said.startswith(f"photos/{file}: was changed: ")
    path.unlink()
    (said,) = problems(data)
    assert said.startswith(f"photos/{file}: is missing")


def test_an_added_moved_or_removed_id_is_named_with_its_list(tmp_path: Path) -> None:
    lists = {"labeled": ["a", "b"], "unlabeled": ["c", "d"], "val": ["e"]}

    def written(changed: dict[str, list[str]]) -> list[str]:
        folder = tmp_path / "split"
        shutil.rmtree(folder, ignore_errors=True)
        rows = [(i, name, "", "") for name, ids in lists.items() for i in ids]
        write_csv(folder / "manifest.csv", ("id", "set", "image_sha256", "mask_sha256"), rows)
        for name, ids in (lists | changed).items():
            write_ids(folder / f"{name}.txt", ids)
        return [problem.removeprefix(f"{folder}/") for problem in problems(folder)]

    assert written({}) == []
    assert written({"labeled": ["a", "b", "e"]}) == ["labeled.txt: e was added after the split was made"]
    assert written({"labeled": ["a"]}) == ["labeled.txt: b was removed after the split was made"]
    assert written({"labeled": ["a", "b", "c"], "unlabeled": ["d"]}) == [
        "labeled.txt: c was added after the split was made",
        "unlabeled.txt: c was removed after the split was made",
    ]


def test_a_pseudo_mask_that_differs_from_the_manifest_is_named(tmp_path: Path) -> None:
    masks = {name: np.full((4, 4), at % 2, np.uint8) for at, name in enumerate("abc")}
    mask_set(tmp_path / "masks", masks, PALETTE)
    mask_set(tmp_path / "other", masks | {"b": np.zeros((4, 4), np.uint8)}, PALETTE)
    assert problems(tmp_path / "masks") == []
    (shard,) = (tmp_path / "masks").glob("*.zip")
    shutil.copyfile(tmp_path / "other" / shard.name, shard)
    (said,) = problems(tmp_path / "masks")
    assert "mask b does not match its hash in manifest.csv" in said
