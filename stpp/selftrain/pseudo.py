"""Pseudo labels: the arg max of a labeller's probabilities, no threshold (paper, 3.2 and 4.1)."""

import torch
from torch import Tensor

from stpp.masks import Mask


def pseudo_mask(probabilities: Tensor) -> tuple[Mask, float]:
    """(classes, H, W) -> class ids uint8 (H, W), and the mean over pixels of the winning probability, in (0, 1]."""
    confidence, mask = probabilities.max(0)
    return mask.to(torch.uint8).cpu().numpy(), float(confidence.double().mean())
