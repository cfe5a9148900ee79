"""Winograd's convolutions against torch's in double precision."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stpp.engine import winograd
from stpp.engine.winograd import Winograd, suits


def convolution(dilation: int = 1, channels: int = 256, outputs: int = 256, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(dilation)
    return nn.Conv2d(channels, outputs, 3, padding=dilation, dilation=dilation, bias=bias).requires_grad_(False)


def images(height: int, width: int, channels: int = 256, batch: int = 1) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(height * width))


def exact(one: nn.Conv2d, x: Tensor) -> Tensor:
    bias = None if one.bias is None else one.bias.double()
    return F.conv2d(x.double(), one.weight.double(), bias, 1, one.padding, one.dilation)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    dilation=st.integers(1, 5),
    channels=st.integers(1, 9),
    outputs=st.integers(1, 9),
    bias=st.booleans(),
    block=st.sampled_from([1, 100_000, 2**23]),
)
def test_it_is_the_convolution_at_every_size_dilation_and_number_of_channels_whatever_the_block(
    height: int, width: int, dilation: int, channels: int, outputs: int, bias: bool, block: int
) -> None:
    one = convolution(dilation, channels, outputs, bias)
    x = images(height, width, channels, batch=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "BLOCK", block)
        patch.setattr(winograd, "_pays", lambda *_: True)
        found = Winograd(one)(x)
    torch.testing.assert_close(found.double(), exact(one, x), rtol=0, atol=2e-5)


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_with_many_channels_rounding_stays_within_some_1e_5(dilation: int, layout: torch.memory_format) -> None:
    one = convolution(dilation, 512, 512)
    x = images(47, 63, 512).relu().to(memory_format=layout)
    found = Winograd(one)(x)
    torch.testing.assert_close(found.double(), exact(one, x), rtol=0, atol=5e-5)
    assert not torch.equal(found, one(x)), "it is the plain convolution"


def test_an_image_gives_the_same_bytes_alone_in_a_batch_and_with_any_number_of_threads() -> None:
    one = Winograd(convolution(2, 256, 300))
    x = images(47, 63, 256, batch=3).to(memory_format=torch.channels_last)
    together = one(x)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            alone = [one(image[None].contiguous(memory_format=torch.channels_last)) for image in x]
            assert torch.equal(torch.cat(alone), together)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("height", "width", "dilation"),
    [(12, 12, 1), (9, 200, 4), (11, 11, 4)],
)
def test_an_image_of_few_tiles_or_of_much_border_goes_through_the_plain_convolution(
    height: int, width: int, dilation: int
) -> None:
    one = convolution(dilation)
    x = images(height, width)
    assert torch.equal(Winograd(one)(x), one(x))


@pytest.mark.parametrize(
    ("one", "yes"),
    [
        (nn.Conv2d(256, 256, 3, padding=1), True),
        (nn.Conv2d(256, 300, 3, padding=4, dilation=4, bias=False), True),
        (nn.Conv2d(256, 256, 3), False),
        (nn.Conv2d(256, 256, 3, padding="same"), False),
        (nn.Conv2d(256, 256, 3, padding=1, stride=2), False),
        (nn.Conv2d(256, 256, 3, padding=1, groups=2), False),
        (nn.Conv2d(256, 256, 3, padding=1, padding_mode="reflect"), False),
        (nn.Conv2d(256, 256, 1), False),
        (nn.Conv2d(256, 256, 5, padding=1), False),
        (nn.Conv2d(256, 256, 3, padding=2), False),
        (nn.Conv2d(256, 256, 3, padding=(1, 2), dilation=(1, 2)), False),
        (nn.Conv2d(256, 256, 3, padding=12, dilation=12), False),
        (nn.Conv2d(255, 256, 3, padding=1), False),
    ],
)
def test_only_what_it_computes_suits(one: nn.Conv2d, yes: bool) -> None:
    assert suits(one) is yes
