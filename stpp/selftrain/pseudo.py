"""Pseudo labels: the arg max of a labeller's probabilities (paper, 3.2 and 4.1), or a part of it (Appendix D)."""

import numpy as np
import torch
from torch import Tensor

from stpp.masks import Mask
from stpp.params import IGNORE


def pseudo_mask(mask: Tensor, confidence: Tensor, threshold: float | None = None) -> tuple[Mask, float]:
    """The arg max, uint8 (H, W), and its probability (H, W) -> the pseudo mask, and the mean probability in (0, 1].

    Pixels whose winning probability is below `threshold` are 255; without one, as in ST and ST++, all are labelled.
    """
    if threshold is not None:
        mask = torch.where(confidence < threshold, IGNORE, mask)
    return mask.cpu().numpy(), float(confidence.double().mean())


def fill(kept: Mask, mask: Mask) -> Mask:
    """`kept` (H, W) where it has labels, and `mask` where it is 255: phase 2 of pixel-level selection (Appendix D)."""
    return np.where(kept == IGNORE, mask, kept)
