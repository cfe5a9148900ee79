"""From images to class scores: one plain forward pass, or test-time augmentation (paper, 4.1)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpp.params import Label

Predict = Callable[[nn.Module, Tensor], Tensor]
"""(network, images (B, 3, H, W)) -> class probabilities (B, classes, H, W)."""


def plain(network: nn.Module, x: Tensor) -> Tensor:
    """One forward pass at the images' own size: probabilities (B, classes, H, W)."""
    return F.softmax(network(x).float(), dim=1)


def augmented(label: Label) -> Predict:
    """Softmax over scales, each also flipped, resized back and averaged (5 scales and a flip in the paper).

    Averaging has the arg max of the published sum, and leaves a probability.
    """

    def predict(network: nn.Module, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        total = torch.zeros((), device=x.device)
        for scale in label.scales:
            size = max(1, int(height * scale)), max(1, int(width * scale))
            scaled = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
            scores = plain(network, scaled)
            if label.flip:
                scores = scores + plain(network, scaled.flip(3)).flip(3)
            total = total + F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=True)
        return total / (len(label.scales) * (2 if label.flip else 1))

    return predict
