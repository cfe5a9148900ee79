"""Pseudo labels: the arg max of a labeller's probabilities (paper, 3.2 and 4.1), or a part of it (Appendix D)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpp.store.masks import IGNORE, Mask


def pseudo_masks(
    masks: Tensor, confidence: Tensor, threshold: float | None = None
) -> tuple[NDArray[np.uint8], list[float]]:
    """The arg max of a batch, uint8 (B, H, W), and its probability (B, H, W) -> pseudo masks, and mean probabilities.

    Pixels whose winning probability is below `threshold` are 255; without one, as in ST and ST++, all are labelled.
    The means are over the pixels of each image, in (0, 1].
    """
    if threshold is not None:
        masks = torch.where(confidence < threshold, IGNORE, masks)
    return masks.cpu().numpy(), confidence.double().mean((1, 2)).tolist()


def fill(kept: Mask, mask: Mask) -> Mask:
    """`kept` (H, W) where it has labels, and `mask` where it is 255: phase 2 of pixel-level selection (Appendix D)."""
    return np.where(kept == IGNORE, mask, kept)
