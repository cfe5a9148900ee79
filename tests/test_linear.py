"""Tests that work grows in proportion to the number of images (by counting calls), and that workers copy no ids."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stpp.ingest.catalog import list_images
from stpp.ingest.inspection import inspect
from stpp.ingest.known_layouts import layout
from stpp.ingest.splits import check, draw
from stpp.params.data import Data
from stpp.params.models import Split
from stpp.run.lineage import md5_of
from stpp.selftrain.selection import select
from stpp.selftrain.suggestion import suggest
from stpp.store.files import write_csv, write_ids
from stpp.store.manifest import RECORD, Dataset, Record, read_dataset, read_user_list, write_dataset
from stpp.store.masks import COLUMNS, MaskSet, merge_manifests, shards_of

SMALL, LARGE = 200, 1600


def calls(work: Callable[[], Any]) -> int:
    """Return the number of calls of Python and C functions in `work`."""
    count = 0

    def counted(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def ids(count: int) -> list[str]:
    return [f"{i % 7}/{i:05d}" for i in range(count)]


def dataset(count: int) -> Dataset:
    records = {
        i: Record(i, f"i/{i}.png", f"m/{i}.png" if at % 2 else "", 8, 8, f"{at:064x}", f"{at + count:064x}", (at % 3,))
        for at, i in enumerate(sorted(ids(count)))
    }
    return Dataset("d", ("a", "b", "c"), ((0, 0, 0),) * 3, {0: 0, 1: 1, 2: 2}, records)


def photos(folder: Path, count: int) -> Data:
    for at, i in enumerate(ids(count)):
        path = folder / f"photos/i/{i}.ppm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"P6 1 1 255\n" + at.to_bytes(3, "big"))
    root = str(folder / "photos")
    return Data(name="d", kind="folder", root=root, images="i/{p}/{n}.ppm", masks="m/{p}/{n}.png", classes=("a", "b"))


SPLIT = {"name": "s", "seed": 0, "labeled": {"fraction": "1/4"}, "val": {"fraction": "1/4"}}


def splits(folder: Path, count: int) -> Callable[[], Any]:
    write_dataset(folder, dataset(count))
    found = read_dataset(folder)

    def work() -> None:
        for even in (False, True):
            split = Split(**SPLIT, stratify=even)
            sets, _ = draw(found, split, folder)
            check(sets, found, split, 4)

    return work


def lists(folder: Path, count: int) -> Callable[[], Any]:
    write_dataset(folder, dataset(count))
    write_ids(folder / "list.txt", (f"i/{i}.png" for i in ids(count)))
    return lambda: read_user_list(folder / "list.txt", read_dataset(folder))


def manifests(folder: Path, count: int) -> Callable[[], Any]:
    write_dataset(folder, dataset(count))
    return lambda: (read_dataset(folder).digest, [*read_dataset(folder).records.items()])


def discovery(folder: Path, count: int) -> Callable[[], Any]:
    data = photos(folder, count)
    return lambda: list_images(data, layout(data))


def preparation(folder: Path, count: int) -> Callable[[], Any]:
    data = photos(folder, count)
    return lambda: inspect(data, 0, folder / "memory")


def trees(folder: Path, count: int) -> Callable[[], Any]:
    photos(folder, count)
    return lambda: md5_of(folder / "photos", folder)


def selection(folder: Path, count: int) -> Callable[[], Any]:
    return lambda: select({i: len(i) / 9 for i in ids(count)}, 0.5)


def suggestions(folder: Path, count: int) -> Callable[[], Any]:
    drawn = np.random.default_rng(0)
    shares = {i: drawn.random(3).tolist() for i in ids(count)}
    return lambda: suggest(dict.fromkeys(shares, 0.5), shares.__getitem__, [0, 1, 2], 20)


def merging(folder: Path, count: int) -> Callable[[], Any]:
    parts = []
    for at, names in enumerate(shards_of(sorted(ids(count)), count // 30)):
        parts.append(folder / f"{at}.csv")
        write_csv(parts[-1], COLUMNS, [(i, "s.zip", "", "", "", "") for i in names])

    def work() -> None:
        merge_manifests(parts, folder / "manifest.csv")
        assert len(MaskSet(folder).ids) == count

    return work


@pytest.mark.parametrize(
    "prepared", [splits, lists, manifests, discovery, preparation, trees, selection, suggestions, merging]
)
def test_eight_times_the_images_are_about_eight_times_the_work(
    prepared: Callable[[Path, int], Callable[[], Any]], tmp_path: Path
) -> None:
    work = []
    for count in (SMALL, LARGE):
        (tmp_path / str(count)).mkdir()
        work.append(prepared(tmp_path / str(count), count))
        work[-1]()  # the first call also imports modules
    small, large = map(calls, work)
    assert large < 2 * LARGE / SMALL * small


WORKER = """
import gc, os, sys
from pathlib import Path
from stpp.data.datasets import ImageMaskPairs
from stpp.data.reader import ImageReader
from stpp.store.manifest import read_dataset

def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) / 1024

def grown(read):
    here, there = os.pipe()
    if os.fork() == 0:
        before = private()
        for at in read:
            data.read(at)
        gc.collect()
        os.write(there, str(private() - before).encode())
        os._exit(0)
    os.wait()
    return float(os.read(here, 64))

photos = ImageReader(read_dataset(Path("data")), Path("."))
data = ImageMaskPairs(photos, photos.dataset.records)
assert len(data.ids) == int(sys.argv[1])
data.read(0)
print(grown(range(0, len(data.ids), len(data.ids) // 3000)) - grown([]))
"""


@pytest.mark.parametrize("count", [30_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_worker_has_not_copied_the_ids_after_many_samples(count: int, tmp_path: Path) -> None:
    """A list of str and a dict of records would take 18 MB for 30,000 ids, and workers would copy what they read."""
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "i.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "m.png")
    write_dataset(tmp_path / "data", Dataset("d", ("a",), ((0, 0, 0),), {0: 0}, {}))
    rows = ((f"{i:07d}", "i.png", "m.png", 8, 8, "", "", "0") for i in range(count))
    write_csv(tmp_path / "data/manifest.csv", RECORD, rows)
    root = str(Path(__file__).parent.parent)
    words = [sys.executable, "-c", WORKER, str(count)]
    done = subprocess.run(words, cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 8, "MiB; some 4 for any count"
