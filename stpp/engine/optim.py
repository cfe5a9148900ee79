"""The optimiser with a learning rate for each part of the network, the poly schedule (paper, 4.1), averaged weights."""

from pkgutil import resolve_name
from typing import Any

from timm.models import group_parameters
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from stpp.engine.optimizers import OPTIMIZERS
from stpp.params.models import Train

Groups = list[dict[str, Any]]
"""Parameter groups, as torch's optimisers take them."""


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


def optimizer(network: nn.Module, train: Train, started: frozenset[str] = frozenset()) -> Optimizer:
    """Return the optimiser with two parameter groups: the backbone, and the head at a higher learning rate.

    The first group also holds all parameters of the head that are named in `started`, which were filled from trained
    weights. The authors' code does the same for DeepLabv2 from COCO. The second group holds the parameters of the head
    that start at random. Its learning rate is `head_lr_factor` times the first group's. With `layer_decay`, each stage
    of the backbone is a further group (see `depths`).
    """
    lr, depth = scaled_lr(train), depths(network) if train.layer_decay < 1 else {}
    groups: dict[tuple[bool, int], list[nn.Parameter]] = {(False, 0): [], (True, 0): []}
    for name, parameter in network.named_parameters():
        random = not (name.startswith("backbone.") or name in started)
        groups.setdefault((random, depth.get(name, 0)), []).append(parameter)
    rates = [
        {"params": some, "lr": lr * (train.head_lr_factor if random else train.layer_decay**below)}
        for (random, below), some in groups.items()
    ]
    made: Optimizer = resolve_name(OPTIMIZERS[train.optimizer])(rates, train)
    return made


def sgd(groups: Groups, train: Train) -> Optimizer:
    """Return SGD with momentum; `weight_decay` is an L2 penalty on all parameters (paper, 4.1)."""
    return SGD(groups, momentum=train.momentum, weight_decay=train.weight_decay)


def adamw(groups: Groups, train: Train) -> Optimizer:
    """Return AdamW; biases and the parameters of norms do not decay, as in timm."""
    parts = [
        group | {"params": [p for p in group["params"] if (p.ndim > 1) == decays], "weight_decay": decay}
        for group in groups
        for decays, decay in ((True, train.weight_decay), (False, 0.0))
    ]
    return AdamW(parts)


def depths(network: nn.Module) -> dict[str, int]:
    """Return for every parameter of the backbone, by name, how deep it lies below the head: 1 in the last stage.

    A stage is a part of the backbone that holds several layers, such as `layer1` of a ResNet. The layers before the
    first stage count as one. In a transformer, each block is a stage. The result is empty for a network without a
    backbone.
    """
    if isinstance(vit := getattr(getattr(network, "backbone", None), "vit", None), nn.Module):
        layers: dict[str, int] = group_parameters(vit, vit.group_matcher(), reverse=True)  # type: ignore[operator]
        return {f"backbone.vit.{name}": max(layers.values()) - layer + 1 for name, layer in layers.items()}
    parts = _parts("backbone", getattr(network, "backbone", nn.Module()))
    while sum(several := [not any(True for _ in part.parameters(recurse=False)) for _, part in parts]) == 1:
        at = several.index(True)  # all stages are in this part
        parts[at : at + 1] = _parts(*parts[at])
    return {
        f"{name}.{parameter}": sum(several[at + 1 :]) + 1
        for at, (name, part) in enumerate(parts)
        for parameter, _ in part.named_parameters()
    }


def _parts(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the parts of a module that have parameters, by the names that they have in the network."""
    parts = ((f"{name}.{child}", part) for child, part in module.named_children())
    return [(name, part) for name, part in parts if any(True for _ in part.parameters())]


def schedule(optimizer: Optimizer, total: int, warmup: float = 0.0) -> LambdaLR:
    """Return the poly schedule of an optimiser over `total` iterations.

    warmup: share of the iterations over which the rate also rises linearly.
    """
    rise = max(1.0, warmup * total)
    return LambdaLR(optimizer, lambda iteration: poly(iteration, total) * min(1.0, (iteration + 1) / rise))


class MovingAverage:
    """An exponential moving average of a network's weights and of batch norm's statistics, in `network`.

    Update i, counted from 0, keeps min(1 - 1/(i+1), decay) of the average. So it begins as the plain mean. Counters are
    copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._ema = ModelEmaV3(network, decay, use_warmup=True, warmup_power=1.0)
        self.network: nn.Module = self._ema.module.requires_grad_(False)
        self.updates = 0

    def update(self, network: nn.Module) -> None:
        self.updates += 1
        self._ema.update(network, step=self.updates)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]
