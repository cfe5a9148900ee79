"""Scoring, pseudo labelling, a training step and evaluation with DeepLabv3+ ResNet-50, against plain code.

python benchmarks/networks.py [score label step evaluate]
"""

import copy
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import plain
import torch
from measure import Row, row, seconds
from PIL import Image
from torch import Tensor, nn

from stpp.data.datasets import Photos, Plain, WithTruth
from stpp.data.loaders import equal_sized, prediction_loader
from stpp.engine.device import precision
from stpp.engine.evaluate import decisions, evaluate
from stpp.engine.fit import supervised
from stpp.engine.predict import decided, folded, labelling
from stpp.engine.predict import plain as plain_pass
from stpp.manifest import Dataset, Record
from stpp.masks import encode_mask
from stpp.models.build import build
from stpp.params import Label, Model, Runtime
from stpp.selftrain.pseudo import pseudo_mask
from stpp.selftrain.stability import stabilities

HEIGHT, WIDTH, CLASSES, K, CROP = 375, 500, 21, 3, 321
PRECISIONS = ("float32", "bfloat16")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
PIXELS = 2**22
RUNTIME = Runtime(workers=8 if ON_GPU else 0)
TARGETS = {
    "stability scoring, K = 3": {"float32": 1.3, "bfloat16": 2.5, "cuda": 5.0},
    "pseudo labelling with TTA": {"float32": 1.3, "bfloat16": 2.5, "cuda": 5.0},
    "training step, crop 321": {"float32": 1.1, "bfloat16": 2.0, "cuda": 3.0},
    "evaluation": {"float32": 1.3, "bfloat16": 2.5, "cuda": 5.0},
}


def network(seed: int) -> nn.Module:
    """Random weights, with running statistics that keep activations in range."""
    torch.manual_seed(seed)
    made = build(Model(weights="none"), CLASSES)
    made.train()
    with torch.no_grad():
        made(torch.randn(2, 3, 129, 129))
    return made.eval().to(DEVICE)


def as_reference(ours: nn.Module) -> nn.Module:
    return copy.deepcopy(ours).to(memory_format=torch.contiguous_format)


def drawn(root: Path, images: int) -> Photos:
    """Photo-like JPEGs with masks."""
    draws = np.random.default_rng(0)
    records = {}
    for i in range(images):
        coarse = Image.fromarray(draws.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(pixels + draws.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / f"{i}.jpg", quality=90)
        mask = Image.fromarray(draws.integers(0, CLASSES, (6, 8), dtype=np.uint8))
        mask.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST).save(root / f"{i}.png")
        records[str(i)] = Record(str(i), f"{i}.jpg", f"{i}.png", WIDTH, HEIGHT, "", "", ())
    names = tuple(map(str, range(CLASSES)))
    dataset = Dataset("drawn", names, tuple((i, i, i) for i in range(CLASSES)), {i: i for i in range(256)}, records)
    return Photos(dataset, root)


def rows_of(part: str, units: int, times: dict[str, float], agreement: str) -> list[Row]:
    target = TARGETS[part]
    return [
        row(
            f"{part} ({p})", "images/s", units, times["reference"], times[p], target["cuda" if ON_GPU else p], agreement
        )
        for p in PRECISIONS
    ]


def scoring(images: int = 256 if ON_GPU else 2, repeats: int = 2) -> list[Row]:
    networks = [network(seed) for seed in range(K)]
    references = [as_reference(n) for n in networks]
    with tempfile.TemporaryDirectory() as folder:
        photos = drawn(Path(folder), images)
        paths = [photos.root / r.image for r in photos.dataset.records.values()]
        found: dict[str, list[float]] = {}

        def reference() -> None:
            found["reference"] = plain.score(references, paths, CLASSES, DEVICE)

        def ours(p: str) -> None:
            data = WithTruth(photos, list(photos.dataset.records))
            loader = prediction_loader(data, equal_sized(data, 8, PIXELS), RUNTIME, DEVICE)
            model = Model(precision=p)  # type: ignore[arg-type]
            scores: list[float] = []
            for batch in decisions([folded(n) for n in networks], loader, model, DEVICE, decided(plain_pass, PIXELS)):
                scores += stabilities(batch.masks, CLASSES).tolist()
            found[p] = scores

        ways = {"reference": reference, **{p: lambda p=p: ours(p) for p in PRECISIONS}}
        times = seconds(ways, repeats)
    worst = {p: max(abs(a - b) for a, b in zip(found[p], found["reference"], strict=True)) for p in PRECISIONS}
    assert worst["float32"] < 0.01, worst
    assert worst["bfloat16"] < 0.2, worst
    return rows_of(
        "stability scoring, K = 3", images, times, f"scores differ by {worst['float32']:.4f} at most in float32"
    )


