"""Tests of the cache of decoded files: it is exact, limited in size, checked against the manifest, and optional."""

import dataclasses
import hashlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from stpp.data import pixel_cache as module
from stpp.data.datasets import ImageMaskPairs, SelfTrainingDataset
from stpp.data.pixel_cache import PixelCache, open_cache
from stpp.data.prediction import ImageDataset
from stpp.data.reader import ImageReader
from stpp.params.models import Augment, Runtime, Weak
from stpp.store.files import StppError, sha256

Cached = Callable[..., ImageReader]
AMPLE = 10**8
LABELED = [f"l/{i}" for i in range(4)]
UNLABELED = [f"u/{i}" for i in range(6)]


@pytest.fixture
def plain(photos: ImageReader) -> ImageReader:
    """Return the photographs of `photos` with their true hashes."""
    records = {}
    for name, record in photos.dataset.records.items():
        hashes = {"image_sha256": sha256(photos.root / record.image)}
        if record.mask:
            hashes["mask_sha256"] = sha256(photos.root / record.mask)
        records[name] = dataclasses.replace(record, **hashes)
    return ImageReader(dataclasses.replace(photos.dataset, records=records), photos.root)


@pytest.fixture
def cached(plain: ImageReader, tmp_path: Path) -> Cached:
    def of(limit: int = AMPLE, folder: str = "decoded") -> ImageReader:
        return ImageReader(plain.dataset, plain.root, PixelCache(tmp_path / folder, limit))

    return of


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "decoded").rglob("*.npy"))


def read_all(photos: ImageReader) -> list[bytes]:
    return [photos.image(i).tobytes() for i in LABELED + UNLABELED] + [photos.mask(i).tobytes() for i in LABELED]


# -- the same pixels --------------------------------------------------------------------------------------------------


def test_pixels_are_the_same_without_a_cache_when_it_is_filled_and_when_it_is_read(
    plain: ImageReader, cached: Cached, tmp_path: Path
) -> None:
    photos = cached()
    assert read_all(photos) == read_all(plain)
    assert len(files(tmp_path)) == 14
    shutil.rmtree(plain.root)  # nothing can be decoded any more
    assert read_all(photos) == read_all(cached())


@pytest.mark.parametrize("workers", [0, 2])
def test_training_samples_are_the_same_bits_in_any_number_of_workers(
    workers: int, plain: ImageReader, cached: Cached
) -> None:
    def samples(photos: ImageReader) -> list[torch.Tensor]:
        data = SelfTrainingDataset(
            ImageMaskPairs(photos, LABELED), 2, [], Augment(weak=Weak(base=24, crop=16)), 0, "teacher"
        )
        draws = [[(epoch, p) for p in range(8)] for epoch in range(4)]
        loader = DataLoader(data, batch_sampler=draws, num_workers=workers)
        return [part for batch in loader for part in batch]

    for a, b in zip(samples(plain), samples(cached()), strict=True):
        assert torch.equal(a, b)


def test_whole_images_for_prediction_come_from_the_cache_too(plain: ImageReader, cached: Cached) -> None:
    photos = cached()
    for _ in ("made", "read"):
        for index in range(6):
            assert torch.equal(ImageDataset(photos, UNLABELED)[index][1], ImageDataset(plain, UNLABELED)[index][1])


def test_masks_with_another_meaning_of_values_are_cached_separately(cached: Cached) -> None:
    photos = cached()
    before = photos.mask("l/0")
    dataset = dataclasses.replace(photos.dataset, values={0: 2, 1: 1, 2: 0, 255: 255})
    other = ImageReader(dataset, photos.root, photos.cache)
    assert np.array_equal(other.mask("l/0"), 2 - before)
    assert np.array_equal(photos.mask("l/0"), before)


def test_cached_pixels_are_read_only(cached: Cached) -> None:
    photos = cached()
    photos.image("l/0")
    with pytest.raises(ValueError, match="read-only"):
        photos.image("l/0")[0, 0] = 7


@pytest.mark.parametrize("version", ["PIL.__version__", "cv2.__version__", "stpp.store.decoding.KORNIA"])
def test_another_version_of_a_decoder_starts_a_new_cache(
    version: str, cached: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_all(cached())
    monkeypatch.setattr(version, "0.1")
    photos = cached()
    assert files(tmp_path) == []
    photos.image("l/0")
    assert len(files(tmp_path)) == 1


# -- changed and damaged files ----------------------------------------------------------------------------------------


def test_a_file_that_changed_since_prepare_is_named_and_not_cached(cached: Cached, tmp_path: Path) -> None:
    photos = cached()
    for name in ("images/l/1.png", "masks/l/1.png"):
        path = photos.root / name
        pixels = np.array(Image.open(path))
        pixels[0, 0] = 1 - pixels[0, 0] % 2
        Image.fromarray(pixels).save(path)
        with pytest.raises(StppError, match=rf"{path}: has changed since `prepare` read it; run `dvc repro`"):
            photos.image("l/1") if "images" in name else photos.mask("l/1")
    assert files(tmp_path) == []


def test_the_error_names_a_file_that_is_missing_or_not_an_image(cached: Cached) -> None:
    photos = cached()
    path = photos.root / "images/u/3.png"
    path.unlink()
    with pytest.raises(StppError, match=r"images/u/3\.png: no such file"):
        photos.image("u/3")
    path.write_text("no image")
    record = dataclasses.replace(photos.dataset.records["u/3"], image_sha256=sha256(path))
    photos.dataset.records["u/3"] = record
    with pytest.raises(StppError, match=r"images/u/3\.png: not an image"):
        photos.image("u/3")


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_a_damaged_cached_file_is_written_again(
    damage: bytes | None, plain: ImageReader, cached: Cached, tmp_path: Path
) -> None:
    photos = cached()
    expected = photos.image("l/0").copy()
    (kept,) = files(tmp_path)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] if damage is None else damage)
    assert np.array_equal(photos.image("l/0"), expected)
    assert kept.read_bytes() == whole


