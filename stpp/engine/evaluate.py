"""A network on a list of images: one confusion matrix over all of them (paper, 4.1)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stpp.data.datasets import Photos
from stpp.engine.device import precision
from stpp.engine.metrics import confusion, iou, miou, pixel_accuracy
from stpp.engine.predict import Predict, plain
from stpp.params import Model


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; every number in [0, 1], NaN where a class never occurs."""

    matrix: Tensor

    @property
    def miou(self) -> float:
        return miou(self.matrix)

    @property
    def pixel_accuracy(self) -> float:
        return pixel_accuracy(self.matrix)

    @property
    def iou(self) -> list[float]:
        return [float(v) for v in iou(self.matrix)]


def predictions(
    network: nn.Module,
    loader: Iterable[tuple[list[str], Tensor]],
    model: Model,
    device: torch.device,
    predict: Predict = plain,
) -> Iterator[tuple[str, Tensor]]:
    """(id, class probabilities float32 (classes, H, W) on `device`) of every image, in the loader's order."""
    network.eval()
    for ids, images in loader:
        # Never held over a yield: it would govern the caller, and outlive two generators read in turn.
        with torch.inference_mode(), precision(model, device):
            probabilities = predict(network, images.to(device, memory_format=torch.channels_last))
        yield from zip(ids, probabilities, strict=True)


def evaluate(
    network: nn.Module,
    loader: Iterable[tuple[list[str], Tensor]],
    photos: Photos,
    model: Model,
    device: torch.device,
) -> Scores:
    """One plain forward pass at original resolution, against the true masks of `photos`."""
    classes = len(photos.dataset.classes)
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for name, probabilities in predictions(network, loader, model, device):
        matrix += confusion(probabilities.argmax(0).cpu(), torch.from_numpy(photos.mask(name)), classes)
    return Scores(matrix)
