"""Pseudo labels: the arg max of the labelling network's probabilities (paper, 3.2 and 4.1).

With a threshold, only a part of the pixels is labelled (Appendix D).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpp.engine.metrics import image_means
from stpp.store.masks import IGNORE, Levels, Mask


def pseudo_masks(
    masks: Tensor, confidence: Tensor, threshold: float | None = None, nodata: Tensor | None = None
) -> tuple[NDArray[np.uint8], list[float]]:
    """Return the pseudo masks of a batch, uint8 (B, H, W), and the mean confidence of each image, in (0, 1].

    masks: the arg max, uint8 (B, H, W). confidence: its probability (B, H, W). Pixels of confidence below `threshold`
    become 255. Without a threshold, as in ST and ST++, all pixels are labelled. nodata: pixels (B, H, W) without data
    in the image; they become 255, too. The mean is over all other pixels.
    """
    if threshold is not None:
        masks = torch.where(confidence < threshold, IGNORE, masks)
    if nodata is not None:
        masks = torch.where(nodata, IGNORE, masks)
    return masks.cpu().numpy(), image_means(confidence, nodata)


def fill(kept: Mask, mask: Mask) -> Mask:
    """Return the mask `kept` (H, W) with its ignored pixels (255) filled from `mask`.

    This is phase 2 of pixel-level selection (paper, Appendix D).
    """
    return np.where(kept == IGNORE, mask, kept)


def soft_labels(levels: Levels, labels: Mask, kept: Levels | None) -> Levels:
    """Return the soft mask of an image (H, W, classes): the predicted `levels`, or those of `kept` where it has any.

    Pixels that `labels` (H, W) ignores have 0 for all classes.
    """
    if kept is not None:
        levels = np.where(kept.any(2, keepdims=True), kept, levels)
    return np.where((labels == IGNORE)[:, :, None], np.uint8(0), levels)
