"""Tests of hostile files from outside: pipes, devices, bombs and malformed text end in an error of one line."""

import os
import struct
import time
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from stpp.data.images import read_image
from stpp.data.mask_pixels import read_layers, read_mask
from stpp.models import metadata
from stpp.models.weights import read_state
from stpp.params.file import read_yaml
from stpp.run.lineage import as_json, from_json, hashed_files, md5_of, parse_dvc_lock
from stpp.store import records
from stpp.store.files import (
    StppError,
    parse_yaml,
    raise_problems,
    read_csv,
    read_ids,
    read_json,
    scan_csv,
    sha256,
    write_json,
)
from stpp.store.manifest import Dataset, read_table, read_user_list
from stpp.store.masks import encode_mask, read_png
from stpp.store.records import DatasetJson, Finished, MetricsJson, RunJson, ScoresJson

# -- pipes, devices, and files that are too large or damaged ----------------------------------------------------------

READERS: dict[str, Callable[[Path], object]] = {
    "json": read_json,
    "csv": lambda path: read_csv(path, ("id",)),
    "scan": lambda path: list(scan_csv(path, ("id",))),
    "ids": read_ids,
    "sha256": sha256,
    "md5": lambda path: md5_of(path, path.parent),
    "params": read_yaml,
    "table": lambda path: read_table(path, ("id",), list),
    "image": read_image,
    "mask": read_mask,
    "mask of one class": lambda path: [*read_layers(path)],
    "weights": lambda path: read_state(path.rename(path.with_suffix(".pth"))),
    "safetensors": lambda path: read_state(path.rename(path.with_suffix(".safetensors"))),
    "checkpoint": metadata.read_metadata,
    "list": lambda path: raise_problems(read_user_list(path, Dataset("", (), (), {}, {}))[1], ""),
}


@pytest.mark.parametrize("kind", ["pipe", "device", "endless"])
@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_a_pipe_or_a_device_at_once(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "endless" else "/dev/full")
    with pytest.raises(StppError, match=r"f.*: is a (pipe|device), not a regular file"):
        READERS[name](path)


def test_a_text_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "params.yaml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(StppError, match=r"params.yaml: too large: 1099511627776 bytes"):
        read_yaml(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").rename(tmp_path / "run.json")
    with pytest.raises(StppError, match="is it the right file"):
        read_json(tmp_path / "run.json")


@pytest.mark.parametrize("name", ["csv", "scan", "table"])
def test_a_table_of_one_endless_line_is_not_read(name: str, tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("wb") as file:
        file.write(b"id\n")
        file.truncate(2**36)
    with pytest.raises(StppError, match=r"t.csv: not readable: a line is longer than 16777216 characters"):
        READERS[name](tmp_path / "t.csv")


def test_a_mask_of_far_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    data = bytearray(encode_mask(np.zeros((4, 4), np.uint8), [(0, 0, 0)]))
    data[16:24] = struct.pack(">II", 50_000, 50_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "m.png").write_bytes(data)
    with pytest.raises(StppError, match=r"m.png: not readable: .*2500000000|m.png: not readable: 50000 x 50000"):
        read_png(tmp_path / "m.png")


def test_a_flipped_bit_in_a_pth_file_gives_an_error_or_changes_nothing(tmp_path: Path) -> None:
    state = {"conv1.weight": torch.arange(30.0)}
    torch.save(state, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    for at in range(0, len(whole), 5):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        (tmp_path / "f.pth").write_bytes(data)
        try:
            found = read_state(tmp_path / "f.pth")
        except StppError:
            continue
        assert list(found) == list(state) and torch.equal(found["conv1.weight"], state["conv1.weight"]), at


def test_a_line_of_dvcignore_that_is_not_utf8_does_not_affect_the_other_lines(tmp_path: Path) -> None:
    (tmp_path / ".dvcignore").write_bytes(b"\xff\n*.tmp\n")
    (tmp_path / "data").mkdir()
    for name in ("a.txt", "b.tmp"):
        (tmp_path / "data" / name).write_text("x")
    assert list(hashed_files(tmp_path / "data", tmp_path)) == ["a.txt"]


def test_stages_and_paths_in_a_lock_or_a_record_are_text_without_null_bytes() -> None:
    [one] = parse_dvc_lock("stages:\n  1:\n    cmd: [a, b]\n    outs: [{path: x, md5: y}]\n", "dvc.lock")
    assert (one.stage, one.cmd) == ("1", "a\nb")
    record = as_json([one])
    record[0]["outs"][0]["path"] = "a\0b"
    with pytest.raises(ValueError, match="null byte"):
        from_json(record)


# -- malformed text ---------------------------------------------------------------------------------------------------

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!bool abc",
        'a: !!int ""',
        'a: !!int "_"',
        "a: !!float x",
        "a: !!timestamp x",
        "a: !!binary é",
        "[" * 100_000,
        "- " * 400_000,
        "a: &a [*a]",
        "a: *b",
        BOMB,
        "a: 1\na: 2",
        "\0",
        "? [a, b]\n: 1",
        "a: 2001-01-01",
        "a: !!python/object:os.system x",
    ],
)
def test_every_error_in_yaml_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    start = time.monotonic()
    with pytest.raises(StppError, match=r"^\S*params\.yaml: not readable as YAML: .{5,300}$"):
        read_yaml(tmp_path / "params.yaml")
    with pytest.raises(StppError, match=r"^dvc.lock: not a dvc.lock \(.{3,300}$"):
        parse_dvc_lock(f"stages:\n  s:\n    cmd: x\n    deps: {{{text}}}\n" if len(text) < 50 else text, "dvc.lock")
    assert time.monotonic() - start < 30


def test_aliases_and_merge_keys_of_a_sane_size_are_read_as_by_ruamel() -> None:
    text = "b: &b {x: 1, y: [1, 2]}\nc: {<<: *b, x: 2}\nd: [*b, *b]\ne: 1e-3\nf: 0o17\n"
    assert parse_yaml(text) == YAML(typ="safe").load(text)
    assert parse_yaml("") is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, "\ufeff{}", "", "nul", '{"a": 1,}', "1" * 5000])
def test_every_error_in_json_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StppError, match=r"^\S*run\.json: not readable: .*; rerun the stage that writes it$"):
        read_json(tmp_path / "run.json")


@pytest.mark.parametrize("raw", [None, [], "x", 1, {}, {"val": {}}, {"val": [1]}, {"stage": None}, {"name": "a"}])
@pytest.mark.parametrize("kind", [DatasetJson, RunJson, MetricsJson, ScoresJson, Finished])
def test_json_that_no_stage_writes_is_refused_with_one_line(raw: object, kind: type, tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", raw)
    with pytest.raises(StppError, match=r"^\S*x\.json: not what its stage writes \(.+\); rerun the stage"):
        records.read(tmp_path / "x.json", kind)
