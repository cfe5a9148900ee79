"""ST++ on own tensors and DataLoaders, without DVC, MLflow or files: `from stpp.api import fit, predict, ...`."""

import copy
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import chain, islice, repeat
from typing import Protocol

import torch
from torch import Tensor, nn

from stpp.data.transforms import normalize, strong, weak
from stpp.engine.fit import Hooks, Trainer
from stpp.engine.metrics import confusion, iou, miou
from stpp.engine.predict import augmented, plain
from stpp.models.build import build
from stpp.params.models import Model, Strong, Train, Weak
from stpp.selftrain.selection import select
from stpp.selftrain.stability import stability
from stpp.store.files import StppError

__all__ = [
    "Model",
    "Strong",
    "Train",
    "Weak",
    "build",
    "confusion",
    "fit",
    "iou",
    "miou",
    "normalize",
    "predict",
    "select",
    "stability",
    "strong",
    "weak",
]


class Batches(Sized, Iterable[Sequence[Tensor]], Protocol):
    """A DataLoader, or a list of batches: x float32 (B, 3, H, W), y int64 (B, H, W) with 255 to be ignored."""


def fit(network: nn.Module, batches: Batches, train: Train, *, device: str = "cpu") -> list[nn.Module]:
    """Train `network` in place as ST++ trains a teacher or student (paper, 4.1); copies f_1 .. f_K of it on the way.

    `batches` is gone through once an epoch; a student's has images with pseudo masks beside the labelled ones. Used of
    `train` are epochs or iterations, checkpoints (K), momentum, weight_decay and, times batch_size / 16, lr, at which
    learns what lies in a module named `backbone`; the rest learns head_lr_factor times as fast. Raises ValueError for
    no batch, and if the loss is no number.
    """
    if not len(batches):
        raise ValueError("`batches` is empty: fewer images than a batch, with drop_last?")
    kept: list[nn.Module] = []

    class Copies(Hooks):
        def checkpoint(self, which: str, network: nn.Module) -> None:
            kept.append(copy.deepcopy(network).eval())

    where = torch.device(device)
    trainer = Trainer(network, train, len(batches), model=Model(), device=where, role="network")
    try:
        trainer.fit(islice(chain.from_iterable(repeat(batches)), trainer.ends[-1]), Copies())
    except StppError as error:
        raise ValueError(str(error)) from None
    network.eval()
    return kept


def predict(
    network: nn.Module,
    images: Iterable[Tensor],
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    device: str = "cpu",
) -> Iterator[Tensor]:
    """Class probabilities (classes, H, W) of every image, in order; the arg max over classes is its mask.

    images: normalised, (3, H, W) of any size each. scales, flip: test-time augmentation; pseudo labels in the paper
    take (0.5, 0.75, 1.0, 1.5, 2.0) and the flip, stability takes neither (paper, 3.4 and 4.1).
    """
    way = augmented(plain, scales, flip) if flip or tuple(scales) != (1.0,) else plain
    network.to(device).eval()
    for image in images:
        with torch.inference_mode():
            out = way(network, image.unsqueeze(0).to(device))[0].cpu()
        yield out
