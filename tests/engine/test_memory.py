"""Tests of the memory that a training is said to need."""

from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from stpp.engine.benchmark import CLASSES, memory_of_a_training
from stpp.engine.device import autocast
from stpp.engine.fit import supervised
from stpp.engine.losses import loss_of
from stpp.models.build import build
from stpp.params.file import load
from stpp.params.models import Loss, Model, Params

ROOT, CROP = Path(__file__).parents[2], 65


def params(model: Model, **train: object) -> Params:
    own = load([ROOT / "params.yaml"])
    weak = own.augment.weak.model_copy(update={"crop": CROP})
    return own.model_copy(
        update={
            "train": own.train.model_copy(update={"batch_size": 4, **train}),
            "model": model,
            "augment": own.augment.model_copy(update={"weak": weak}),
        }
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("loss", [Loss(), Loss(ohem=0.25, dice=1.0)], ids=["plain", "ohem and dice"])
def test_it_is_what_torch_allocates(precision: str, loss: Loss) -> None:
    model = Model.model_validate(
        {"network": "deeplabv3plus", "backbone": "resnet18", "weights": "none", "output_stride": 16}
        | {"precision": precision}
    )
    network = build(model, CLASSES).train()
    x, y = torch.randn(4, 3, CROP, CROP), torch.zeros(4, CROP, CROP, dtype=torch.long)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        with autocast(model, x.device):
            held = supervised(network, x, y, loss=loss_of(loss))
        del held
        with autocast(model, x.device):
            held = supervised(network, x, y, loss=loss_of(loss))
    assert held.requires_grad
    activations = sum(event.self_cpu_memory_usage for event in profiled.key_averages())
    weights = sum(4 * weight.numel() for weight in network.parameters())
    said = memory_of_a_training(params(model, loss=loss))
    assert said == pytest.approx(activations + 3 * weights, rel=0.03)


def test_what_saves_memory_and_what_takes_more() -> None:
    model = Model(network="deeplabv3plus_separable", backbone="tf_efficientnet_lite0", output_stride=16, weights="none")
    weights = sum(4 * weight.numel() for weight in build(model, CLASSES).parameters())
    one = memory_of_a_training(params(model))
    two, three = (memory_of_a_training(params(model, batch_size=4 * k)) for k in (2, 3))
    assert three - two == pytest.approx(two - one, rel=0.01)
    assert memory_of_a_training(params(model, batch_size=8, accumulate=2)) == one
    assert memory_of_a_training(params(model, optimizer="adamw")) == one + weights
    assert memory_of_a_training(params(model, ema=0.9)) == one + weights
    frozen = memory_of_a_training(params(model.model_copy(update={"freeze": True})))
    assert frozen < one / 2
