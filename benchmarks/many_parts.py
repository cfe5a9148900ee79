"""The parts that `many.py` measures, each in its own process: python benchmarks/many_parts.py PART IDS.

The parts share files in the working folder: a part reads what earlier parts have written.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import shake_128
from pathlib import Path
from typing import Any

SIZE = 8
CLASSES = ("sky", "road", "tree", "car")
MASKED = 10
"""One in this many images has a mask."""
LINKS = 30_000
"""The largest number of hard links to a file; ext4 allows 65,000."""
SHARD = 4_000
"""The approximate number of masks in a shard."""
READ = 5_000
"""The number of reads in random order by which reading is measured."""
DATA, SPLIT, SCORE, MASKS = Path("runs/data"), Path("runs/split"), Path("runs/score"), Path("runs/masks")

Step = Callable[[int], str | None]
_clock = {"seconds": 0.0, "cpu_seconds": 0.0}


@contextmanager
def timed() -> Iterator[None]:
    start, busy = time.perf_counter(), _cpu()
    yield
    _clock["seconds"] += time.perf_counter() - start
    _clock["cpu_seconds"] += _cpu() - busy


def _cpu() -> float:
    """Return the CPU seconds of this process, its threads, and the processes that it has waited for."""
    return sum(os.times()[:4])


def by_part(factor: float) -> None:
    """Multiply the measured times by `factor`, because only one in `factor` operations was measured."""
    for key in _clock:
        _clock[key] *= factor


def name_of(index: int) -> str:
    return f"{index // 1000:04d}/{index:07d}"


# -- the measured parts -----------------------------------------------------------------------------------------------


def generate(ids: int) -> None:
    """Write the data set, the scores and params.yaml into the working folder."""
    made = 0
    mask = b"P5 8 8 255\n" + bytes(c for c in range(len(CLASSES)) for _ in range(SIZE * SIZE // len(CLASSES)))
    for index in range(ids):
        image = Path(f"photos/images/{name_of(index)}.ppm")
        if index % 1000 == 0:
            image.parent.mkdir(parents=True)
            Path(f"photos/masks/{name_of(index)}").parent.mkdir(parents=True)
        image.write_bytes(b"P6 8 8 255\n" + shake_128(str(index).encode()).digest(3 * SIZE * SIZE))
        if index % MASKED == 0:
            target = Path(f"photos/masks/{name_of(index)}.pgm")
            if made % LINKS == 0:
                target.write_bytes(mask)
                first = target
            else:
                target.hardlink_to(first)
            made += 1
    SCORE.mkdir(parents=True)
    drawn = random.Random(0)
    with (SCORE / "scores.csv").open("w") as scores:
        scores.write("id,stability,confidence\n")
        for index in range(ids):
            if index % MASKED:
                scores.write(f"{name_of(index)},{drawn.random():.6f},{drawn.random():.6f}\n")
    (SCORE / "quality.csv").write_text("id,miou\n")
    params = {
        "data": {
            "name": "many",
            "kind": "folder",
            "root": "photos",
            "images": "images/{part}/{name}.ppm",
            "masks": "masks/{part}/{name}.pgm",
            "classes": list(CLASSES),
        },
        "split": {"name": "many", "seed": 0, "labeled": {"fraction": "1/10"}, "val": {"fraction": "1/10"}},
    }
    Path("params.yaml").write_text(json.dumps(_with_rest(params)))
    time.sleep(2.1)  # the cache of `prepare` does not trust younger files


def _with_rest(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters, with the other sections from the project's params.yaml, and two workers."""
    from stpp.params.file import read_yaml

    there = json.loads(json.dumps(read_yaml(Path(__file__).parent.parent / "params.yaml")))
    return {**there, **params, "runtime": {"device": "cpu", "workers": 2, "threads": 1}}


def discover(ids: int) -> None:
    from stpp.ingest.catalog import list_images
    from stpp.ingest.known_layouts import layout
    from stpp.params.file import load

    data = load([Path("params.yaml")]).data
    with timed():
        found, problems, _ = list_images(data, layout(data))
    assert (len(found), problems) == (ids, [])


