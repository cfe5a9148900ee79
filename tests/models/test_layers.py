"""Tests of pooling and spreading in the heads: the results equal torch's, and memory stays channels last."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpp.models.build import build
from stpp.models.layers import Mean, resize, spread
from stpp.params.models import Model

LAST = torch.channels_last


@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 5)])
def test_the_mean_and_its_gradient_equal_those_of_pooling(size: tuple[int, int], layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weights = torch.randn(2, 3, 1, 1, dtype=torch.float64)
    found, expected = Mean()(x), F.adaptive_avg_pool2d(x, 1)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spreading_one_pixel_equals_resizing_it(dtype: torch.dtype) -> None:
    pixel, like = torch.randn(2, 3, 1, 1, dtype=dtype), torch.empty(2, 5, 4, 6)
    found = spread(pixel, like)
    assert torch.equal(found, resize(pixel, like))
    assert found.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("name", ["deeplabv2", "deeplabv3plus", "deeplabv3plus_separable", "pspnet"])
def test_large_maps_and_their_gradients_stay_in_channels_last_memory(name: str) -> None:
    network = build(Model(network=name, backbone="resnet18", output_stride=16), 3)  # type: ignore[arg-type]
    elsewhere = []

    def look(what: str, t: Tensor) -> None:
        if min(t.shape) > 1 and t.shape[1] >= 64 and t.stride(1) != 1:  # stride 1 allows a slice of channels, too
            elsewhere.append(f"{what} {tuple(t.shape)} {t.stride()}")

    for layer, module in network.named_modules():

        def see(_: nn.Module, x: tuple[Tensor], out: Tensor | tuple[Tensor, ...], layer: str = layer) -> None:
            look(f"into {layer}", x[0])
            for one in out if isinstance(out, tuple) else (out,):
                one.register_hook(lambda gradient: look(f"gradient of {layer}", gradient))

        module.register_forward_hook(see)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 97, 97).contiguous(memory_format=LAST)
    network.train()(x).square().mean().backward()
    assert not elsewhere
