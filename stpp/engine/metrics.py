"""Confusion matrix, IoU and mIoU: pure functions over tensors (paper, 4.1)."""

import torch
from torch import Tensor

from stpp.store.masks import IGNORE


def confusions(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """Pixels by (target, predicted) class of every image, int64 (B, classes, classes); target 255 is left out.

    predicted, target: class ids (B, H, W) on one device; every predicted id lies in [0, classes).
    """
    images, bins = len(target), classes * classes
    pairs = target.int() * classes + predicted.int()
    pairs = torch.where(target == IGNORE, bins, pairs) + torch.arange(images, device=target.device).mul(bins + 1).view(
        -1, 1, 1
    )
    counts = torch.bincount(pairs.flatten(), minlength=images * (bins + 1))
    return counts.reshape(images, bins + 1)[:, :bins].reshape(images, classes, classes)


def confusion(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """As `confusions`, of one image: (H, W), or any other shape, -> (classes, classes)."""
    return confusions(predicted.reshape(1, 1, -1), target.reshape(1, 1, -1), classes)[0]


def iou(matrix: Tensor) -> Tensor:
    """Intersection over union of every class: (..., classes, classes) -> float64 (..., classes) in [0, 1].

    NaN where the union is empty.
    """
    matrix = matrix.double()
    intersection = matrix.diagonal(dim1=-2, dim2=-1)
    union = matrix.sum(-2) + matrix.sum(-1) - intersection
    return intersection / union


def miou(matrix: Tensor) -> float:
    """Mean of the IoU over classes whose union is not empty; NaN if there is none."""
    return float(iou(matrix).nanmean())


def pixel_accuracy(matrix: Tensor) -> float:
    """Part of the valid pixels that is right, in [0, 1]; NaN if there are none."""
    return float(matrix.diagonal().sum().double() / matrix.sum().double())
