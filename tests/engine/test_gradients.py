"""Weight gradients place by place, against torch's own in double precision."""

import copy
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stpp.engine import gradients
from stpp.engine.gradients import weight_gradients
from stpp.models.build import build
from stpp.params import Model

CPU = torch.device("cpu")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def is_ours(output: Tensor) -> bool:
    return type(output.grad_fn).__name__ == "_ConvolutionBackward"


def backward(one: nn.Conv2d, x: Tensor, towards: Tensor) -> Sequence[Tensor]:
    """Gradients of the weight, the bias and the input."""
    x = x.requires_grad_()
    wanted = [one.weight, x] if one.bias is None else [one.weight, one.bias, x]
    return torch.autograd.grad((one(x) * towards).sum(), wanted)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    dilation=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    bias=st.booleans(),
)
def test_gradients_are_those_of_torch_for_every_geometry(
    height: int,
    width: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    bias: bool,
) -> None:
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if height + 2 * padding[0] < spans[0] or width + 2 * padding[1] < spans[1]:
        return
    one = nn.Conv2d(3, 4, kernel, stride, padding, dilation, bias=bias).double()
    x = drawn(2, 3, height, width)
    towards = drawn(*one(x).shape, seed=1)
    expected = backward(one, x.clone(), towards)
    with pytest.MonkeyPatch.context() as patch, weight_gradients(CPU):
        patch.setattr(gradients, "_suits", lambda *_: True)
        found = backward(one, x.clone(), towards)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_under_autocast_a_layer_computes_in_bfloat16_and_has_gradients_of_its_own_type() -> None:
    one = nn.Conv2d(8, 21, 3, padding=6, dilation=6)
    x = drawn(2, 8, 25, 25).float()
    towards = drawn(2, 21, 25, 25, seed=1).float()

    def found() -> Sequence[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return backward(one, x.clone(), towards)

    expected = found()
    with weight_gradients(CPU):
        ours = found()
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02 * float(b.abs().max()))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_network_has_the_gradients_that_it_has_in_double_precision(dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    network = build(Model(backbone="resnet18", weights="none"), 4).train()
    x, y = torch.randn(2, 3, 65, 65), torch.randint(0, 4, (2, 65, 65))

    def found(one: nn.Module, x: Tensor, dtype: torch.dtype | None = dtype) -> dict[str, Tensor]:
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = F.cross_entropy(one(x).to(torch.promote_types(x.dtype, torch.float32)), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return {name: p.grad for name, p in one.named_parameters() if p.grad is not None}

    exact = found(copy.deepcopy(network).double(), x.double(), None)
    plain = found(copy.deepcopy(network), x)
    with weight_gradients(CPU):
        ours = found(network, x)
    assert ours.keys() == exact.keys()

    def error(of: dict[str, Tensor]) -> float:
        return max(float((of[k] - exact[k]).norm() / exact[k].norm()) for k in exact)

    assert error(ours) < 2 * error(plain) + 1e-5


@pytest.mark.parametrize(
    ("one", "ours"),
    [
        (nn.Conv2d(8, 8, 3, padding=12, dilation=12), True),
        (nn.Conv2d(8, 21, 3, stride=2, padding=5, dilation=5, bias=False), True),
        (nn.Conv2d(256, 256, 3, padding=4, dilation=4), False),
        (nn.Conv2d(8, 8, 3, dilation=12), False),
        (nn.Conv2d(8, 8, 3, padding=(0, 12), dilation=12), False),
        (nn.Conv2d(8, 8, 1), False),
        (nn.Conv2d(8, 8, 3, padding=12, dilation=12, groups=2), False),
        (nn.Conv2d(8, 8, 3, padding="same", dilation=12), False),
        (nn.Conv2d(8, 8, 3, padding=12, dilation=12).requires_grad_(False), False),
    ],
)
def test_convolutions_without_wide_padding_in_groups_or_without_gradients_are_left_alone(
    one: nn.Conv2d, ours: bool
) -> None:
    x = torch.randn(1, one.in_channels, 25, 25)
    with weight_gradients(CPU):
        assert is_ours(one(x)) is ours
        with torch.no_grad():
            assert not is_ours(one(x))
        with torch.autocast("cpu", torch.bfloat16):
            found = one(x)
            assert is_ours(found) is ours and found.dtype == torch.bfloat16
    assert not is_ours(one(x))


def test_convolutions_that_are_no_layers_are_left_alone() -> None:
    x, weight = torch.randn(1, 8, 9, 9), torch.randn(8, 8, 3, 3, requires_grad=True)
    with weight_gradients(CPU):
        for found in (F.conv2d(x, weight, None, 1, 12, 12), F.conv2d(x, weight, padding=12, dilation=12)):
            assert not is_ours(found)


def test_on_other_devices_nothing_is_changed() -> None:
    with weight_gradients(torch.device("cuda")):
        assert not is_ours(nn.Conv2d(8, 8, 3, padding=12, dilation=12)(torch.randn(1, 8, 9, 9)))
