"""Tests of the schedule, the parameter groups, the optimisers and averaged weights against formulas."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stpp.engine.optim import MovingAverage, optimizer, poly, scaled_lr, schedule
from stpp.models.backbone import backbone
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


@settings(max_examples=25, deadline=None)
@given(total=st.integers(1, 500), warmup=st.floats(0, 0.99))
def test_in_the_warm_up_the_rate_rises_linearly_and_then_it_is_poly(total: int, warmup: float) -> None:
    sgd = optimizer(Small(), Train(lr=1.0, batch_size=16))
    follow = schedule(sgd, total, warmup)
    for iteration in range(total):
        factor = min(1.0, (iteration + 1) / (warmup * total)) if warmup * total > 1 else 1.0
        assert sgd.param_groups[0]["lr"] == pytest.approx(poly(iteration, total) * factor)
        sgd.step()
        follow.step()


def test_adamw_equals_two_steps_by_hand_and_biases_and_norms_do_not_decay() -> None:
    torch.manual_seed(0)
    network = Small()
    hand = {name: p.detach().clone() for name, p in network.named_parameters()}
    train = Train(optimizer="adamw", lr=0.01, batch_size=16, head_lr_factor=3.0, weight_decay=0.2)
    adamw = optimizer(network, train)
    m, v = ({name: torch.zeros_like(p) for name, p in hand.items()} for _ in range(2))
    for step in (1, 2):
        adamw.zero_grad()
        network.head(network.backbone(torch.randn(2, 3, 4, 4))).square().sum().backward()
        for name, p in network.named_parameters():
            lr, decay = (
                0.03 if name.startswith("head") else 0.01,
                0.2 if name.endswith(("0.weight", "head.weight")) else 0,
            )
            m[name] = 0.9 * m[name] + 0.1 * p.grad
            v[name] = 0.999 * v[name] + 0.001 * p.grad**2
            rms = (v[name] / (1 - 0.999**step)).sqrt() + 1e-8
            hand[name] = hand[name] * (1 - lr * decay) - lr * m[name] / (1 - 0.9**step) / rms
        adamw.step()
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.detach(), hand[name], msg=name)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", [("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)]),
        ("test_resnet", [("features.conv1", "features.bn1"), *((f"features.layer{i}",) for i in (1, 2, 3, 4))]),
        (
            "tf_efficientnet_lite0",
            [("features.conv_stem", "features.bn1"), *((f"features.blocks.{i}",) for i in range(7))],
        ),
    ],
)
def test_each_stage_of_the_backbone_learns_slower_than_the_one_above(name: str, stages: list[tuple[str, ...]]) -> None:
    network = Small()
    with torch.device("meta"):
        network.backbone = backbone(name, 16)  # type: ignore[assignment]
    made = optimizer(network, Train(lr=0.1, batch_size=16, head_lr_factor=10.0, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    assert made.param_groups[0]["lr"] == 0.1, "the rate that is printed and logged"
    for parameter, p in network.named_parameters():
        below = next((at for at, some in enumerate(reversed(stages), 1) for one in some if f".{one}." in parameter), 0)
        expected = 0.1 * 0.5**below if parameter.startswith("backbone.") else 1.0
        assert rates[id(p)] == pytest.approx(expected), parameter
        assert (below > 0) == parameter.startswith("backbone."), parameter


def test_a_moving_average_equals_its_formula_also_for_running_statistics() -> None:
    """It keeps min(1 - 1/(i+1), decay) of the average: the plain mean at first."""
    torch.manual_seed(0)
    network = Small()
    average, seen, hand = MovingAverage(network, 0.7), [], {}
    for i in range(6):
        with torch.no_grad():
            for p in network.parameters():
                p.copy_(torch.randn_like(p))
        network.backbone(torch.randn(2, 3, 4, 4))
        seen.append(copy.deepcopy(network.state_dict()))
        average.update(network)
        kept = min(1 - 1 / (i + 1), 0.7)
        hand = {name: kept * hand.get(name, 0) + (1 - kept) * value for name, value in seen[-1].items()}
        for name, value in average.network.state_dict().items():
            expected = seen[-1][name] if name.endswith("num_batches_tracked") else hand[name]
            torch.testing.assert_close(value, expected, msg=name)
            if i < 3 and value.is_floating_point():
                torch.testing.assert_close(value, torch.stack([one[name] for one in seen]).mean(0), msg=name)
    assert not any(p.requires_grad for p in average.network.parameters())
