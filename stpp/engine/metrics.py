"""Confusion matrix, IoU and mIoU: pure functions over tensors (paper, 4.1)."""

import torch
from torch import Tensor

from stpp.params import IGNORE


def confusion(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """Pixels by (target, predicted) class, int64 (classes, classes); pixels with target 255 are left out.

    predicted, target: class ids of the same shape; every predicted id lies in [0, classes).
    """
    valid = target != IGNORE
    pairs = target[valid].long() * classes + predicted[valid].long()
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou(matrix: Tensor) -> Tensor:
    """Intersection over union of every class, float64 (classes,) in [0, 1]; NaN where the union is empty."""
    matrix = matrix.double()
    intersection = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - intersection
    return intersection / union


def miou(matrix: Tensor) -> float:
    """Mean of the IoU over classes whose union is not empty; NaN if there is none."""
    return float(iou(matrix).nanmean())


def pixel_accuracy(matrix: Tensor) -> float:
    """Part of the valid pixels that is right, in [0, 1]; NaN if there are none."""
    return float(matrix.diagonal().sum().double() / matrix.sum().double())
