"""ResNets of torchvision with dilation in place of the last strides (paper, 4.1)."""

from typing import Literal

from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

# name -> (torchvision's constructor, its weights, channels of the low- and the high-level features)
BACKBONES = {
    "resnet18": (models.resnet18, models.ResNet18_Weights, (64, 512)),
    "resnet34": (models.resnet34, models.ResNet34_Weights, (64, 512)),
    "resnet50": (models.resnet50, models.ResNet50_Weights, (256, 2048)),
    "resnet101": (models.resnet101, models.ResNet101_Weights, (256, 2048)),
}


class Backbone(nn.Module):
    """(B, 3, H, W) -> low-level (B, C1, H/4, W/4) and high-level (B, C4, H/output_stride, W/output_stride) features."""

    def __init__(self, name: str, output_stride: Literal[8, 16]) -> None:
        super().__init__()
        make, _, self.channels = BACKBONES[name]
        resnet = make(weights=None)
        dilate = {8: (False, True, True), 16: (False, False, True)}[output_stride]
        _dilate(resnet, dilate)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            resnet.layer1,
            resnet.layer2,
            resnet.layer3,
            resnet.layer4,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        low = self.layer1(x)
        return low, self.layer4(self.layer3(self.layer2(low)))


def _dilate(resnet: models.ResNet, replace: tuple[bool, bool, bool]) -> None:
    """Turn the strides of layer2..4 into dilation, as torchvision's replace_stride_with_dilation does for Bottleneck.

    Done after construction, since torchvision's BasicBlock (ResNet-18, 34) refuses dilation in its constructor. All
    convolutions behind the removed stride are dilated, so every second feature is what the strided layer computes.
    """
    dilation = 1
    for layer, dilated in zip((resnet.layer2, resnet.layer3, resnet.layer4), replace, strict=True):
        previous = dilation
        if dilated:
            dilation *= 2
        for index, block in enumerate(layer):
            assert isinstance(block, nn.Module)
            first = previous if index == 0 else dilation
            basic = isinstance(block, BasicBlock)
            convs = ((block.conv1, first), (block.conv2, dilation)) if basic else ((block.conv2, first),)
            for conv, rate in convs:
                assert isinstance(conv, nn.Conv2d)
                if dilated:
                    conv.stride = (1, 1)
                conv.dilation = conv.padding = (rate, rate)
            if dilated and isinstance(block.downsample, nn.Sequential):
                assert isinstance(block.downsample[0], nn.Conv2d)
                block.downsample[0].stride = (1, 1)
