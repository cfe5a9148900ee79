"""Tests of DeepLabv3+ and its separable form against the parameter counts, rates and sizes of the published network."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpp.models.deeplabv3plus import DeepLabV3Plus, SeparableDeepLabV3Plus


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("backbone", "classes", "parameters"),
    [
        ("resnet50", 19, 40_351_667),
        ("resnet50", 21, 40_352_181),
        ("resnet101", 19, 59_343_795),
        ("resnet101", 21, 59_344_309),
    ],
)
@pytest.mark.parametrize("stride", [8, 16])
def test_the_number_of_parameters_equals_that_of_the_published_network(
    backbone: str, classes: int, parameters: int, stride: int
) -> None:
    with torch.device("meta"):
        network = DeepLabV3Plus(backbone, classes, stride)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(("height", "width"), [(32, 32), (97, 64), (33, 49), (17, 130)])
@pytest.mark.parametrize("stride", [8, 16])
def test_logits_have_the_size_of_any_input(stride: int, height: int, width: int) -> None:
    with torch.no_grad():
        logits = DeepLabV3Plus("resnet18", 7, stride).eval()(torch.empty(1, 3, height, width))
    assert logits.shape == (1, 7, height, width)


@pytest.mark.parametrize(("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18])])
def test_the_rates_of_the_pyramid_are_halved_at_output_stride_16(stride: int, rates: list[int]) -> None:
    with torch.device("meta"):
        network = DeepLabV3Plus("resnet50", 2, stride)
    convs = [m for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and not name.startswith("backbone.")]
    dilated = [c for c in convs if c.dilation != (1, 1)]
    assert [c.dilation for c in dilated] == [(r, r) for r in rates]
    assert all(c.padding == c.dilation and c.kernel_size == (3, 3) for c in dilated)


def test_a_dilated_branch_sees_nine_pixels_that_are_one_rate_apart() -> None:
    """The gradient of one output of a dilated branch is not zero at nine pixels, which are one rate apart."""
    head = DeepLabV3Plus("resnet18", 2, 16).head.double().eval()
    for branch, rate in ((head.b1, 6), (head.b2, 12), (head.b3, 18)):
        x = torch.randn(1, 512, 41, 41, dtype=torch.float64, requires_grad=True)
        branch[0](x)[0, :, 20, 20].sum().backward()  # only the convolution, because a ReLU could hide a pixel
        rows, columns = x.grad[0].abs().sum(0).nonzero(as_tuple=True)
        reach = (20 - rate, 20, 20 + rate)
        assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(r, c) for r in reach for c in reach}


def test_image_pooling_is_the_projected_mean_of_the_image_at_every_pixel() -> None:
    torch.manual_seed(0)
    pooling = DeepLabV3Plus("resnet18", 2, 16).head.b4.eval()
    x = torch.rand(2, 512, 3, 5)
    (weight,) = (p for p in pooling.parameters() if p.ndim == 4)
    with torch.no_grad():
        out = pooling(x)
        mean = x.flatten(2).sum(2) / 15
        expected = (mean @ weight[:, :, 0, 0].T).clamp(min=0) / (1 + 1e-5) ** 0.5  # batch norm with its initial values
    torch.testing.assert_close(out, expected[:, :, None, None].expand(-1, -1, 3, 5))
    assert out.any()


def test_dropout_is_by_channel_at_0_5_after_the_pyramid_and_by_value_at_0_1_before_the_classifier() -> None:
    with torch.device("meta"):
        network = DeepLabV3Plus("resnet50", 2, 8)
    dropouts = [
        (name.split(".")[0], type(m), m.p)
        for name, m in network.named_modules()
        if "dropout" in type(m).__name__.lower()
    ]
    assert dropouts == [("head", nn.Dropout2d, 0.5), ("fuse", nn.Dropout, 0.1)]


def test_logits_are_resized_with_aligned_corners() -> None:
    """From 9 x 13 to 33 x 49, every fourth pixel is an output of the classifier; those between are interpolated."""
    torch.manual_seed(0)
    network = DeepLabV3Plus("resnet18", 3, 16).eval()
    coarse: list[Tensor] = []
    network.classifier.register_forward_hook(lambda *call: coarse.append(call[2]))
    with torch.no_grad():
        logits = network(torch.randn(1, 3, 33, 49))
    assert coarse[0].shape == (1, 3, 9, 13)
    torch.testing.assert_close(logits[:, :, ::4, ::4], coarse[0])
    torch.testing.assert_close(logits[:, :, 2::4, ::4], (coarse[0][:, :, 1:] + coarse[0][:, :, :-1]) / 2)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("network_class", [DeepLabV3Plus, SeparableDeepLabV3Plus])
def test_a_batch_of_two_trains_and_its_gradient_reaches_every_parameter(
    stride: int, network_class: type[DeepLabV3Plus]
) -> None:
    torch.manual_seed(0)
    network = network_class("resnet18", 4, stride).train()
    logits = network(torch.randn(2, 3, 64, 48))
    F.cross_entropy(logits, torch.randint(4, (2, 64, 48))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_separable_convolutions_equal_two_dense_ones_and_take_the_place_of_every_3_x_3_convolution() -> None:
    """A depthwise convolution is a dense one whose kernels are zero between different channels."""
    torch.manual_seed(0)
    plain, network = DeepLabV3Plus("resnet18", 2, 16), SeparableDeepLabV3Plus("resnet18", 2, 16)
    kernels = [
        m for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and not name.startswith("backbone.")
    ]
    assert all(m.groups == m.in_channels == m.out_channels for m in kernels if m.kernel_size == (3, 3))
    assert sum(m.kernel_size == (3, 3) for m in kernels) == 5
    parameters = [sum(p.numel() for p in one.fuse.parameters()) for one in (plain, network)]
    assert parameters[0] > 7 * parameters[1]

    branch = network.head.b2.double().train()
    x = torch.randn(2, 512, 9, 9, dtype=torch.float64)
    depthwise, pointwise = (m.weight for m in branch if isinstance(m, nn.Conv2d))
    dense = torch.zeros(512, 512, 3, 3, dtype=torch.float64)
    dense[range(512), range(512)] = depthwise[:, 0]
    expected = x
    for weight, rate in ((dense, 12), (pointwise, 1)):
        y = F.conv2d(expected, weight, padding=rate * (weight.shape[2] // 2), dilation=rate)
        mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
        expected = ((y - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(branch(x), expected)
