"""From images to class probabilities: one plain forward pass, sliding windows, test-time augmentation (paper, 4.1)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpp.params import Evaluate

Predict = Callable[[nn.Module, Tensor], Tensor]
"""(network, images (B, 3, H, W)) -> class probabilities (B, classes, H, W)."""


def plain(network: nn.Module, x: Tensor) -> Tensor:
    """One forward pass at the images' own size: probabilities (B, classes, H, W)."""
    return F.softmax(network(x).float(), dim=1)


def augmented(predict: Predict, scales: Sequence[float], flip: bool) -> Predict:
    """`predict` over scales, each also flipped, resized back and averaged (5 scales and a flip in the paper).

    Averaging has the arg max of the published sum, and leaves a probability.
    """

    def over_scales(network: nn.Module, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        total = torch.zeros((), device=x.device)
        for scale in scales:
            size = max(1, int(height * scale)), max(1, int(width * scale))
            scaled = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
            scores = predict(network, scaled)
            if flip:
                scores = scores + predict(network, scaled.flip(3)).flip(3)
            total = total + F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=True)
        return total / (len(scales) * (2 if flip else 1))

    return over_scales


def sliding(window: int, stride: int) -> Predict:
    """Square windows at a step of `stride` pixels, the last ones flush with the border; averaged where they overlap.

    An image is no smaller than needed: a side below `window` is one window of that side.
    """

    def over_windows(network: nn.Module, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        total, times = torch.zeros((), device=x.device), torch.zeros(height, width, device=x.device)
        for top in starts(height, window, stride):
            for left in starts(width, window, stride):
                box = slice(top, top + window), slice(left, left + window)
                scores = plain(network, x[:, :, *box])
                if not total.ndim:
                    total = scores.new_zeros(len(x), scores.shape[1], height, width)
                total[:, :, *box] += scores
                times[box] += 1
        return total / times

    return over_windows


def starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side, so that every pixel is in one: 0, stride, 2 stride, ..., side - window."""
    last = max(0, side - window)
    return [*range(0, last, stride), last]


def evaluation(evaluate: Evaluate) -> Predict:
    """The way of prediction that the parameters of evaluation name; whole images and one scale in the paper."""
    predict: Predict = plain
    if evaluate.window is not None:
        predict = sliding(evaluate.window, evaluate.step)
    if evaluate.scales != (1.0,) or evaluate.flip:
        predict = augmented(predict, evaluate.scales, evaluate.flip)
    return predict


def described(evaluate: Evaluate) -> str:
    """How an evaluation was done, for a person."""
    words = ["original resolution"]
    if evaluate.window is None:
        words.append("whole images")
    else:
        words.append(f"windows of {evaluate.window} at {evaluate.step}")
    scales = ", ".join(f"{s:g}" for s in evaluate.scales)
    augmented_ = evaluate.scales != (1.0,) or evaluate.flip
    words.append(f"scales {scales}{' and flip' if evaluate.flip else ''}" if augmented_ else "one scale")
    return ", ".join(words)
