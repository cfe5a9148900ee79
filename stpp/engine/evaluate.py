"""Prediction and evaluation over a list of images, with one confusion matrix over all of them (paper, 4.1)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stpp.data.prediction import Batch
from stpp.engine.device import autocast
from stpp.engine.metrics import confusions, iou, miou, pixel_accuracy
from stpp.engine.predict import MaskPredictor
from stpp.params.models import Model
from stpp.run import distributed
from stpp.store.files import StppError

NOT_FINITE = (
    "the network's probabilities are not finite (numerical overflow); train it with a lower train.lr, or in float32"
)


@dataclass(frozen=True)
class Scores:
    """The scores of a confusion matrix in percent, or NaN where a class never occurs."""

    matrix: Tensor
    """Pixels by (target, predicted) class, int64 (classes, classes)."""

    @property
    def miou(self) -> float:
        return 100 * miou(self.matrix)

    @property
    def pixel_accuracy(self) -> float:
        return 100 * pixel_accuracy(self.matrix)

    @property
    def iou(self) -> list[float]:
        return (100 * iou(self.matrix)).tolist()


@dataclass(frozen=True)
class BatchMasks:
    """The predictions of K networks for one batch; all tensors are on the networks' device."""

    ids: list[str]
    masks: Tensor
    """Predicted class ids, uint8 (K, B, H, W)."""
    confidence: Tensor
    """The last network's probability of the class it predicts, float32 (B, H, W)."""
    truth: Tensor | None
    """True class ids, uint8 (B, H, W); None if the loader yields no masks."""
    by: tuple[Tensor, ...] = ()
    """The values of each criterion of `decide` for the last network's probabilities, each (B, H, W)."""


def predict_batches(
    networks: Sequence[nn.Module], loader: Iterable[Batch], model: Model, device: torch.device, decide: MaskPredictor
) -> Iterator[BatchMasks]:
    """Yield the predictions of every network, batch by batch, in the loader's order.

    decide: how masks are predicted. Raises StppError that names an image whose probabilities are not finite.
    """
    for network in networks:
        network.eval()
    for ids, *tensors in loader:
        # These contexts must not stay open over the yield. They would apply to the caller's code, too, and could stay
        # on for good if two generators were read in turn.
        with torch.inference_mode(), autocast(model, device):
            pixels = tensors[0].to(device, non_blocking=True)
            found = [decide(network, pixels) for network in networks]
            sound = torch.stack([one.confidence.isfinite().all((1, 2)) for one in found]).all(0)
        if not sound.all():
            i = ids[int(sound.int().argmin())]
            raise StppError(f"{i}: {NOT_FINITE}")
        masks, last = torch.stack([one.mask for one in found]), found[-1]
        truth = tensors[1].to(device, non_blocking=True) if tensors[1:] else None
        yield BatchMasks(ids, masks, last.confidence, truth, last.by)


def evaluate(
    network: nn.Module,
    loader: Iterable[Batch],
    classes: int,
    model: Model,
    device: torch.device,
    decide: MaskPredictor,
    seen: Callable[[BatchMasks, Tensor], None] = lambda _, __: None,
) -> Scores:
    """Return the scores over all images of a loader with true masks; with several processes, over the images of all.

    decide: how masks are predicted. seen: called for every batch with its predictions and the confusion matrices of its
    images, (B, classes, classes).
    """
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    for decided in predict_batches([network], loader, model, device, decide):
        assert decided.truth is not None
        by_image = confusions(decided.masks[0], decided.truth, classes)
        matrix += by_image.sum(0)
        seen(decided, by_image)
    return Scores(distributed.all_reduce(matrix).cpu())