def prepare(ids: int) -> None:
    from stpp.stages.prepare import prepare

    with timed():
        prepare(DATA)


def change(ids: int) -> None:
    """Change the content of 1 % of the images."""
    for index in range(0, ids, 100):
        path = Path(f"photos/images/{name_of(index)}.ppm")
        path.write_bytes(b"P6 8 8 255\n" + shake_128(f"other {index}".encode()).digest(3 * SIZE * SIZE))
    time.sleep(2.1)  # the cache of `prepare` does not trust younger files


def open_manifest(ids: int) -> None:
    from stpp.store.manifest import read_dataset

    with timed():
        records = read_dataset(DATA).records
    assert len(records) == ids


def look_up(ids: int) -> str:
    from stpp.store.manifest import read_dataset

    records = read_dataset(DATA).records
    chosen = [name_of(random.randrange(ids)) for _ in range(READ)]
    with timed():
        for name in chosen:
            assert records[name].id == name
    by_part(ids / READ)
    return f"in random order, by {READ} of them"


def digest(ids: int) -> None:
    from stpp.store.manifest import read_dataset

    dataset = read_dataset(DATA)
    with timed():
        assert len(dataset.digest) == 32


def split(ids: int) -> None:
    from stpp.stages.split import split

    with timed():
        split(DATA, Path("splits"), SPLIT)


def select(ids: int) -> None:
    from stpp.stages.select import select

    with timed():
        select(SCORE, Path("runs/selection"))


def read_user_list(ids: int) -> None:
    from stpp.store.manifest import read_dataset, read_user_list

    dataset = read_dataset(DATA)
    Path("list.txt").write_text("".join(f"images/{name_of(i)}.ppm\n" for i in range(ids)))
    with timed():
        found, problems = read_user_list(Path("list.txt"), dataset)
    assert (len(found), problems) == (ids, [])


