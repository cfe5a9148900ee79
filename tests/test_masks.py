"""Tests of mask sets: a read returns the written mask or an error, and only the id decides on a mask's shard."""

import hashlib
import io
import multiprocessing
import pickle
import resource
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small import mask_set

from stpp.store.files import StppError, write_csv
from stpp.store.masks import (
    COLUMNS,
    Mask,
    MaskSet,
    ShardWriter,
    decode_mask,
    encode_mask,
    mask_sha256,
    merge_manifests,
    shard_name,
    shard_of,
    shards_of,
)

FEW = settings(max_examples=30, deadline=None)

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 7))
MASKS = arrays(np.uint8, SHAPES, elements=st.integers(0, 5) | st.just(255) | st.integers(0, 255))
IDS = st.lists(st.text("abcé日_-0", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join)
PALETTES = st.integers(1, 255).map(lambda n: [(i, 255 - i, i // 2) for i in range(n)])
PALETTE = [(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167)]


def write_shard(shard: Path, pngs: dict[str, bytes]) -> None:
    """Write a shard without updating the manifest."""
    with zipfile.ZipFile(shard, "w") as archive:
        for name, png in pngs.items():
            archive.writestr(f"{name}.png", png)


def some_masks(count: int = 6) -> dict[str, Mask]:
    rng = np.random.default_rng(0)
    return {f"train/{i}": rng.integers(0, 6, (8, 6)).astype(np.uint8) for i in range(count)}


# -- one mask ---------------------------------------------------------------------------------------------------------


@FEW
@given(MASKS, PALETTES)
def test_a_mask_is_decoded_as_it_was_encoded(mask: Mask, palette: list[tuple[int, int, int]]) -> None:
    again = decode_mask(encode_mask(mask, palette))
    assert again.dtype == np.uint8
    assert np.array_equal(again, mask)


def test_a_png_mask_has_the_colours_of_its_classes_and_white_for_ignored_pixels() -> None:
    mask = np.array([[0, 1, 2], [3, 5, 255]], dtype=np.uint8)
    shown = cv2.imdecode(np.frombuffer(encode_mask(mask, PALETTE), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    colours = {**dict(enumerate(PALETTE)), 255: (255, 255, 255)}
    assert shown.tolist() == [[list(colours[int(v)]) for v in row] for row in mask]


@FEW
@given(MASKS, MASKS)
def test_two_masks_have_the_same_hash_only_if_they_are_equal(a: Mask, b: Mask) -> None:
    assert (mask_sha256(a) == mask_sha256(b)) == (a.shape == b.shape and bool((a == b).all()))
    assert mask_sha256(a) == hashlib.sha256(f"{len(a)}x{len(a[0])}:".encode() + bytes(a.flatten().tolist())).hexdigest()


def test_the_same_pixels_in_another_shape_have_another_hash() -> None:
    pixels = np.arange(12, dtype=np.uint8)
    assert len({mask_sha256(pixels.reshape(shape)) for shape in [(1, 12), (12, 1), (3, 4), (4, 3)]}) == 4


# -- many masks -------------------------------------------------------------------------------------------------------


@FEW
@given(st.dictionaries(IDS, MASKS, max_size=6), st.integers(1, 5))
def test_a_mask_set_is_read_as_it_was_written(masks: dict[str, Mask], shards: int) -> None:
    with TemporaryDirectory() as folder:
        found = mask_set(Path(folder), masks, PALETTE, shards)
        assert sorted(found.ids) == sorted(masks)
        for name, mask in masks.items():
            assert np.array_equal(found.read(name), mask)


@FEW
@given(MASKS, st.floats(0, 1), st.none() | st.integers(1, 1024))
def test_the_manifest_describes_the_written_mask(mask: Mask, confidence: float, window: int | None) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        with ShardWriter(folder / "s.zip", folder / "manifest.csv", PALETTE) as writer:
            writer.add("a/b", mask, confidence, window)
        row = MaskSet(folder).rows["a/b"]
    pixels = mask.flatten().tolist()
    counted = [int(n) for n in row["classes"].split()]
    assert counted == [pixels.count(c) for c in range(max(len(PALETTE), *(c + 1 for c in [*pixels, 0] if c != 255)))]
    assert row["sha256"] == hashlib.sha256(f"{len(mask)}x{len(mask[0])}:".encode() + bytes(pixels)).hexdigest()
    assert float(row["confidence"]) == pytest.approx(confidence, abs=1e-6)
    assert (row["id"], row["shard"], row["window"]) == ("a/b", "s.zip", str(window or ""))


def test_a_shard_does_not_record_the_time_of_writing(tmp_path: Path) -> None:
    mask_set(tmp_path, some_masks(), PALETTE)
    with zipfile.ZipFile(tmp_path / shard_name(0, 1)) as archive:
        assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == [f"train/{i}.png" for i in range(6)]


# -- changed files ----------------------------------------------------------------------------------------------------


def one_pixel(folder: Path, masks: dict[str, Mask]) -> None:
    changed = masks["train/2"].copy()
    changed[3, 3] ^= 1
    _write(folder, masks | {"train/2": changed})


def two_exchanged(folder: Path, masks: dict[str, Mask]) -> None:
    _write(folder, masks | {"train/2": masks["train/3"]})


def transposed(folder: Path, masks: dict[str, Mask]) -> None:
    _write(folder, masks | {"train/2": masks["train/2"].reshape(6, 8)})


def left_out(folder: Path, masks: dict[str, Mask]) -> None:
    _write(folder, {i: m for i, m in masks.items() if i != "train/2"})


def removed(folder: Path, masks: dict[str, Mask]) -> None:
    (folder / shard_name(0, 1)).unlink()


def no_zip(folder: Path, masks: dict[str, Mask]) -> None:
    (folder / shard_name(0, 1)).write_text("<html>not found</html>")


def no_png(folder: Path, masks: dict[str, Mask]) -> None:
    write_shard(folder / shard_name(0, 1), dict.fromkeys(masks, b"no image"))


def _write(folder: Path, masks: dict[str, Mask]) -> None:
    write_shard(folder / shard_name(0, 1), {i: encode_mask(m, PALETTE) for i, m in masks.items()})


@pytest.mark.parametrize("change", [one_pixel, two_exchanged, transposed, left_out, removed, no_zip, no_png])
def test_a_changed_mask_is_detected_and_named(change: Callable[[Path, dict[str, Mask]], None], tmp_path: Path) -> None:
    masks = some_masks()
    found = mask_set(tmp_path, masks, PALETTE)
    change(tmp_path, masks)
    with pytest.raises(StppError, match=rf"{shard_name(0, 1)}: mask train/2"):
        found.read("train/2")


def test_exchanged_shards_are_detected(tmp_path: Path) -> None:
    masks = some_masks(12)
    found = mask_set(tmp_path, masks, PALETTE, shards=2)
    first, second = (tmp_path / shard_name(i, 2) for i in range(2))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    for name in masks:
        with pytest.raises(StppError, match=name):
            found.read(name)


def test_any_changed_byte_gives_the_same_masks_or_an_error(tmp_path: Path) -> None:
    masks = some_masks(2)
    mask_set(tmp_path, masks, PALETTE)
    shard = tmp_path / shard_name(0, 1)
    whole = shard.read_bytes()
    damaged = [whole[:at] for at in range(0, len(whole), 9)]
    for at in range(len(whole)):
        damaged += [whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :] for flip in (1, 8, 255)]
    refused = 0
    for content in damaged:
        shard.write_bytes(content)
        found = MaskSet(tmp_path)
        for name, mask in masks.items():
            try:
                assert np.array_equal(found.read(name), mask)
            except StppError:
                refused += 1
    assert refused > len(whole) // 9


# -- processes --------------------------------------------------------------------------------------------------------


def test_a_mask_set_can_be_pickled_after_reading(tmp_path: Path) -> None:
    masks = some_masks()
    found = mask_set(tmp_path, masks, PALETTE, shards=2)
    for name in masks:
        found.read(name)
    again = pickle.loads(pickle.dumps(found))
    for name, mask in masks.items():
        assert np.array_equal(again.read(name), mask)
        assert np.array_equal(found.read(name), mask)


def _read(found: MaskSet, masks: dict[str, Mask], rounds: int) -> None:
    for _ in range(rounds):
        for name, mask in masks.items():
            assert np.array_equal(found.read(name), mask)


def test_forked_processes_do_not_disturb_each_others_reading(tmp_path: Path) -> None:
    masks = some_masks(20)
    found = mask_set(tmp_path, masks, PALETTE, shards=2)
    _read(found, masks, 1)
    workers = [multiprocessing.get_context("fork").Process(target=_read, args=(found, masks, 20)) for _ in range(2)]
    for worker in workers:
        worker.start()
    _read(found, masks, 20)
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]


# -- shards -----------------------------------------------------------------------------------------------------------

MANY = st.lists(IDS, max_size=20, unique=True)


@FEW
@given(MANY, st.integers(1, 9))
def test_shards_are_a_partition_that_keeps_the_order(ids: list[str], shards: int) -> None:
    parts = shards_of(ids, shards)
    assert [list(part) for part in parts] == [[i for i in ids if shard_of(i, shards) == at] for at in range(shards)]


@FEW
@given(MANY, st.sets(st.integers(0, 19)), st.integers(1, 9))
def test_an_id_stays_in_its_shard_when_others_come_or_go(ids: list[str], gone: set[int], shards: int) -> None:
    fewer = [name for at, name in enumerate(ids) if at not in gone]
    for all_, part in zip(shards_of(ids, shards), shards_of(fewer, shards), strict=True):
        assert set(part) <= set(all_)
        assert set(all_) - set(part) <= set(ids) - set(fewer)


def test_shards_are_the_same_on_every_machine_and_about_equal() -> None:
    assert shard_of("123456789", 4096) == 0xCBF43926 % 4096  # the check value of CRC-32
    sizes = [len(part) for part in shards_of((f"image-{i}" for i in range(8000)), 8)]
    assert max(abs(size - 1000) for size in sizes) < 5 * (8000 / 8 * 7 / 8) ** 0.5


def test_the_names_of_shards_sort_by_number() -> None:
    assert [shard_name(i, 4096) for i in (3, 20, 4095)] == sorted(shard_name(i, 4096) for i in (4095, 20, 3))
    assert shard_name(3, 8) == "masks-00003-of-00008.zip"


@pytest.mark.parametrize(
    ("name", "shard"), [("../evil", "masks-00000-of-00001.zip"), ("/evil", "m.zip"), ("a", "../m.zip")]
)
def test_a_manifest_with_paths_outside_its_folder_is_refused(name: str, shard: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "manifest.csv", COLUMNS, [(name, shard, "", "", "", "")])
    with pytest.raises(StppError, match=r"manifest\.csv"):
        MaskSet(tmp_path)


# -- streamed writing -------------------------------------------------------------------------------------------------


@FEW
@given(st.dictionaries(IDS, MASKS, max_size=8), st.integers(1, 5))
def test_a_shard_is_a_plain_zip_of_its_masks_in_the_order_of_ids(masks: dict[str, Mask], shards: int) -> None:
    with TemporaryDirectory() as folder:
        found = mask_set(Path(folder), masks, PALETTE, shards)
        assert list(found.ids) == sorted(masks)
        for at in range(shards):
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w") as archive:
                for name in sorted(i for i in masks if shard_of(i, shards) == at):
                    entry = zipfile.ZipInfo(f"{name}.png")  # its default date is in 1980
                    entry.external_attr = 0o644 << 16
                    archive.writestr(entry, encode_mask(masks[name], PALETTE))
            assert Path(folder, shard_name(at, shards)).read_bytes() == content.getvalue()


def test_masks_must_be_added_to_a_shard_in_the_order_of_ids(tmp_path: Path) -> None:
    masks = some_masks(3)
    for names in (("train/1", "train/0"), ("train/1", "train/1")):
        files = tmp_path / "s.zip", tmp_path / "p"
        with (
            pytest.raises(ValueError, match="ids must be added in ascending order"),
            ShardWriter(*files, PALETTE) as writer,
        ):
            for name in names:
                writer.add(name, masks[name], 1.0)
        assert list(tmp_path.iterdir()) == []


def test_any_number_of_shards_is_merged_and_read_with_few_files_open(tmp_path: Path) -> None:
    masks = some_masks(400)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(list(Path("/proc/self/fd").iterdir())) + 80
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        found = mask_set(tmp_path, masks, PALETTE, 300)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for name, mask in masks.items():
            assert np.array_equal(found.read(name), mask)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.csv", *(shard_name(i, 300) for i in range(300))}
    assert (tmp_path / "manifest.csv").read_text().count("\n") == 401


@pytest.mark.parametrize("content", ["", "id,shard\n", "b,,,,,\na,,,,,\n", "a,,,,,\na,,,,,\n", "a,,\n"])
def test_a_damaged_part_of_a_manifest_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_text(content if content[:2] in ("", "id") else ",".join(COLUMNS) + "\n" + content)
    with pytest.raises(StppError, match=r"part\.csv: not readable"):
        merge_manifests([tmp_path / "part.csv"], tmp_path / "manifest.csv")
    assert not (tmp_path / "manifest.csv").exists()


def test_a_mask_set_of_an_older_stpp_has_empty_windows(tmp_path: Path) -> None:
    masks = some_masks()
    mask_set(tmp_path, masks, PALETTE)
    text = (tmp_path / "manifest.csv").read_text().splitlines()
    (tmp_path / "manifest.csv").write_text("".join(f"{line.rpartition(',')[0]}\n" for line in text))
    found = MaskSet(tmp_path)
    assert found.rows["train/2"]["window"] == ""
    assert np.array_equal(found.read("train/2"), masks["train/2"])


def test_a_shard_that_was_compressed_since_is_refused(tmp_path: Path) -> None:
    found = mask_set(tmp_path, some_masks(), PALETTE)
    shard = tmp_path / shard_name(0, 1)
    with zipfile.ZipFile(shard) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(shard, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(StppError, match="its entry in the archive was changed"):
        found.read("train/2")


# -- soft masks -------------------------------------------------------------------------------------------------------


def test_a_soft_mask_is_read_as_it_was_written_and_its_change_is_found(tmp_path: Path) -> None:
    masks, rng = some_masks(), np.random.default_rng(1)
    levels = {name: rng.integers(0, 256, (*mask.shape, 6)).astype(np.uint8) for name, mask in masks.items()}
    for folder in ("a", "b"):
        found = mask_set(tmp_path / folder, masks, PALETTE, 2, levels)
    assert pickle.loads(pickle.dumps(found)).soft
    for name, mask in masks.items():
        assert np.array_equal(found.read_levels(name), levels[name]) and np.array_equal(found.read(name), mask)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()
    }
    assert not mask_set(tmp_path / "hard", masks, PALETTE).soft

    other = mask_set(tmp_path / "other", masks, PALETTE, 2, {name: 255 - one for name, one in levels.items()})
    for shard in other.folder.glob("*.zip"):
        (found.folder / shard.name).write_bytes(shard.read_bytes())
    with pytest.raises(StppError, match=r"zip: soft mask train/2 does not match its hash in manifest\.csv"):
        MaskSet(found.folder).read_levels("train/2")


@pytest.mark.parametrize("data", [b"", b"no zlib", zlib.compress(b"short"), zlib.compress(bytes(10**6))])
def test_a_damaged_soft_mask_is_named_and_never_inflated_beyond_its_size(data: bytes, tmp_path: Path) -> None:
    mask = some_masks(1)["train/0"]
    found = mask_set(tmp_path, {"a": mask}, PALETTE, 1, {"a": np.zeros((*mask.shape, 6), np.uint8)})
    shard = tmp_path / shard_name(0, 1)
    with zipfile.ZipFile(shard, "w") as archive:
        archive.writestr("a.png", encode_mask(mask, PALETTE))
        archive.writestr("a.soft", data)
    with pytest.raises(StppError, match=r"zip: soft mask a: .*run `dvc repro` again"):
        found.read_levels("a")


def test_parts_with_and_without_soft_masks_are_not_merged(tmp_path: Path) -> None:
    mask = some_masks(1)["train/0"]
    for name, levels in (("a", None), ("b", np.zeros((*mask.shape, 6), np.uint8))):
        files = tmp_path / f"{name}.zip", tmp_path / f"{name}.csv"
        with ShardWriter(*files, PALETTE, soft=levels is not None) as writer:
            writer.add(name, mask, 1.0, levels=levels)
    with pytest.raises(StppError, match="other columns"):
        merge_manifests([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "manifest.csv")
