"""SGD with a faster head, and the poly schedule (paper, 4.1)."""

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from stpp.params.models import Train


def scaled_lr(train: Train) -> float:
    """The backbone's base learning rate at this batch size: linear in it, 16 being the published one [code]."""
    return train.lr * train.batch_size / 16


def poly(iteration: int, total: int) -> float:
    """(1 - iter / total) ** 0.9, the factor on the base learning rate at an iteration counted from 0 (paper, 4.1)."""
    return float((1 - iteration / total) ** 0.9)


def optimizer(network: nn.Module, train: Train, started: frozenset[str] = frozenset()) -> SGD:
    """SGD over two groups: the backbone with what else is named in `started`, and the rest of the head, still random.

    The second learns at `head_lr_factor` times the first's rate; a head that starts from trained weights does not, as
    the authors' code has it for DeepLabv2 from COCO.
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
    return LambdaLR(optimizer, lambda iteration: poly(iteration, total))
