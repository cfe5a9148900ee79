"""How fast a setting trains here, from two iterations on noise."""

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

    Measured on 2 images of the batch where there is no GPU, and scaled: an estimate, good to a factor of about 1.5.
    """
    where = devices.start(params.runtime)
    images = params.train.batch_size if where.type == "cuda" else 2
    crop = params.augment.weak.crop
    network = build(params.model, CLASSES).to(where).train()
    sgd = optimizer(network, params.train)
    x, y = torch.randn(images, 3, crop, crop, device=where), torch.zeros(images, crop, crop, dtype=torch.long)
    took = []
    for _ in range(2):
        began = time.monotonic()
        with devices.precision(params.model, where):
            loss = supervised(network, x, y.to(where))
        sgd.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        sgd.step()
        float(loss.detach())  # waits for a GPU
        took.append(time.monotonic() - began)
    return took[-1] * params.train.batch_size / images


def size_of(model: Model) -> int:
    """Bytes of a checkpoint."""
    with torch.device("meta"):
        return sum(v.numel() * v.element_size() for v in build(model, CLASSES).state_dict().values())