def pseudo_labelling(images: int = 64 if ON_GPU else 1, repeats: int = 1) -> list[Row]:
    labeller = network(0)
    reference_ = as_reference(labeller)
    with tempfile.TemporaryDirectory() as folder:
        photos = drawn(Path(folder), images)
        (Path(folder) / "out").mkdir()
        paths = [photos.root / r.image for r in photos.dataset.records.values()]
        found: dict[str, list[plain.Mask]] = {}

        def reference() -> None:
            found["reference"] = plain.label(reference_, paths, Label().scales, Path(folder) / "out", DEVICE)

        def ours(p: str) -> None:
            data = Plain(photos, list(photos.dataset.records))
            loader = prediction_loader(data, equal_sized(data, 8, PIXELS), RUNTIME, DEVICE)
            masks = []
            for batch in decisions([folded(labeller)], loader, Model(precision=p), DEVICE, labelling(Label())):  # type: ignore[arg-type]
                for mask, confidence in zip(batch.masks[0], batch.confidence, strict=True):
                    masks.append(pseudo_mask(mask, confidence)[0])
                    encode_mask(masks[-1], photos.dataset.palette)
            found[p] = masks

        ways = {"reference": reference, **{p: lambda p=p: ours(p) for p in PRECISIONS}}
        times = seconds(ways, repeats)
    equal = {
        p: float(np.mean([np.mean(a == b) for a, b in zip(found[p], found["reference"], strict=True)]))
        for p in PRECISIONS
    }
    assert equal["float32"] > 0.999, equal
    assert equal["bfloat16"] > 0.9, equal
    return rows_of("pseudo labelling with TTA", images, times, f"{equal['float32']:.2%} of pixels equal in float32")


def training_step(batch: int = 16 if ON_GPU else 4, repeats: int = 20 if ON_GPU else 2) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, CROP, CROP, generator=generator).to(DEVICE)
    y = torch.randint(0, CLASSES, (batch, CROP, CROP), generator=generator).to(DEVICE)
    start = network(0).train()
    losses: dict[str, list[float]] = {name: [] for name in ("reference", *PRECISIONS)}
    ways = {}
    for name, told in losses.items():
        one = copy.deepcopy(start) if name != "reference" else as_reference(start)
        sgd = torch.optim.SGD(one.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4)

        def go(one: nn.Module = one, sgd: torch.optim.SGD = sgd, name: str = name, own: list[float] = told) -> None:
            torch.manual_seed(0)
            if name == "reference":
                own.append(plain.step(one, sgd, x, y))
                return
            with precision(Model(precision=name), DEVICE):  # type: ignore[arg-type]
                loss: Tensor = supervised(one, x, y)
            sgd.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            sgd.step()
            own.append(float(loss.detach()))  # waits for a GPU, as a measurement must

        ways[name] = go
    times = seconds(ways, repeats)
    worst = {p: max(abs(a - b) for a, b in zip(losses[p], losses["reference"], strict=True)) for p in PRECISIONS}
    assert worst["float32"] < 1e-3, losses
    assert worst["bfloat16"] < 0.05, losses
    return rows_of(
        "training step, crop 321", batch, times, f"losses differ by {worst['float32']:.1e} at most in float32"
    )


def evaluation(images: int = 256 if ON_GPU else 4, repeats: int = 2) -> list[Row]:
    one = network(0)
    reference_ = as_reference(one)
    with tempfile.TemporaryDirectory() as folder:
        photos = drawn(Path(folder), images)
        pairs = [(photos.root / r.image, photos.root / r.mask) for r in photos.dataset.records.values()]
        found: dict[str, np.ndarray] = {}

        def reference() -> None:
            found["reference"] = plain.evaluate(reference_, pairs, CLASSES, DEVICE)[1]

        def ours(p: str) -> None:
            data = WithTruth(photos, list(photos.dataset.records))
            loader = prediction_loader(data, equal_sized(data, 8, PIXELS), RUNTIME, DEVICE)
            model = Model(precision=p)  # type: ignore[arg-type]
            found[p] = evaluate(folded(one), loader, CLASSES, model, DEVICE, decided(plain_pass, PIXELS)).matrix.numpy()

        ways = {"reference": reference, **{p: lambda p=p: ours(p) for p in PRECISIONS}}
        times = seconds(ways, repeats)
    total = found["reference"].sum()
    moved = {p: float(np.abs(found[p] - found["reference"]).sum() / 2 / total) for p in PRECISIONS}
    assert moved["float32"] < 0.001, moved
    assert moved["bfloat16"] < 0.1, moved
    return rows_of("evaluation", images, times, f"{moved['float32']:.3%} of pixels elsewhere in the matrix in float32")


PARTS = {"score": scoring, "label": pseudo_labelling, "step": training_step, "evaluate": evaluation}


def run(parts: list[str] | None = None) -> list[Row]:
    return [line for part in parts or list(PARTS) for line in PARTS[part]()]


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1:]), indent=2))
