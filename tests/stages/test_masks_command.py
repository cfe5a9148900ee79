"""Tests of `stpp masks extract`: it names existing files before it writes any, and never replaces them."""

from pathlib import Path

import numpy as np
import pytest
from small import mask_set

from stpp.stages.masks import extract
from stpp.store.files import StppError
from stpp.store.manifest import Dataset, write_dataset
from stpp.store.masks import MaskSet

PALETTE = ((0, 0, 0), (9, 9, 9))


@pytest.fixture
def masks(tmp_path: Path) -> MaskSet:
    write_dataset(tmp_path / "data", Dataset("d", ("a", "b"), PALETTE, {0: 0, 1: 1}, {}))
    made: MaskSet = mask_set(tmp_path / "masks", {name: np.eye(4, dtype=np.uint8) for name in ("a", "b", "c")}, PALETTE)
    return made


def test_nothing_is_written_if_a_file_exists_or_an_id_is_unknown_and_all_are_named(
    masks: MaskSet, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "c.png").write_text("mine")
    with pytest.raises(StppError, match=r"(?s)2 problem.*nobody: no such mask.*c\.png: already exists"):
        extract(masks.folder, out, tmp_path / "data", ["a", "nobody", "c"])
    with pytest.raises(StppError, match=r"c\.png: already exists"):
        extract(masks.folder, out, tmp_path / "data")
    assert [path.name for path in out.iterdir()] == ["c.png"] and (out / "c.png").read_text() == "mine"


def test_an_id_given_twice_is_extracted_once(
    masks: MaskSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(masks.folder, tmp_path / "out", tmp_path / "data", ["a", "a", "b"])
    assert capsys.readouterr().out.startswith("2 masks in")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
