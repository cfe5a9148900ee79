"""Confusion matrix, IoU, mIoU, pixel accuracy and counts by confidence, as pure functions over tensors (paper, 4.1)."""

import torch
from torch import Tensor

from stpp.store.masks import IGNORE

LEVELS = 2**11
"""Confidence is rounded to multiples of 1 / LEVELS where pixels are counted by it: sums of integers are exact in any
order, and the counters fit into the shared memory of a GPU."""


def confusions(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """Return the confusion matrix of every image: pixels by (target, predicted) class, int64 (B, classes, classes).

    predicted, target: class ids (B, H, W) on one device; every predicted id is in [0, classes). Pixels whose target is
    255 are left out.
    """
    images, bins = len(target), classes * classes
    pairs = target.int() * classes + predicted.int()
    pairs = torch.where(target == IGNORE, bins, pairs) + torch.arange(images, device=target.device).mul(bins + 1).view(
        -1, 1, 1
    )
    counts = torch.bincount(pairs.flatten(), minlength=images * (bins + 1))
    return counts.reshape(images, bins + 1)[:, :bins].reshape(images, classes, classes)


def confusion(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """Return the confusion matrix of one image, int64 (classes, classes), from class ids (H, W) or of any shape."""
    return confusions(predicted.reshape(1, 1, -1), target.reshape(1, 1, -1), classes)[0]


def iou(matrix: Tensor) -> Tensor:
    """Return the intersection over union (IoU) of every class; NaN where the union is empty.

    matrix: confusion matrices (..., classes, classes). The result is float64 (..., classes) in [0, 1].
    """
    matrix = matrix.double()
    intersection = matrix.diagonal(dim1=-2, dim2=-1)
    union = matrix.sum(-2) + matrix.sum(-1) - intersection
    return intersection / union


def miou(matrix: Tensor) -> float:
    """Return the mean IoU over the classes whose union is not empty; NaN if there is no such class."""
    return float(iou(matrix).nanmean())


def pixel_accuracy(matrix: Tensor) -> float:
    """Return the fraction of valid pixels that are predicted correctly, in [0, 1]; NaN if no pixel is valid."""
    return float(matrix.diagonal().sum().double() / matrix.sum().double())


def confidence_counts(confidence: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
    """Return how many pixels of each confidence are wrong and right, int64 (LEVELS + 1, 2).

    confidence: the probability of the predicted class, in [0, 1]; predicted, target: class ids; all of one shape.
    Pixels whose target is 255 are left out.
    """
    level = (confidence * LEVELS).round_().int().clamp_(max=LEVELS)
    right = predicted == target
    at = torch.where(target == IGNORE, 2 * (LEVELS + 1), 2 * level + right)
    return torch.bincount(at.flatten(), minlength=2 * (LEVELS + 1) + 1)[:-1].view(LEVELS + 1, 2)


def image_means(values: Tensor, nodata: Tensor | None = None) -> list[float]:
    """Return the mean of every image's values (B, H, W), without pixels that have no data; 0 if all have none."""
    values = values.double()
    if nodata is None:
        return values.mean((1, 2)).tolist()
    return values.masked_fill(nodata, torch.nan).nanmean((1, 2)).nan_to_num(0).tolist()
