"""Tests of the poly schedule and the parameter groups against the formula in the paper."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stpp.engine.optim import optimizer, poly, scaled_lr, schedule
from stpp.models.deeplabv3plus import DeepLabV3Plus
from stpp.params.models import Train


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)


@settings(max_examples=50, deadline=None)
@given(total=st.integers(1, 200_000), data=st.data())
def test_poly_is_the_share_of_remaining_iterations_to_the_power_of_nine_tenths(total: int, data: st.DataObject) -> None:
    iteration = data.draw(st.integers(0, total))
    left = (total - iteration) / total
    assert poly(iteration, total) == pytest.approx(math.exp(0.9 * math.log(left)) if left else 0.0, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(total=st.integers(1, 1000))
def test_poly_starts_at_one_falls_with_every_iteration_and_ends_at_zero(total: int) -> None:
    factors = [poly(i, total) for i in range(total + 1)]
    assert factors[0] == 1
    assert factors[-1] == 0
    assert all(later < earlier for earlier, later in pairwise(factors))


@settings(max_examples=25, deadline=None)
@given(lr=st.floats(1e-5, 1), batch_size=st.integers(2, 256))
def test_the_learning_rate_is_proportional_to_the_batch_size_and_train_lr_at_16(lr: float, batch_size: int) -> None:
    assert scaled_lr(Train(lr=lr, batch_size=16)) == lr
    assert scaled_lr(Train(lr=lr, batch_size=batch_size)) / batch_size == pytest.approx(lr / 16)


@settings(max_examples=25, deadline=None)
@given(lr=st.floats(1e-5, 1), batch_size=st.integers(2, 64), factor=st.floats(0.1, 20), total=st.integers(20, 99))
def test_both_groups_follow_the_schedule_at_every_iteration_of_a_real_optimiser(
    lr: float, batch_size: int, factor: float, total: int
) -> None:
    network = Small()
    sgd = optimizer(network, Train(lr=lr, batch_size=batch_size, head_lr_factor=factor))
    follow = schedule(sgd, total)
    for iteration in range(20):
        base = lr * batch_size / 16 * (1 - iteration / total) ** 0.9
        backbone, head = (group["lr"] for group in sgd.param_groups)
        assert backbone == pytest.approx(base)
        assert head == pytest.approx(base * factor)
        network.head(network.backbone(torch.zeros(2, 3, 1, 1))).sum().backward()
        sgd.step()
        follow.step()


@settings(max_examples=25, deadline=None)
@given(momentum=st.floats(0, 1), decay=st.floats(0, 0.1))
def test_momentum_and_weight_decay_hold_for_both_groups(momentum: float, decay: float) -> None:
    sgd = optimizer(Small(), Train(momentum=momentum, weight_decay=decay))
    assert [(g["momentum"], g["weight_decay"], g["nesterov"], g["dampening"]) for g in sgd.param_groups] == [
        (momentum, decay, False, 0)
    ] * 2


def test_every_parameter_is_in_one_group_and_the_first_group_is_the_backbone() -> None:
    with torch.device("meta"):
        network = DeepLabV3Plus("resnet18", 3, 16)
    sgd = optimizer(network, Train())
    inside, outside = ({id(p) for p in group["params"]} for group in sgd.param_groups)
    assert sum(len(group["params"]) for group in sgd.param_groups) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        assert (id(parameter) in inside) == name.startswith("backbone."), name
        assert (id(parameter) in outside) != name.startswith("backbone."), name


def test_what_starts_from_trained_weights_learns_at_the_rate_of_the_backbone_and_the_rest_of_the_head_faster() -> None:
    network = Small()
    sgd = optimizer(network, Train(lr=0.1, batch_size=16, head_lr_factor=10.0), frozenset({"head.weight"}))
    rates = {id(p): group["lr"] for group in sgd.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == pytest.approx(1.0 if name == "head.bias" else 0.1), name
