"""What the published heads are made of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    padding = rate * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=rate, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Mean(nn.Module):
    """(B, C, h, w) -> (B, C, 1, 1): what `nn.AdaptiveAvgPool2d(1)` computes, with a gradient in channels-last memory.

    That one's is in planes; other gradients are added to it, and the backbone's last layers would go on in planes.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).mean(dim=(1, 2), keepdim=True).permute(0, 3, 1, 2)


def spread(pixel: Tensor, like: Tensor) -> Tensor:
    """(B, C, 1, 1) at every place of `like`: what `resize` makes of it, but in channels-last memory.

    `torch.cat` makes planes of maps of which a single one is in planes.
    """
    return pixel.expand(-1, -1, like.shape[2], like.shape[3]).contiguous(memory_format=torch.channels_last)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear to the height and width of `like`, corners aligned: the published networks' only change of size."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
