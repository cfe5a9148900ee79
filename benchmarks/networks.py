"""Measure scoring, pseudo labelling, a training step and evaluation with DeepLabv3+ ResNet-50 against plain code.

python benchmarks/networks.py [score | label | step | evaluate]
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import reference
import torch
from measure import PRECISIONS, Row, plain_memory, row, seconds
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from stpp.data.prediction import ImageDataset, ImageMaskDataset, batches_of_equal_size, prediction_loader
from stpp.data.reader import ImageReader
from stpp.engine.device import autocast, keep_freed_memory
from stpp.engine.evaluate import BatchMasks, evaluate, predict_batches
from stpp.engine.fit import supervised
from stpp.engine.predict import LARGE, MaskPredictor, fold_batch_norms, label_predictor, mask_predictor, single_pass
from stpp.models.build import build
from stpp.params.models import Label, Model, Runtime
from stpp.selftrain.pseudo import pseudo_masks
from stpp.selftrain.scoring.stability import stabilities
from stpp.store.manifest import Dataset, Record
from stpp.store.masks import encode_mask

HEIGHT, WIDTH, CLASSES, K, CROP = 375, 500, 21, 3, 321
MODELS = {p: Model(weights="none", precision=p) for p in PRECISIONS}  # type: ignore[arg-type]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
RUNTIME = Runtime(workers=8 if ON_GPU else 0)
WHOLE = mask_predictor(single_pass, LARGE)
Found = TypeVar("Found")


@dataclass(frozen=True)
class Part:
    """A measured part, its targets, and how far its results may differ from those of the reference."""

    name: str
    targets: tuple[float, float, float]
    """The target ratios in float32 and in bfloat16 on a CPU, and on a GPU."""
    bounds: tuple[float, float]
    """The upper limits of the difference from the reference, in float32 and in bfloat16."""
    agreement: str
    """A format string for the difference in float32."""

    def rows(
        self,
        units: int,
        repeats: int,
        plainly: Callable[[], Found],
        ours: Callable[[Model], Found],
        difference: Callable[[Found, Found], float],
    ) -> list[Row]:
        """Time the reference and every precision, and check that their results agree."""
        found: dict[str, Found] = {}

        def way(name: str, memory: Callable[[], None], work: Callable[[], Found]) -> Callable[[], None]:
            def timed() -> None:
                memory()
                found[name] = work()

            return timed

        ways = {"reference": way("reference", plain_memory, plainly)}
        ways |= {p: way(p, keep_freed_memory, partial(ours, model)) for p, model in MODELS.items()}
        times = seconds(ways, repeats)
        off = {p: difference(found[p], found["reference"]) for p in MODELS}
        assert all(off[p] < bound for p, bound in zip(MODELS, self.bounds, strict=False)), (self.name, off)
        targets = dict(zip(MODELS, [self.targets[2]] * 2 if ON_GPU else self.targets[:2], strict=False))
        said = self.agreement.format(off["float32"])
        return [
            row(f"{self.name} ({p})", "images/s", units, times["reference"], times[p], targets[p], said) for p in MODELS
        ]


def network(seed: int) -> nn.Module:
    """Return a network with random weights, and running statistics that keep activations in range."""
    torch.manual_seed(seed)
    made = build(MODELS["float32"], CLASSES)
    made.train()
    with torch.no_grad():
        made(torch.randn(2, 3, 129, 129))
    return made.eval().to(DEVICE)


def as_reference(ours: nn.Module) -> nn.Module:
    return copy.deepcopy(ours).to(memory_format=torch.contiguous_format)


@contextmanager
def drawn(images: int) -> Iterator[ImageReader]:
    """Write photo-like JPEGs with masks into a temporary folder, and yield a reader of them."""
    draws = np.random.default_rng(0)
    records = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for i in range(images):
            coarse = Image.fromarray(draws.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
            noisy = np.clip(pixels + draws.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / f"{i}.jpg", quality=90)
            mask = Image.fromarray(draws.integers(0, CLASSES, (6, 8), dtype=np.uint8))
            mask.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST).save(root / f"{i}.png")
            records[str(i)] = Record(str(i), f"{i}.jpg", f"{i}.png", WIDTH, HEIGHT, "", "", ())
        names = tuple(map(str, range(CLASSES)))
        palette = tuple((i, i, i) for i in range(CLASSES))
        yield ImageReader(Dataset("drawn", names, palette, {i: i for i in range(256)}, records), root)


def files(photos: ImageReader) -> list[tuple[Path, Path]]:
    return [(photos.root / r.image, photos.root / r.mask) for r in photos.dataset.records.values()]


def predicted(
    networks: Sequence[nn.Module], data: ImageDataset, model: Model, decide: MaskPredictor
) -> Iterator[BatchMasks]:
    loader = prediction_loader(data, batches_of_equal_size(data, 8, LARGE), RUNTIME, DEVICE)
    return predict_batches(networks, loader, model, DEVICE, decide)


def ready(networks: Sequence[nn.Module]) -> dict[str, list[nn.Module]]:
    """Return the networks prepared for prediction in every precision. This is not timed: it happens once per run."""
    return {name: [fold_batch_norms(copy.deepcopy(n), model) for n in networks] for name, model in MODELS.items()}


def scoring(images: int = 256 if ON_GPU else 4, repeats: int = 2 if ON_GPU else 1) -> list[Row]:
    part = Part("stability scoring, K = 3", (1.3, 2.5, 5.0), (0.01, 0.2), "scores differ by {:.4f} at most in float32")
    networks = [network(seed) for seed in range(K)]
    references, own = [as_reference(n) for n in networks], ready(networks)
    with drawn(images) as photos:
        ids = list(photos.dataset.records)

        def ours(model: Model) -> list[float]:
            batches = predicted(own[model.precision], ImageDataset(photos, ids), model, WHOLE)
            return [s for batch in batches for s in stabilities(batch.masks, CLASSES).tolist()]

        return part.rows(
            images,
            repeats,
            lambda: reference.score(references, [image for image, _ in files(photos)], CLASSES, DEVICE),
            ours,
            lambda a, b: max(abs(x - y) for x, y in zip(a, b, strict=True)),
        )


def pseudo_labelling(images: int = 64 if ON_GPU else 2, repeats: int = 1) -> list[Row]:
    part = Part("pseudo labelling with TTA", (1.3, 2.5, 5.0), (0.001, 0.1), "{:.3%} of pixels differ in float32")
    labeller = network(0)
    reference_, own = as_reference(labeller), ready([labeller])
    with drawn(images) as photos, tempfile.TemporaryDirectory() as out:
        ids = list(photos.dataset.records)

        def ours(model: Model) -> list[reference.Mask]:
            masks: list[reference.Mask] = []
            for batch in predicted(own[model.precision], ImageDataset(photos, ids), model, label_predictor(Label())):
                masks.extend(pseudo_masks(batch.masks[0], batch.confidence)[0])
            for mask in masks:
                encode_mask(mask, photos.dataset.palette)
            return masks

        return part.rows(
            images,
            repeats,
            lambda: reference.label(
                reference_, [image for image, _ in files(photos)], Label().scales, Path(out), DEVICE
            ),
            ours,
            lambda a, b: float(np.mean([np.mean(x != y) for x, y in zip(a, b, strict=True)])),
        )


def training_step(batch: int = 16 if ON_GPU else 4, repeats: int = 20 if ON_GPU else 2) -> list[Row]:
    part = Part("training step, crop 321", (1.1, 2.0, 3.0), (1e-3, 0.05), "first losses differ by {:.1e} in float32")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, CROP, CROP, generator=generator).to(DEVICE)
    y = torch.randint(0, CLASSES, (batch, CROP, CROP), generator=generator).to(DEVICE)
    start = network(0).train()

    def trained(one: nn.Module) -> tuple[nn.Module, torch.optim.SGD, list[float]]:
        return one, torch.optim.SGD(one.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4), []

    plain_one = trained(as_reference(start))
    own = {model.precision: trained(copy.deepcopy(start)) for model in MODELS.values()}

    def plainly() -> list[float]:
        torch.manual_seed(0)
        one, sgd, losses = plain_one
        losses.append(reference.step(one, sgd, x, y))
        return losses

    def ours(model: Model) -> list[float]:
        torch.manual_seed(0)
        one, sgd, losses = own[model.precision]
        with autocast(model, DEVICE):
            loss = supervised(one, x, y)
        sgd.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        sgd.step()
        losses.append(float(loss.detach()))  # waits until the GPU has finished
        return losses

    return part.rows(batch, repeats, plainly, ours, lambda a, b: abs(a[0] - b[0]))


def evaluation(images: int = 256 if ON_GPU else 4, repeats: int = 2) -> list[Row]:
    part = Part("evaluation", (1.3, 2.5, 5.0), (0.001, 0.1), "{:.3%} of pixels elsewhere in the matrix in float32")
    one = network(0)
    reference_, own = as_reference(one), ready([one])
    with drawn(images) as photos:

        def ours(model: Model) -> NDArray[np.float64]:
            data = ImageMaskDataset(photos, list(photos.dataset.records))
            loader = prediction_loader(data, batches_of_equal_size(data, 8, LARGE), RUNTIME, DEVICE)
            network = own[model.precision][0]
            return evaluate(network, loader, CLASSES, model, DEVICE, WHOLE).matrix.double().numpy()

        return part.rows(
            images,
            repeats,
            lambda: reference.evaluate(reference_, files(photos), CLASSES, DEVICE)[1],
            ours,
            lambda a, b: float(np.abs(a - b).sum() / 2 / b.sum()),
        )


PARTS = {"score": scoring, "label": pseudo_labelling, "step": training_step, "evaluate": evaluation}


def run() -> list[Row]:
    """Run each part in its own process. In memory that other parts have fragmented, plain code is half as fast."""
    return [line for part in PARTS for line in json.loads(_output_of(part))]


def _output_of(part: str) -> str:
    return subprocess.run([sys.executable, __file__, part], stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("part", nargs="?", choices=list(PARTS), help="one of them, here; all by default")
    part = words.parse_args().part
    print(json.dumps(PARTS[part]() if part else run(), indent=2))
