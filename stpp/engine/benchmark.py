"""Timing of training and prediction on the local hardware, from a few steps on synthetic images."""

import time

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from stpp.engine import device as devices
from stpp.engine.fit import supervised
from stpp.engine.losses import loss_of
from stpp.engine.optim import optimizer
from stpp.engine.predict import fold_batch_norms, normalized, single_pass
from stpp.models.build import build
from stpp.params.models import Model, Params

CLASSES = 21
SMALL = 2**18
"""Batches of at most this many pixels are measured whole."""


def seconds_of_an_iteration(params: Params) -> float:
    """Return the seconds that forward pass, backward pass and update take for a batch of crops, without data loading.

    Without a GPU, a large batch is not measured whole. Instead, as many images as take about a second are measured,
    with half the crop's sides, and the time is scaled by pixels. That is an estimate, not a benchmark.
    """
    where = devices.setup_device(params.runtime)
    parts = params.train.accumulate
    whole = params.train.batch_size // parts
    small = where.type == "cuda" or whole * params.augment.weak.crop**2 <= SMALL
    images, side = (whole, 1) if small else (2, 2)
    network = build(params.model, CLASSES).to(where).train()
    update = optimizer(network, params.train)
    while True:
        times = [_iteration(params, network, update, where, images, side) for _ in range(3)]  # the first one warms up
        seconds = min(times)
        if seconds > 1 or images == whole:
            return seconds * side**2 * whole / images * parts
        images = min(2 * images, whole)


def _iteration(
    params: Params, network: torch.nn.Module, update: torch.optim.Optimizer, where: torch.device, images: int, side: int
) -> float:
    crop = max(32, params.augment.weak.crop // side)
    x, y = torch.randn(images, 3, crop, crop, device=where), torch.zeros(images, crop, crop, dtype=torch.long)
    began = time.monotonic()
    with devices.autocast(params.model, where):
        loss = supervised(network, x, y.to(where))
    update.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    update.step()
    float(loss.detach())  # waits until a GPU is done
    return time.monotonic() - began


def seconds_of_an_image(params: Params, width: int, height: int) -> float:
    """Return the seconds that the prediction of one image takes at scale 1, without decoding.

    Larger images are measured at one megapixel, and the time is scaled by pixels.
    """
    where = devices.setup_device(params.runtime)
    scale = min(1.0, (2**20 / (width * height)) ** 0.5)
    size = (max(32, round(height * scale)), max(32, round(width * scale)))
    images = max(1, min(params.evaluate.batch_size, 2**20 // (size[0] * size[1])))
    network = fold_batch_norms(build(params.model, CLASSES).to(where), params.model)
    x = torch.zeros(images, 3, *size, dtype=torch.uint8, device=where)

    def once() -> float:
        began = time.monotonic()
        with torch.inference_mode(), devices.autocast(params.model, where):
            float(single_pass(network, normalized(x, network)).sum())  # waits until a GPU is done
        return time.monotonic() - began

    return float(min(once() for _ in range(2)) / images / scale**2)


def memory_of_a_training(params: Params) -> int:
    """Return the bytes that a training on masks holds at least: weights, gradients, optimiser, and what a batch saves.

    A batch (or its part with `train.accumulate`) saves activations for the backward pass. They are counted on tensors
    without data, so this takes seconds whatever the size. Short-lived memory of single layers comes on top.
    """
    train, crop = params.train, params.augment.weak.crop
    network, images = build(params.model, CLASSES).train(), train.batch_size // train.accumulate
    saved = dict[int, Tensor]()

    def save(tensor: Tensor) -> Tensor:
        if not (tensor.is_leaf and tensor.requires_grad):  # a weight
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True), saved_tensors_hooks(save, lambda tensor: tensor):
        x, y = torch.empty(images, 3, crop, crop), torch.zeros(images, crop, crop, dtype=torch.long)
        with devices.autocast(params.model, x.device):
            supervised(network, x, y, loss=loss_of(train.loss.model_copy(update={"class_weights": None})))
        activations = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    weights = [weight.numel() * weight.element_size() for weight in network.parameters()]
    trained = sum(size for size, weight in zip(weights, network.parameters(), strict=True) if weight.requires_grad)
    states = 1 + (2 if train.optimizer == "adamw" else 1)  # and the gradient
    return activations + sum(weights) * (1 if train.ema is None else 2) + trained * states


def size_of(model: Model) -> int:
    """Return the size of a checkpoint of `model` in bytes, with CLASSES classes."""
    with torch.device("meta"):
        return sum(v.numel() * v.element_size() for v in build(model, CLASSES).state_dict().values())
