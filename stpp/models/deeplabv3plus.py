"""DeepLabv3+ as the paper's authors published it: ASPP, image pooling, a low-level skip (paper, 4.1 and [7] there)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stpp.models.backbone import backbone as backbone_of
from stpp.models.layers import Mean, conv, resize, separable, spread

Conv = Callable[..., nn.Sequential]


class ImagePooling(nn.Module):
    """Image pooling, (B, C, h, w) -> (B, D, h, w): a projection of the image's mean, the same at every position."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gap = nn.Sequential(Mean(), *conv(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return spread(self.gap(x), x)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: (B, C, h, w) -> (B, C/8, h, w).

    The dilation rates 12, 24 and 36 are for output stride 8; at 16 they are halved.
    """

    def __init__(self, inputs: int, output_stride: int, conv3: Conv = conv) -> None:
        super().__init__()
        width = inputs // 8
        r1, r2, r3 = (rate * 8 // output_stride for rate in (12, 24, 36))
        self.b0 = conv(inputs, width, 1)
        self.b1 = conv3(inputs, width, 3, r1)
        self.b2 = conv3(inputs, width, 3, r2)
        self.b3 = conv3(inputs, width, 3, r3)
        self.b4 = ImagePooling(inputs, width)
        self.project = nn.Sequential(*conv(5 * width, width, 1), nn.Dropout2d(0.5))

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.b0, self.b1, self.b2, self.b3, self.b4)
        out: Tensor = self.project(torch.cat([b(x) for b in branches], dim=1))
        return out


class DeepLabV3Plus(nn.Module):
    """The network DeepLabv3+: normalised images (B, 3, H, W) -> logits (B, classes, H, W)."""

    CLASSIFIER = "classifier."
    CONV3: Conv = staticmethod(conv)
    """Makes the 3 x 3 convolutions of ASPP and decoder."""

    def __init__(self, backbone: str, classes: int, output_stride: int) -> None:
        super().__init__()
        self.backbone = backbone_of(backbone, output_stride)
        low, high = self.backbone.channels
        self.head = ASPP(high, output_stride, self.CONV3)
        self.reduce = conv(low, 48, 1)
        self.fuse = nn.Sequential(*self.CONV3(high // 8 + 48, 256, 3), *self.CONV3(256, 256, 3), nn.Dropout(0.1))
        self.classifier = nn.Conv2d(256, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        c1, c4 = self.backbone(x)  # (B, C1, H/4, W/4), (B, C4, H/os, W/os)
        c4 = resize(self.head(c4), c1)
        fused = self.fuse(torch.cat([self.reduce(c1), c4], dim=1))  # (B, 256, H/4, W/4)
        return resize(self.classifier(fused), x)


class SeparableDeepLabV3Plus(DeepLabV3Plus):
    """DeepLabv3+ with depthwise separable convolutions in ASPP and decoder (its publication, [7] in the paper, 3.2).

    For small backbones, whose arithmetic the decoder would exceed several times.
    """

    CONV3 = staticmethod(separable)
