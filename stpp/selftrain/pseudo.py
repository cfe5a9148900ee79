"""Pseudo labels: the arg max of a labeller's probabilities (paper, 3.2 and 4.1), or a part of it (Appendix D)."""

import numpy as np
import torch
from torch import Tensor

from stpp.masks import Mask
from stpp.params import IGNORE


def pseudo_mask(probabilities: Tensor, threshold: float | None = None) -> tuple[Mask, float]:
    """(classes, H, W) -> class ids uint8 (H, W), and the mean over pixels of the winning probability, in (0, 1].

    Pixels whose winning probability is below `threshold` are 255; without one, as in ST and ST++, all are labelled.
    """
    confidence, mask = probabilities.max(0)
    mask = mask.to(torch.uint8)
    if threshold is not None:
        mask[confidence < threshold] = IGNORE
    return mask.cpu().numpy(), float(confidence.double().mean())


def fill(kept: Mask, mask: Mask) -> Mask:
    """`kept` (H, W) where it has labels, and `mask` where it is 255: phase 2 of pixel-level selection (Appendix D)."""
    return np.where(kept == IGNORE, mask, kept)
