"""How fast a setting trains here, from a few iterations on noise."""

import time

import torch

from stpp.engine import device as devices
from stpp.engine.fit import supervised
from stpp.engine.optim import optimizer
from stpp.models.build import build
from stpp.params import Model, Params

CLASSES = 21


def seconds_of_an_iteration(params: Params) -> float:
    """Seconds that forward, backward and update take for a batch of crops, data loading not counted.

    Without a GPU measured on as much of the batch, of half the crop's sides, as takes about a second, and scaled by
    pixels: an estimate, no benchmark.
    """
    where = devices.start(params.runtime)
    images, side = (params.train.batch_size, 1) if where.type == "cuda" else (2, 2)
    network = build(params.model, CLASSES).to(where).train()
    sgd = optimizer(network, params.train)
    while True:
        seconds = min(_iteration(params, network, sgd, where, images, side) for _ in range(2))  # the first one warms up
        if seconds > 1 or images == params.train.batch_size:
            return seconds * side**2 * params.train.batch_size / images
        images = min(2 * images, params.train.batch_size)


def _iteration(
    params: Params, network: torch.nn.Module, sgd: torch.optim.Optimizer, where: torch.device, images: int, side: int
) -> float:
    crop = max(32, params.augment.weak.crop // side)
    x, y = torch.randn(images, 3, crop, crop, device=where), torch.zeros(images, crop, crop, dtype=torch.long)
    began = time.monotonic()
    with devices.precision(params.model, where):
        loss = supervised(network, x, y.to(where))
    sgd.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    sgd.step()
    float(loss.detach())  # waits for a GPU
    return time.monotonic() - began


def size_of(model: Model) -> int:
    """Bytes of a checkpoint."""
    with torch.device("meta"):
        return sum(v.numel() * v.element_size() for v in build(model, CLASSES).state_dict().values())
