"""Losses of logits and masks: cross entropy (paper, 4.1), and with it class weights, hard pixels (OHEM) and Dice."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stpp.params.models import Loss as Chosen
from stpp.run.distributed import all_reduce, world_size
from stpp.store.masks import IGNORE

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, y, whole) -> the loss: logits (B, classes, H, W), y int64 (B, H, W), whole: y of the whole batch.

y may also hold the probabilities of all classes as levels, uint8 (B, classes, H, W) that add up to 255, or to 0 at
ignored pixels: the loss is then the cross entropy against these. logits and y are a part of the batch
(`train.accumulate`) or all of it. The losses of the parts add up to the batch's.
"""


def loss_of(chosen: Chosen, weights: Sequence[float] | None = None) -> Loss:
    """Return the loss that `train.loss` asks for: `cross_entropy` itself if all of it is off.

    weights: of every class; see `by_frequency`. All means are over the whole batch, also of several processes.
    """
    if weights is None and chosen.ohem is None and not chosen.dice:
        return cross_entropy
    weight = None if weights is None else torch.tensor(weights)

    def loss(logits: Tensor, y: Tensor, whole: Tensor) -> Tensor:
        logits, by_class = logits.float(), None if weight is None else weight.to(logits.device)
        each = _cross_entropies(logits, y, by_class)
        if chosen.ohem is None:
            out = mean_over(each.sum(), _valid(whole))
        else:
            out = mean_over_hard(each, y, whole, chosen.ohem)
        return out + chosen.dice * dice(logits, _class_ids(y), _class_ids(whole)) if chosen.dice else out

    return loss


def cross_entropy(logits: Tensor, y: Tensor, whole: Tensor | None = None) -> Tensor:
    """Return L_ce, the mean cross entropy over the pixels of y that are not 255; 0 if there are none.

    logits (B, classes, H, W), y: see `Loss`. whole: see `Loss`; default: y. For the mean over several processes, see
    `mean_over`.
    """
    return mean_over(_cross_entropies(logits.float(), y, reduction="sum"), _valid(y if whole is None else whole))


def _cross_entropies(logits: Tensor, y: Tensor, weight: Tensor | None = None, reduction: str = "none") -> Tensor:
    """Return the cross entropy of every pixel (B, H, W), 0 where y is ignored, or their sum. y: see `Loss`."""
    if y.ndim == 3:
        return F.cross_entropy(logits, y, weight, ignore_index=IGNORE, reduction=reduction)
    return F.cross_entropy(logits, y.float() / 255, weight, reduction=reduction)


def _valid(y: Tensor) -> Tensor:
    """Return which pixels of y are not ignored, bool (B, H, W). y: see `Loss`."""
    return y != IGNORE if y.ndim == 3 else (y > 0).any(1)


def _class_ids(y: Tensor) -> Tensor:
    """Return y (see `Loss`) as class ids, int64 (B, H, W): levels become the most likely class, or 255."""
    return y if y.ndim == 3 else torch.where(_valid(y), y.argmax(1), IGNORE)


def mean_over(total: Tensor, shown: Tensor) -> Tensor:
    """Return a sum over pixels divided by the number of pixels that count, which is taken as 1 if it is 0.

    shown: bool, the pixels that count, or how many they are. With several processes, the divisor is the mean number per
    process. Gradients are averaged over the processes, so the result is the mean over all pixels of the whole batch.
    """
    return total / (all_reduce(shown.sum()) / world_size()).clamp(min=1 / world_size())


def mean_over_hard(each: Tensor, y: Tensor, whole: Tensor, share: float) -> Tensor:
    """Return the mean loss of the hardest pixels: of each image, the `share` of its valid pixels with the highest loss.

    each: loss by pixel, (B, H, W), 0 where y is ignored. share: in (0, 1]; the number of pixels is rounded up.
    """

    def kept(y: Tensor) -> Tensor:
        return (_valid(y).flatten(1).sum(1).double() * share).ceil().long()

    hardest = each.flatten(1).sort(dim=1, descending=True).values
    taken = torch.arange(hardest.shape[1], device=y.device) < kept(y)[:, None]
    return mean_over((hardest * taken).sum(), kept(whole))


def dice(logits: Tensor, y: Tensor, whole: Tensor) -> Tensor:
    """Return the Dice loss, the mean of 1 - 2 sum(p t) / (sum(p) + sum(t)) over all classes that each image shows.

    p: probabilities. t: 1 where the mask has the class, else 0. The sums are over the valid pixels of an image.
    """
    p, t = logits.softmax(1) * (y != IGNORE)[:, None], _by_class(y, logits.shape[1])
    # Where t is 0 everywhere, the sum of p may be 0, too; other sums are at least 1.
    overlap = 2 * (p * t).sum((2, 3)) / (p.sum((2, 3)) + t.sum((2, 3))).clamp(min=1)
    shown = t.flatten(2).any(2)
    return mean_over(((1 - overlap) * shown).sum(), _by_class(whole, logits.shape[1]).flatten(2).any(2))


def _by_class(y: Tensor, classes: int) -> Tensor:
    """Return for masks (B, H, W) where each class is: bool (B, classes, H, W)."""
    return y[:, None] == torch.arange(classes, device=y.device)[:, None, None]


def by_frequency(pixels: Sequence[int]) -> list[float]:
    """Return a weight for every class: the rarer a class, the higher, at most 35 times that of a class that is all.

    The weight is 1 / ln(1.02 + f), where f is the class's share of the pixels, as in ENet (Paszke et al., 2016). The
    weights are scaled so that their mean over the pixels is 1. pixels: number of pixels of each class.
    """
    shares = [count / max(1, sum(pixels)) for count in pixels]
    raw = [1 / math.log(1.02 + share) for share in shares]
    mean = sum(share * weight for share, weight in zip(shares, raw, strict=True)) or 1.0
    return [weight / mean for weight in raw]
