"""What the published heads are made of."""

import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    padding = rate * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=rate, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear to the height and width of `like`, corners aligned: the published networks' only change of size."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
