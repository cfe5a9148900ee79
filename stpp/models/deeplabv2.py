"""DeepLabv2 as the paper's authors published it: the sum of four dilated classifiers (paper, 4.1 and [6] there)."""

from torch import Tensor, nn

from stpp.models.backbone import backbone as backbone_of
from stpp.models.layers import resize


class DeepLabV2(nn.Module):
    """The network DeepLabv2: normalised images (B, 3, H, W) -> logits (B, classes, H, W).

    The dilation rates 6, 12, 18 and 24 are for output stride 8; at 16 they are halved.
    """

    CLASSIFIER = "classifier."

    def __init__(self, backbone: str, classes: int, output_stride: int) -> None:
        super().__init__()
        self.backbone = backbone_of(backbone, output_stride)
        rates = [rate * 8 // output_stride for rate in (6, 12, 18, 24)]
        channels = self.backbone.channels[1]
        self.classifier = nn.ModuleList(nn.Conv2d(channels, classes, 3, padding=r, dilation=r) for r in rates)
        for layer in self.classifier:
            assert isinstance(layer, nn.Conv2d)
            nn.init.normal_(layer.weight, 0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        _, c4 = self.backbone(x)  # (B, C4, H/os, W/os)
        first, *others = (layer(c4) for layer in self.classifier)
        return resize(sum(others, start=first), x)
