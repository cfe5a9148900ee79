"""PSPNet as the paper's authors published it: pyramid pooling at 1, 2, 3 and 6, no auxiliary head (paper, 4.1)."""

import torch
from torch import Tensor, nn

from stpp.models.backbone import backbone as backbone_of
from stpp.models.layers import Mean, conv, resize, spread


class PyramidPooling(nn.Module):
    """Pyramid pooling, (B, C, h, w) -> (B, 2C, h, w).

    The result is the input itself and its means over 1, 4, 9 and 36 regions, each projected to C/4 channels.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.pool1 = Mean()
        self.pool2, self.pool3, self.pool4 = (nn.AdaptiveAvgPool2d(parts) for parts in (2, 3, 6))
        self.conv1, self.conv2, self.conv3, self.conv4 = (conv(inputs, inputs // 4, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        whole = spread(self.conv1(self.pool1(x)), x)
        parts = ((self.pool2, self.conv2), (self.pool3, self.conv3), (self.pool4, self.conv4))
        return torch.cat([x, whole, *(resize(conv(pool(x)), x) for pool, conv in parts)], dim=1)


class PSPHead(nn.Module):
    """The head of PSPNet: features (B, C, h, w) -> logits (B, classes, h, w)."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        width = inputs // 4
        self.conv5 = nn.Sequential(
            PyramidPooling(inputs), *conv(2 * inputs, width, 3), nn.Dropout(0.1), nn.Conv2d(width, classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv5(x)
        return out


class PSPNet(nn.Module):
    """The network PSPNet: normalised images (B, 3, H, W) -> logits (B, classes, H, W)."""

    CLASSIFIER = "head.conv5.5."

    def __init__(self, backbone: str, classes: int, output_stride: int) -> None:
        super().__init__()
        self.backbone = backbone_of(backbone, output_stride)
        self.head = PSPHead(self.backbone.channels[1], classes)

    def forward(self, x: Tensor) -> Tensor:
        _, c4 = self.backbone(x)  # (B, C4, H/os, W/os)
        return resize(self.head(c4), x)
