"""Tests of the cache of `prepare`: it saves time and never changes results."""

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stpp.ingest import inspection, inspection_cache
from stpp.ingest.inspection import inspect
from stpp.params.data import Data

COUNT = 12


def photo(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """Return a data set of twelve images, half of them with masks. The cache trusts files after 20 ms."""
    monkeypatch.setattr(inspection_cache, "MIN_AGE_NS", 20_000_000)
    root = tmp_path / "root"
    for folder in ("i", "m"):
        (root / folder).mkdir(parents=True)
    for index in range(COUNT):
        Image.fromarray(photo(index) if index % 5 else photo(index)[:, :, 0]).save(root / f"i/{index:02d}.png")
        if index % 2:
            Image.fromarray(np.resize(np.array([0, 1, 2], np.uint8), (6, 8))).save(root / f"m/{index:02d}.png")
    time.sleep(0.05)
    known = {"name": "mine", "kind": "folder", "root": str(root), "images": "i/{name}.png", "masks": "m/{name}.png"}
    return Data(**known, classes=("sky", "road", "tree"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of every image is added when it is read."""
    read: list[str] = []
    plainly = inspection.read_image

    def noted(path: Path) -> Any:
        read.append(path.name)
        return plainly(path)

    monkeypatch.setattr(inspection, "read_image", noted)
    return read


def found(data: Data, memory: Path | None, workers: int = 1) -> tuple[Any, ...]:
    dataset, warnings, problems = inspect(data, workers, memory)
    return dict(dataset.records), dataset.digest, warnings, problems


def test_unchanged_files_are_not_read_again(data: Data, reads: list[str], tmp_path: Path) -> None:
    first = found(data, tmp_path / "memory")
    assert len(reads) == COUNT
    assert found(data, tmp_path / "memory") == first == found(data, None)
    assert len(reads) == 2 * COUNT


@pytest.mark.parametrize("workers", [0, 2])
def test_only_changed_files_are_read_again(data: Data, reads: list[str], tmp_path: Path, workers: int) -> None:
    root = Path(data.root)
    found(data, tmp_path / "memory", workers)
    Image.fromarray(photo(100)).save(root / "i/03.png")
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(root / "m/05.png")
    (root / "m/07.png").unlink()
    (root / "i/08.png").unlink()
    Image.fromarray(photo(101)).save(root / "i/new.png")
    reads.clear()
    again = found(data, tmp_path / "memory", workers)
    assert sorted(reads) == ["03.png", "05.png", "07.png", "new.png"]
    assert again == found(data, None)


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def exchanged(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[:-1] + b"!")
    other.replace(path)


@pytest.mark.parametrize("tamper", [rewritten, exchanged])
def test_a_change_with_the_same_size_and_the_old_time_is_detected(
    tamper: Callable[[Path], None], data: Data, tmp_path: Path
) -> None:
    path = Path(data.root) / "i/03.png"
    first = found(data, tmp_path / "memory")
    before = path.stat()
    tamper(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    again = found(data, tmp_path / "memory")
    assert again == found(data, None)
    assert again[1] != first[1]


def test_a_file_that_was_written_just_before_the_inspection_is_read_again(
    data: Data, reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection_cache, "MIN_AGE_NS", 3_000_000_000)
    found(data, tmp_path / "memory")
    found(data, tmp_path / "memory")
    assert len(reads) == 2 * COUNT


def test_a_file_that_changes_while_it_is_read_is_not_cached(
    data: Data, reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly = inspection.read_image

    def meanwhile(path: Path) -> Any:
        image = plainly(path)
        if path.name == "03.png":
            Image.fromarray(photo(200)).save(path)
            time.sleep(0.05)
        return image

    monkeypatch.setattr(inspection, "read_image", meanwhile)
    found(data, tmp_path / "memory")
    monkeypatch.setattr(inspection, "read_image", plainly)
    time.sleep(0.05)
    reads.clear()
    assert found(data, tmp_path / "memory") == found(data, None)
    assert reads.count("03.png") == 2


def test_a_damaged_cache_is_ignored_and_written_again(data: Data, reads: list[str], tmp_path: Path) -> None:
    whole = found(data, tmp_path / "memory")
    (path,) = (tmp_path / "memory").iterdir()
    content = path.read_bytes()
    reads.clear()
    damaged = [content[:at] for at in range(0, len(content), 97)]
    damaged += [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(0, len(content), 61)]
    for number, bytes_ in enumerate([*damaged, b"", b"\xff" * 100], 1):
        path.write_bytes(bytes_)
        assert found(data, tmp_path / "memory") == whole
        assert len(reads) == COUNT * number
    found(data, tmp_path / "memory")
    assert len(reads) == COUNT * number, "it is whole again"


def test_a_new_meaning_of_mask_values_is_inspected_again(data: Data, tmp_path: Path) -> None:
    found(data, tmp_path / "memory")
    other = data.model_copy(update={"values": {"2": "ignore"}})
    assert found(other, tmp_path / "memory") == found(other, None)
    assert found(data, tmp_path / "memory") == found(data, None)


@pytest.mark.parametrize("version", ["PIL.__version__", "cv2.__version__", "stpp.store.decoding.KORNIA"])
def test_with_another_version_of_a_decoder_all_is_read_again(
    version: str, data: Data, reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(data, tmp_path / "memory")
    monkeypatch.setattr(version, "0.1")
    found(data, tmp_path / "memory")
    assert len(reads) == 2 * COUNT


def test_problems_are_reported_again_until_they_are_fixed(data: Data, tmp_path: Path) -> None:
    (Path(data.root) / "i/03.png").write_text("none")
    (Path(data.root) / "i/twin.png").write_bytes((Path(data.root) / "i/04.png").read_bytes())
    time.sleep(0.05)
    for _ in range(3):
        problems = found(data, tmp_path / "memory")[3]
        assert problems == found(data, None)[3]
        assert len(problems) == 2


def test_a_cache_that_cannot_be_written_is_no_error(data: Data, tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("a file in its place")
    assert found(data, tmp_path / "memory") == found(data, None)


def _again(data: Data, memory: Path, times: int) -> None:
    for _ in range(times):
        found(data, memory)


def test_parallel_runs_leave_a_complete_cache(data: Data, reads: list[str], tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=_again, args=(data, tmp_path / "memory", 15)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert [path.suffix for path in (tmp_path / "memory").iterdir()] == [".csv"]
    assert found(data, tmp_path / "memory") == found(data, None)
    assert len(reads) == COUNT


def test_the_number_of_cached_data_sets_is_limited(data: Data, tmp_path: Path) -> None:
    for index in range(8):
        root = tmp_path / f"root-{index}"
        (root / "i").mkdir(parents=True)
        Image.fromarray(photo(index)).save(root / "i/a.png")
        found(data.model_copy(update={"root": str(root)}), tmp_path / "memory")
    assert len(list((tmp_path / "memory").iterdir())) == inspection_cache.MAX_TABLES