# -- limited size -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1600, 5000, 9999])
def test_the_cache_never_exceeds_its_limit_and_keeps_its_files(
    limit: int, plain: ImageReader, cached: Cached, tmp_path: Path
) -> None:
    expected = read_all(plain)
    assert read_all(cached(limit)) == expected
    kept = files(tmp_path)
    assert sum(file.stat().st_size for file in kept) <= limit
    assert bool(kept) == (limit > 1568)
    for _ in range(3):
        assert read_all(cached(limit)) == expected
        assert files(tmp_path) == kept


def test_a_cache_that_cannot_be_written_gives_one_warning_and_no_error(
    plain: ImageReader, cached: Cached, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = cached()
    assert photos.cache is not None
    shutil.rmtree(photos.cache.folder)
    photos.cache.folder.write_text("a file where the folder should be")
    assert read_all(photos) == read_all(plain)
    assert capsys.readouterr().out.count("no more decoded images are cached") == 1


# -- several processes, kills, and removal ----------------------------------------------------------------------------


def _read(photos: ImageReader, into: "multiprocessing.Queue[str]") -> None:
    into.put(hashlib.sha256(b"".join(read_all(photos))).hexdigest())


def test_parallel_processes_read_the_same_pixels_and_stay_within_the_limit(
    plain: ImageReader, cached: Cached, tmp_path: Path
) -> None:
    photos = cached(8000)
    context = multiprocessing.get_context("fork")
    found: multiprocessing.Queue[str] = context.Queue()
    processes = [context.Process(target=_read, args=(photos, found)) for _ in range(4)]
    for process in processes:
        process.start()
    hashes = {found.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert hashes == {hashlib.sha256(b"".join(read_all(plain))).hexdigest()}
    sizes = sum(file.stat().st_size for file in files(tmp_path))
    assert 8000 - 1700 < sizes <= 8000
    assert photos.cache is not None
    assert int((photos.cache.folder / "bytes").read_text()) == sizes


def _write_slowly(photos: ImageReader, here: Path) -> None:
    save = np.save

    def half(file: object, pixels: np.ndarray) -> None:  # type: ignore[type-arg]
        save(file, pixels[: len(pixels) // 2])  # type: ignore[arg-type]
        file.flush()  # type: ignore[attr-defined]
        here.touch()
        time.sleep(60)

    np.save = half  # type: ignore[assignment]
    photos.image("l/0")


def test_a_file_whose_writing_was_killed_is_neither_read_nor_counted(
    plain: ImageReader, cached: Cached, tmp_path: Path
) -> None:
    photos = cached()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_write_slowly, args=(photos, tmp_path / "here"))
    process.start()
    while not (tmp_path / "here").exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert files(tmp_path) == []
    assert list((tmp_path / "decoded").rglob("*.partial"))
    assert np.array_equal(photos.image("l/0"), plain.image("l/0"))  # the lock ended with the process
    again = cached()
    assert not list((tmp_path / "decoded").rglob("*.partial"))
    assert read_all(again) == read_all(plain)


def test_the_cache_may_be_removed_at_any_time(plain: ImageReader, cached: Cached, tmp_path: Path) -> None:
    photos = cached()
    read_all(photos)
    held = photos.image("l/0")
    shutil.rmtree(tmp_path / "decoded")
    assert np.array_equal(held, plain.image("l/0")), "what is mapped stays"
    assert read_all(photos) == read_all(plain)
    assert len(files(tmp_path)) == 14
    for file in files(tmp_path)[::2]:
        file.unlink()
    assert read_all(photos) == read_all(plain)
    read_all(cached())
    assert len(files(tmp_path)) == 14


def test_there_is_no_cache_by_default(tmp_path: Path) -> None:
    assert open_cache(Runtime(), tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    there = open_cache(Runtime(cache_gb=0.5), tmp_path)
    assert there is not None
    assert there.limit == 500_000_000
    assert there.folder.parent == tmp_path / "decoded"


def test_a_change_of_the_decoding_code_changes_the_key_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    before = module._way()
    changed = module.source_path("stpp.store.decoding")
    monkeypatch.setattr(module, "sha256", lambda path: "other" if path == changed else sha256(path))
    assert module._way() != before
