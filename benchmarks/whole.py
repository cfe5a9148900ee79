"""Measures a whole ST++ run with DeepLabv3+ ResNet-50 on drawn images: the stages of this project against plain code.

python benchmarks/whole.py
"""

import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import reference
import torch
from measure import PRECISIONS, Row, plain_memory, row
from ruamel.yaml import YAML

from stpp.models.build import build
from stpp.params.file import load
from stpp.store.files import read_ids, read_json
from stpp.store.manifest import read_dataset

SETTING: dict[str, Any] = {
    "toy": {"images": 12, "size": 160, "seed": 0},
    "data": {"name": "toy", "kind": "toy", "root": "data/toy"},
    "split": {"name": "bench", "labeled": {"count": 4}, "val": {"count": 2}},
    "model": {},
    "train": {"epochs": 3, "batch_size": 4, "checkpoints": 3},
    "augment": {"weak": {"base": 400, "crop": 321}},
    "score": {"shards": 2},
    "label": {"shards": 2},
    "evaluate": {"panels": 0},
}
"""The network and the crop of the paper, with so few images that it takes minutes: 3 to 9 iterations per training."""
TARGETS = {"float32": 1.2, "bfloat16": 2.0, "cuda": 3.0}


def prepared() -> None:
    """Write data, split and backbone. Both implementations use them, and this is not timed."""
    from stpp.stages import backbone, draw, prepare, split

    written({})
    draw.draw(Path("data/toy"))
    prepare.prepare(Path("runs/data"))
    for folder in ("splits", "weights"):
        Path(folder).mkdir()
    split.split(Path("runs/data"), Path("splits"), Path("runs/split"))
    backbone.backbone(Path("weights"), Path("runs/backbone.safetensors"))


def written(model: dict[str, Any]) -> None:
    with Path("params.yaml").open("w") as file:
        YAML().dump(SETTING | {"model": SETTING["model"] | model, "runtime": {"workers": 0}}, file)


def ours(precision: str) -> float:
    """Run the stages that `dvc repro` calls, here in one process. Return the mIoU of ST++ on val."""
    from stpp.stages import evaluate, label, score, select, train

    written({"precision": precision})
    runs, data, split, backbone = (
        Path("runs") / precision,
        *map(Path, ("runs/data", "runs/split")),
        Path("runs/backbone.safetensors"),
    )
    train.train("teacher", data, split, backbone, runs / "teacher")
    score.score(runs / "teacher/checkpoints", data, split, runs / "score")
    select.select(runs / "score", runs / "selection")
    reliable, unreliable = runs / "reliable", runs / "unreliable"
    label.label(runs / "teacher/model.safetensors", runs / "selection/reliable.txt", data, split, reliable)
    train.train("student_1", data, split, backbone, runs / "student_1", [reliable / "masks"])
    label.label(runs / "student_1/model.safetensors", runs / "selection/unreliable.txt", data, split, unreliable)
    train.train("student", data, split, backbone, runs / "student", [reliable / "masks", unreliable / "masks"])
    evaluate.evaluate([f"stpp={runs / 'student/model.safetensors'}"], data, runs / "evaluation", split)
    return float(read_json(runs / "evaluation/metrics.json")["val"]["stpp"]["miou"])


def plainly(device: torch.device) -> float:
    """Run Algorithm 2 in plain code with the same split and length. Return the mIoU on val."""
    plain_memory()
    p = load([Path("params.yaml")])
    dataset, root = read_dataset(Path("runs/data")), Path("data/toy")
    pairs = {i: (root / r.image, root / r.mask) for i, r in dataset.records.items()}
    sets = {name: list(read_ids(Path(f"runs/split/{name}.txt"))) for name in ("labeled", "unlabeled", "val")}
    classes = len(dataset.classes)

    def sample(image: Path, mask: Path, strong: bool, draws: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        return reference.sample(image, mask, p.augment, strong, draws)

    def network() -> torch.nn.Module:
        return build(p.model, classes).to(device).to(memory_format=torch.contiguous_format)

    epochs = p.train.epochs
    assert epochs is not None, "the reference counts in epochs"

    def trained(labeled: list[str], pseudo: list[tuple[Path, Path]]) -> tuple[torch.nn.Module, list[Any]]:
        torch.manual_seed(0)
        one = network()
        kept = reference.train(
            one,
            [pairs[i] for i in labeled],
            pseudo,
            [pairs[i] for i in sets["val"]],
            sample,
            classes=classes,
            epochs=epochs,
            batch_size=p.train.batch_size,
            lr=p.train.lr * p.train.batch_size / 16,
            checkpoints=p.train.checkpoints,
            device=device,
        )
        return one, kept

    def labelled(labeller: torch.nn.Module, ids: list[str], out: Path) -> list[tuple[Path, Path]]:
        out.mkdir()
        reference.label(labeller, [pairs[i][0] for i in ids], p.label.scales, out, device)
        return [(pairs[i][0], out / f"{pairs[i][0].stem}.png") for i in ids]

    teacher, kept = trained(sets["labeled"] * 2, [])
    networks = []
    for state in kept:
        networks.append(network())
        networks[-1].load_state_dict(state)
    scores = reference.score(networks, [pairs[i][0] for i in sets["unlabeled"]], classes, device)
    ranked = [i for _, i in sorted(zip(scores, sets["unlabeled"], strict=True), key=lambda pair: -pair[0])]
    T = len(ranked) // 2
    masks = labelled(teacher, ranked[:T], Path("reliable"))
    student_1, _ = trained(sets["labeled"], masks)
    masks += labelled(student_1, ranked[T:], Path("unreliable"))
    student, _ = trained(sets["labeled"], masks)
    return 100 * reference.evaluate(student, [pairs[i] for i in sets["val"]], classes, device)[0]


def run() -> list[Row]:
    os.environ["STPP_TRACKING"] = "off"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    times, mious = {}, {}
    ways: dict[str, Callable[[], float]] = {"reference": lambda: plainly(device)}
    ways |= {precision: partial(ours, precision) for precision in PRECISIONS}
    with (
        tempfile.TemporaryDirectory() as folder,
        chdir(folder),
        redirect_stdout(StringIO()),
        redirect_stderr(StringIO()),
    ):
        prepared()
        for name, way in ways.items():
            began = time.perf_counter()
            mious[name] = way()
            times[name] = time.perf_counter() - began
    said = ", ".join(f"{name} {miou:.1f}" for name, miou in mious.items())
    return [
        row(
            f"an ST++ run whole ({name})",
            "runs/hour",
            3600,
            times["reference"],
            times[name],
            TARGETS["cuda" if device.type == "cuda" else name],
            f"mIoU on val after so few iterations, in %: {said}",
        )
        for name in PRECISIONS
    ]


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
