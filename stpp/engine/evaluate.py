"""A network on a list of images: one confusion matrix over all of them (paper, 4.1)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stpp.data.loaders import Batch
from stpp.engine.device import precision
from stpp.engine.metrics import confusions, iou, miou, pixel_accuracy
from stpp.engine.predict import MaskPredictor
from stpp.params.models import Model
from stpp.run import distributed
from stpp.store.files import StppError

NOT_FINITE = (
    "the network's probabilities are not finite: its numbers overflow; train it with a lower train.lr, or in float32"
)


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
    def constant(self) -> int | None:
        """The class that is predicted for every pixel, where it is one and others would have been right, too."""
        predicted, true = self.matrix.sum(0).nonzero(), self.matrix.sum(1).nonzero()
        return int(predicted[0]) if len(predicted) == 1 < len(true) else None

    @property
    def iou(self) -> list[float]:
        return [float(v) for v in iou(self.matrix)]


@dataclass(frozen=True)
class BatchMasks:
    """What K networks say of a batch; all tensors on the device of the networks."""

    ids: list[str]
    masks: Tensor
    """Class ids, uint8 (K, B, H, W)."""
    confidence: Tensor
    """The winning probability of the last network, float32 (B, H, W)."""
    truth: Tensor | None
    """True class ids, uint8 (B, H, W), where the loader has them."""
    by: tuple[Tensor, ...] = ()
    """What each criterion of `decide` says of the last network's probabilities, (B, H, W)."""


def predict_batches(
    networks: Sequence[nn.Module], loader: Iterable[Batch], model: Model, device: torch.device, decide: MaskPredictor
) -> Iterator[BatchMasks]:
    """What every network decides, batch by batch in the loader's order.

    Raises StppError naming an image whose probabilities are no finite numbers.
    """
    for network in networks:
        network.eval()
    for ids, *tensors in loader:
        # Never held over a yield: it would govern the caller, and outlive two generators read in turn.
        with torch.inference_mode(), precision(model, device):
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
    """The confusion matrix over all images of a loader with true masks; of several processes, over those of all.

    seen: called with what was decided of every batch, and the confusion matrix of each of its images.
    """
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    for decided in predict_batches([network], loader, model, device, decide):
        assert decided.truth is not None
        by_image = confusions(decided.masks[0], decided.truth, classes)
        matrix += by_image.sum(0)
        seen(decided, by_image)
    return Scores(distributed.all_reduce(matrix).cpu())
