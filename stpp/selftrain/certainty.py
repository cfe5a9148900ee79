"""How certain a network is of a pixel, by the probabilities of all classes. Not of the paper."""

import math

import torch
from torch import Tensor


def entropy(p: Tensor) -> Tensor:
    """1 - H(p) / log C: probabilities (B, C, H, W) -> (B, H, W) in [0, 1]; 0 where all classes are equally likely."""
    of_all: Tensor = torch.special.xlogy(p, p).sum(1)
    return 1 + of_all / math.log(max(2, p.shape[1]))


def margin(p: Tensor) -> Tensor:
    """How far the likeliest class is before the second: probabilities (B, C, H, W) -> (B, H, W) in [0, 1]."""
    first, second = p.topk(2, dim=1).values.unbind(1)
    return first - second
