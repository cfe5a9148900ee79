"""Building blocks of the published heads."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """Return a convolution that keeps height and width, followed by batch norm and ReLU."""
    padding = rate * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=rate, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def separable(inputs: int, outputs: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """Return a depthwise convolution and a 1 x 1 convolution, each followed by batch norm and ReLU.

    It takes the place of `conv` at about 1 / kernel^2 of its arithmetic.
    """
    padding = rate * (kernel // 2)
    depthwise = nn.Conv2d(inputs, inputs, kernel, padding=padding, dilation=rate, groups=inputs, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), *conv(inputs, outputs, 1))


class Mean(nn.Module):
    """Global average pooling, (B, C, h, w) -> (B, C, 1, 1), with a gradient in channels-last memory.

    It computes the same as `nn.AdaptiveAvgPool2d(1)`. The gradient of that module is in channels-first memory. Other
    gradients are added to it, so the backward pass of the backbone's last layers would also be channels-first.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).mean(dim=(1, 2), keepdim=True).permute(0, 3, 1, 2)


def spread(pixel: Tensor, like: Tensor) -> Tensor:
    """Repeat a tensor (B, C, 1, 1) at every position of `like`, in channels-last memory.

    The values are those of `resize`. The memory format matters: the result of `torch.cat` is channels-first if even
    one input is channels-first.
    """
    return pixel.expand(-1, -1, like.shape[2], like.shape[3]).contiguous(memory_format=torch.channels_last)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly to the height and width of `like`, with aligned corners.

    The published networks use no other kind of resize.
    """
    return resize_to(x, like.shape[2:])


def resize_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize bilinearly to `size` (height, width), with aligned corners."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
