"""SGD with a higher learning rate for the head, and the poly schedule (paper, 4.1)."""

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from stpp.params.models import Train


def scaled_lr(train: Train) -> float:
    """Return the backbone's base learning rate, scaled linearly by the batch size.

    `train.lr` is for a batch size of 16, that of the authors' code.
    """
    return train.lr * train.batch_size / 16


def poly(iteration: int, total: int) -> float:
    """Return the factor on the base learning rate, (1 - iter / total) ** 0.9 (paper, 4.1).

    iteration: counted from 0.
    """
    return float((1 - iteration / total) ** 0.9)


def optimizer(network: nn.Module, train: Train, started: frozenset[str] = frozenset()) -> SGD:
    """Return SGD with two parameter groups: the backbone, and the head at a higher learning rate.

    The first group also holds all parameters of the head that are named in `started`, which were filled from trained
    weights. The authors' code does the same for DeepLabv2 from COCO. The second group holds the parameters of the head
    that start at random. Its learning rate is `head_lr_factor` times the first group's.
    """
    calm, random = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in network.named_parameters():
        (calm if name.startswith("backbone.") or name in started else random).append(parameter)
    lr = scaled_lr(train)
    return torch.optim.SGD(
        [{"params": calm, "lr": lr}, {"params": random, "lr": lr * train.head_lr_factor}],
        momentum=train.momentum,
        weight_decay=train.weight_decay,
    )


def schedule(optimizer: SGD, total: int) -> LambdaLR:
    """Return the poly schedule of an optimiser over `total` iterations."""
    return LambdaLR(optimizer, lambda iteration: poly(iteration, total))
