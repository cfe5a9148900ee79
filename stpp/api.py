"""The Python API: ST++ on your own tensors and DataLoaders, without DVC, MLflow or files.

Usage: `from stpp.api import fit, predict, ...`.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import partial
from itertools import chain, islice, repeat
from typing import Protocol

import torch
from torch import Tensor, nn

from stpp.data.transforms import normalize, strong, weak
from stpp.engine.fit import Hooks, Trainer, supervised
from stpp.engine.losses import loss_of
from stpp.engine.metrics import confusion, iou, miou
from stpp.engine.predict import single_pass, with_tta
from stpp.models.build import build
from stpp.params.models import Loss, Model, Strong, Train, Weak
from stpp.selftrain.scoring.stability import stability
from stpp.selftrain.selection import select
from stpp.store.files import StppError

__all__ = [
    "Loss",
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
    """A DataLoader or list of batches (x, y): x float32 (B, 3, H, W), y int64 (B, H, W), where 255 is ignored."""


def fit(network: nn.Module, batches: Batches, train: Train, *, device: str = "cpu") -> list[nn.Module]:
    """Train `network` in place as ST++ trains a teacher or student (paper, 4.1); return its checkpoints f_1 .. f_K.

    The checkpoints are copies of the network, in evaluation mode; f_K is the trained network. An epoch is one pass
    through `batches`. For a student, the batches hold images with pseudo masks beside the labelled images.

    All of `train` counts but seed and keep; val_points only affects when checkpoints are kept. The learning rate is lr
    times batch_size / 16 for parameters in a module named `backbone`, and head_lr_factor times that for all others.
    With ema, the network ends as the average.

    Raises ValueError if there are no batches, if loss.class_weights is `frequency` (give numbers), or if the loss or a
    weight is not finite.
    """
    weights = train.loss.class_weights
    if weights == "frequency":
        raise ValueError("`loss.class_weights: frequency` counts the masks of a split; give a number for every class")
    if not len(batches):
        raise ValueError("`batches` is empty; with drop_last, it needs at least one full batch of images")
    kept: list[nn.Module] = []

    class Copies(Hooks):
        def checkpoint(self, which: str, network: nn.Module) -> None:
            kept.append(copy.deepcopy(network).eval())

    where = torch.device(device)
    step = partial(supervised, loss=loss_of(train.loss, weights))
    trainer = Trainer(network, train, len(batches), model=Model(), device=where, role="network", step=step)
    try:
        trainer.fit(islice(chain.from_iterable(repeat(batches)), trainer.ends[-1]), Copies())
    except StppError as error:
        raise ValueError(str(error)) from None
    if trainer.average:
        network.load_state_dict(trainer.kept.state_dict())
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
    """Yield the class probabilities (classes, H, W) of each image, in order and on the CPU.

    The arg max over classes is the image's mask. images: normalised, (3, H, W), each of any size. scales, flip:
    test-time augmentation. The paper uses scales (0.5, 0.75, 1.0, 1.5, 2.0) and the flip for pseudo labels, and neither
    for stability (paper, 3.4 and 4.1). The network is moved to `device` and put in evaluation mode.
    """
    way = with_tta(single_pass, scales, flip) if flip or tuple(scales) != (1.0,) else single_pass
    network.to(device).eval()
    for image in images:
        with torch.inference_mode():
            out = way(network, image.unsqueeze(0).to(device))[0].cpu()
        yield out
