"""Tests of online labelling against Eq. 1 of the paper, pixel by pixel."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stpp.params.models import Online
from stpp.selftrain.online.labelling import OnlineLabelling


class Linear(nn.Module):
    """A 1 x 1 convolution to the logits of three classes. It records the batch size of every call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 1)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        out: Tensor = self.layer(x)
        return out


def batch(seed: int, sharpness: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = sharpness * torch.randn(2, 3, 3, 4, 5, generator=generator)
    y = torch.randint(0, 3, (2, 2, 4, 5), generator=generator)
    y[:, 0, 0] = 255
    y[:, 1] = torch.where(torch.rand(2, 4, 5, generator=generator) < 0.3, 255, 0)
    return x, y


def by_hand(network: Linear, x: Tensor, y: Tensor, threshold: float, weight: float) -> float:
    weights, bias = network.layer.weight[:, :, 0, 0].tolist(), network.layer.bias.tolist()

    def probabilities(pixel: list[float]) -> list[float]:
        logits = [sum(w * v for w, v in zip(row, pixel, strict=True)) + b for row, b in zip(weights, bias, strict=True)]
        total = sum(math.exp(logit) for logit in logits)
        return [math.exp(logit) / total for logit in logits]

    supervised, labeled, unsupervised, shown = 0.0, 0, 0.0, 0
    for b in range(2):
        for v in range(4):
            for u in range(5):
                one, weak, strong = (probabilities(x[b, view, :, v, u].tolist()) for view in range(3))
                if y[b, 0, v, u] != 255:
                    supervised -= math.log(one[int(y[b, 0, v, u])])
                    labeled += 1
                if y[b, 1, v, u] != 255:
                    shown += 1
                    if max(weak) >= threshold:
                        unsupervised -= math.log(strong[weak.index(max(weak))])
    return supervised / labeled + weight * unsupervised / shown


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.0, 0.6, 0.95]), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_loss_equals_eq_1(seed: int, threshold: float, weight: float) -> None:
    network, (x, y) = Linear(), batch(seed)
    loss = OnlineLabelling(Online(threshold=threshold, weight=weight))(network, x, y, y)
    assert float(loss.detach()) == pytest.approx(by_hand(network, x, y, threshold, weight), rel=1e-4)


def test_labelled_and_weak_views_share_a_forward_pass_and_strong_views_have_their_own() -> None:
    network, (x, y) = Linear(), batch(1)
    OnlineLabelling(Online())(network, x, y, y)
    assert network.batches == [4, 2]


def test_no_gradient_flows_through_the_weak_view() -> None:
    x, y = batch(2)
    x.requires_grad_()
    OnlineLabelling(Online(threshold=0.4))(Linear(), x, y, y).backward()
    labeled, weak, strong = x.grad.abs().sum((0, 2, 3, 4)).tolist()
    assert weak == 0
    assert labeled > 0
    assert strong > 0


def test_hidden_pixels_of_the_strong_view_do_not_change_the_loss() -> None:
    x, y = batch(3)
    hidden = y[:, 1] == 255
    other = x.clone()
    other[:, 2] = torch.where(hidden[:, None], torch.randn(2, 3, 4, 5), other[:, 2])
    step = OnlineLabelling(Online(threshold=0.0))
    assert torch.equal(step(Linear(), x, y, y), step(Linear(), other, y, y))
    y[:, 1] = 255
    assert torch.isfinite(step(Linear(), x, y, y))