def _shards(ids: int) -> int:
    return max(4, ids // SHARD)


def write_masks(ids: int) -> str:
    import numpy as np

    from stpp.store.masks import ShardWriter, merge_manifests, shard_name, shards_of

    drawn = np.random.default_rng(0)
    masks = [drawn.integers(0, len(CLASSES), (SIZE, SIZE)).astype(np.uint8) for _ in range(64)]
    with timed():
        parts = []
        for index, names in enumerate(shards_of((name_of(i) for i in range(ids)), _shards(ids))):
            shard, part = shard_name(index, _shards(ids)), Path(f"parts/{index}.csv")
            with ShardWriter(MASKS / shard, part, ((0, 0, 0),) * len(CLASSES)) as writer:
                for name in names:
                    writer.add(name, masks[int(name[-7:]) % 64], 0.5)
            parts.append(part)
        merge_manifests(parts, MASKS / "manifest.csv")
    return f"{_shards(ids)} shards"


def open_masks(ids: int) -> None:
    from stpp.store.masks import MaskSet

    with timed():
        assert len(MaskSet(MASKS).rows) == ids


def read_masks(ids: int) -> str:
    from stpp.store.masks import MaskSet

    masks = MaskSet(MASKS)
    chosen = [name_of(random.randrange(ids)) for _ in range(min(ids, READ))]
    for name in chosen:
        masks.read(name)  # opens every shard
    with timed():
        for name in chosen:
            assert masks.read(name).shape == (SIZE, SIZE)
    by_part(ids / len(chosen))
    return f"in random order, by {len(chosen)} of them"


def audit_tree(ids: int) -> None:
    from stpp.run.lineage import md5_of

    with timed():
        assert md5_of(Path("photos").resolve(), Path().resolve()).endswith(".dir")


def audit_images(ids: int) -> str:
    from stpp.audit.contents import examine

    with timed():
        about, problems = examine(DATA, Path(), "photos")
    assert not problems
    return about.partition("; ")[2]


def audit_lists(ids: int) -> None:
    from stpp.audit.contents import examine

    with timed():
        about, problems = examine(SPLIT, Path(), "photos")
    assert about
    assert not problems


def audit_masks(ids: int) -> None:
    from stpp.audit.contents import examine

    with timed():
        about, problems = examine(MASKS, Path(), "photos")
    assert about.startswith(f"{ids} pseudo masks")
    assert not problems


def look_alikes(ids: int) -> str:
    from stpp.stages.audit import _alike

    with timed():
        pairs = _alike(SPLIT, DATA, Path("photos"))
    return f"{sum(1 for _ in (SPLIT / 'val.txt').open())} held out, {len(pairs)} pairs"


def suggest(ids: int) -> None:
    from stpp.stages.suggest import suggest

    with timed():
        suggest(Path("next"), 50, SCORE, [MASKS], DATA, SPLIT)


# -- memory of workers ------------------------------------------------------------------------------------------------


def _private(pid: int | str = "self") -> float:
    """Return the private memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) / 1024


def _imported() -> None:
    """Import the modules that stages import when they are called, so that imports are not measured."""
    import stpp.audit.duplicates
    import stpp.ingest.inspection
    import stpp.ingest.splits
    import stpp.params.file
    import stpp.selftrain.selection  # noqa: F401


def _grown(read: Callable[[], None]) -> float:
    """Return by how many MiB the private memory of a forked worker grows when it reads, as in a DataLoader."""
    import gc

    here, there = os.pipe()
    if os.fork() == 0:
        before = _private()
        read()
        gc.collect()  # it touches every object that could be in a cycle
        os.write(there, str(_private() - before).encode())
        os._exit(0)
    os.wait()
    return float(os.read(here, 64))


def worker(ids: int) -> str:
    from stpp.data.datasets import ImageMaskPairs
    from stpp.data.reader import ImageReader
    from stpp.store.manifest import read_dataset
    from stpp.store.masks import MaskSet

    masks = MaskSet(MASKS)
    data = ImageMaskPairs(ImageReader(read_dataset(DATA), Path("photos")), masks.ids, masks)
    step = max(1, ids // READ)

    def read() -> None:
        for index in range(0, ids, step):
            data.read(index)

    with timed():
        grown = _grown(read)
    by_part(step)
    return f"private after {ids // step} samples: {grown - _grown(lambda: None):.1f} MiB"


def old_worker(ids: int) -> str:
    import csv

    with (DATA / "manifest.csv").open(newline="") as file:
        records = {row["id"]: row for row in csv.DictReader(file)}
    with (MASKS / "manifest.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    names = list(rows)
    step = max(1, ids // READ)

    def read() -> None:
        for index in range(0, ids, step):
            name = names[index]
            assert records[name]["image"] and rows[name]["shard"]

    with timed():
        grown = _grown(read)
    by_part(step)
    return f"private after looking up {ids // step}: {grown - _grown(lambda: None):.1f} MiB"


PARTS: dict[str, Step] = {
    "discover": discover,
    "prepare": prepare,
    "prepare, nothing changed": prepare,
    "prepare, 1 % changed": prepare,
    "open manifest": open_manifest,
    "manifest look-up": look_up,
    "digest of the data": digest,
    "a person's list": read_user_list,
    "split": split,
    "select": select,
    "write mask set": write_masks,
    "open mask set": open_masks,
    "read masks": read_masks,
    "suggest": suggest,
    "audit: md5 of the tree": audit_tree,
    "audit: images": audit_images,
    "audit: lists": audit_lists,
    "audit: masks": audit_masks,
    "audit: look-alikes": look_alikes,
    "worker": worker,
    "old worker": old_worker,
}


def _peak() -> float:
    """Return the peak memory of this process in MiB. (getrusage may return the peak of the parent process.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def main(part: str, ids: int) -> None:
    """Run a part, and print its time and memory as JSON."""
    step = {"generate": generate, "change": change, **PARTS}[part]
    _imported()
    note = step(ids) or ""
    peak = _peak()
    seconds, busy = _clock.values()
    said = {"seconds": round(seconds, 3), "us_per_id": round(1e6 * seconds / ids, 2), "peak_mib": round(peak, 1)}
    said["cpu_us_per_id"] = round(1e6 * busy / ids, 2)  # other processes on the machine hardly affect it
    print(json.dumps({"part": part, "unit": "us/id", "ids": ids, **said, "note": note}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
