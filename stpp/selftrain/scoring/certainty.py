"""Measures of how certain a network is of a pixel, from the probabilities of all classes. They are not in the paper."""

import math

import torch
from torch import Tensor


def entropy(p: Tensor) -> Tensor:
    """Return 1 - H(p) / log C for every pixel: probabilities (B, C, H, W) -> (B, H, W) in [0, 1].

    It is 0 where all classes are equally likely.
    """
    of_all: Tensor = torch.special.xlogy(p, p).sum(1)
    return 1 + of_all / math.log(max(2, p.shape[1]))


def margin(p: Tensor) -> Tensor:
    """Return the probability of the most likely class minus that of the second most likely one, for every pixel.

    Probabilities (B, C, H, W) -> (B, H, W) in [0, 1].
    """
    first, second = p.topk(2, dim=1).values.unbind(1)
    return first - second
