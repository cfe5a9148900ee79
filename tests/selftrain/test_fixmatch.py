"""Tests of FixMatch against its formula in NumPy, and of its averaged teacher."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small import torchrun
from torch import Tensor, nn

from stpp.params.models import Online
from stpp.selftrain.online.fixmatch import FixMatch

PARAMS = Online(method="fixmatch", threshold=0.6, weight=0.5, decay=0.75)


class Small(nn.Module):
    """A 1 x 1 convolution to three classes, and a batch norm, which differs between training and evaluation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.layer(x))
        return out


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(2, 3, 3, 4, 5, generator=generator)
    y = torch.randint(0, 3, (2, 2, 4, 5), generator=generator)
    y[:, 0, 0] = 255
    y[:, 1] = torch.where(torch.rand(2, 4, 5, generator=generator) < 0.3, 255, 0)
    return x, y


def probabilities(network: nn.Module, x: Tensor) -> NDArray[np.float64]:
    with torch.no_grad():
        logits = network(x).double().numpy()
    odds = np.exp(logits - logits.max(1, keepdims=True))
    found: NDArray[np.float64] = odds / odds.sum(1, keepdims=True)
    return found


def by_hand(network: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return (L_s + lambda L_u) / 2, pixel by pixel."""
    weak = probabilities(teacher.eval(), x[:, 1])
    both = probabilities(copy.deepcopy(network).train(), torch.cat([x[:, 0], x[:, 2]]))
    supervised, unsupervised, shown = list[float](), 0.0, 0
    for b in range(len(x)):
        for v, u in np.ndindex(*x.shape[3:]):
            if y[b, 0, v, u] != 255:
                supervised.append(-np.log(both[b, int(y[b, 0, v, u]), v, u]))
            if y[b, 1, v, u] != 255:
                shown += 1
                if weak[b, :, v, u].max() >= PARAMS.threshold:
                    unsupervised -= np.log(both[len(x) + b, weak[b, :, v, u].argmax(), v, u])
    return (sum(supervised) / len(supervised) + PARAMS.weight * unsupervised / shown) / 2


def test_the_loss_and_the_teacher_are_those_of_the_formula_over_several_iterations() -> None:
    network, step = Small(), FixMatch(PARAMS)
    teacher = copy.deepcopy(network)
    sgd = torch.optim.SGD(network.parameters(), lr=0.5)
    for i in range(6):
        x, y = batch(i)
        expected = by_hand(network, teacher, x, y)
        loss = step(network.train(), x, y, y)
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
        sgd.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        sgd.step()
        step.after(network)
        decay = min(1 - 1 / (i + 1), 0.75)
        with torch.no_grad():
            for ours, theirs in zip(teacher.state_dict().values(), network.state_dict().values(), strict=True):
                ours.copy_(decay * ours + (1 - decay) * theirs if ours.is_floating_point() else theirs)


def test_a_restored_step_goes_on_with_the_same_teacher() -> None:
    network, step = Small(), FixMatch(PARAMS)
    for seed in range(3):
        step(network, *batch(seed), batch(seed)[1])
        nn.init.normal_(network.layer.weight)
        step.after(network)
    state = copy.deepcopy(step.state_dict())
    again = FixMatch(PARAMS)
    again.load_state_dict(state)
    assert again.state_dict() is state, "a state that was not used yet is not lost"
    x, y = batch(9)
    assert torch.equal(step(network.eval(), x, y, y), again(network, x, y, y))
    for one in (step, again):
        one.after(network)
    a, b = step.state_dict()["network"], again.state_dict()["network"]
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_no_gradient_flows_through_the_weak_view_and_the_teacher() -> None:
    x, y = batch(2)
    step = FixMatch(PARAMS)
    step(Small(), x.requires_grad_(), y, y).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    labeled, weak, strong = x.grad.abs().sum((0, 2, 3, 4)).tolist()
    assert weak == 0 < min(labeled, strong)
    assert step.teacher is not None
    assert all(one.grad is None for one in step.teacher.network.parameters())


def test_all_processes_have_the_same_network_and_teacher() -> None:
    """The state of one process is saved, so with other teachers a resumed training would end with other weights.

    UniMatch is tested here, too, because processes start slowly.
    """
    output = torchrun(2, str(Path(__file__).with_name("part_of_online.py")))
    assert output.count("equal") == 3 * 2 and "different" not in output
