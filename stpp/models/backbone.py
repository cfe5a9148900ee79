"""Backbones by name: torchvision's ResNets, as in the paper (4.1), and the networks of timm.

A backbone maps images (B, 3, H, W) to low-level features (B, C1, H/4, W/4) and high-level features (B, C2, H/s, W/s).
s is the output stride; dilation replaces the last strides. The attribute `channels` is (C1, C2).
"""

from functools import cache
from typing import Any

import timm
import torch
from timm.models import is_model
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

from stpp.store.files import StppError

# name -> (torchvision's constructor, its published weights, channels of the low- and the high-level features)
RESNETS = {
    "resnet18": (models.resnet18, models.ResNet18_Weights, (64, 512)),
    "resnet34": (models.resnet34, models.ResNet34_Weights, (64, 512)),
    "resnet50": (models.resnet50, models.ResNet50_Weights, (256, 2048)),
    "resnet101": (models.resnet101, models.ResNet101_Weights, (256, 2048)),
}

CONVOLUTIONAL = "convolutional"
UNSUITED = (RuntimeError, AttributeError, TypeError, AssertionError, ValueError)
"""What timm raises for an option that a network does not have."""


def backbone(name: str, output_stride: int) -> "ResNet | Timm":
    """Return the backbone of that name, randomly initialised.

    Raises StppError if there is no backbone of that name, or if it does not suit dilated heads.
    """
    return ResNet(name, output_stride) if name in RESNETS else Timm(name, output_stride)


class Timm(nn.Module):
    """A network of timm as a backbone: it returns the two maps that a head reads, the one at stride 4 and the last."""

    def __init__(self, name: str, output_stride: int, **how: Any) -> None:
        """Create the network. how: further options of timm's `create_model`."""
        super().__init__()
        how |= {"output_stride": output_stride, "out_indices": _places(name, output_stride)}
        features: Any = timm.create_model(name, features_only=True, **how)
        low, high = features.feature_info.channels()
        self.features, self.channels = features, (int(low), int(high))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.features(x)
        return low, high


@cache
def _places(name: str, output_stride: int) -> tuple[int, int]:
    """Return the indices of the map at stride 4 and of the last map among the maps of a timm network.

    Raises StppError that says why the network does not suit, if it does not.
    """
    if not is_model(name):
        raise unknown(name)
    with torch.device("meta"):
        try:
            strides = _strides(name)
        except UNSUITED as error:
            raise unsuited(name, CONVOLUTIONAL, f"timm cannot extract its feature maps ({error})") from None
        if min(strides) == max(strides):
            same = f"all its feature maps have stride {strides[0]}, as in vision transformers"
            raise unsuited(name, CONVOLUTIONAL, f"{same}; for those, use model.network dpt or linear")
        if 4 not in strides:
            only = ", ".join(map(str, strides))
            raise unsuited(name, CONVOLUTIONAL, f"it has no feature map at stride 4, only at {only}")
        try:
            last = _strides(name, output_stride=output_stride)[-1]
        except UNSUITED:
            last = None
        if last != output_stride:
            raise unsuited(name, CONVOLUTIONAL, f"timm cannot dilate it to output stride {output_stride}")
    return strides.index(4), len(strides) - 1


def _strides(name: str, **how: Any) -> list[int]:
    made: Any = timm.create_model(name, features_only=True, **how)
    return list(made.feature_info.reduction())


def unknown(name: str) -> StppError:
    """Return the error for a name that is no backbone."""
    known = f"torchvision's {', '.join(RESNETS)}, or a network of timm (`stpp backbone list '*mobile*'`)"
    return StppError(f"model.backbone: {name} is not a known backbone; use {known}")


def unsuited(name: str, head: str, why: str) -> StppError:
    """Return the error for a backbone that does not suit the head of `model.network`."""
    remedy = "`stpp backbone list` shows those that do"
    return StppError(f"model.backbone: {name} does not suit a {head} head: {why}; {remedy}")


class ResNet(nn.Module):
    """A ResNet of torchvision; its tensors have the names that the paper's public code uses."""

    def __init__(self, name: str, output_stride: int) -> None:
        super().__init__()
        make, _, self.channels = RESNETS[name]
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
    """Replace strides of layer2..4 by dilation, as torchvision's replace_stride_with_dilation does for Bottleneck.

    replace: for each of the three layers, whether its stride is replaced. This is done after construction, since
    torchvision's BasicBlock (ResNet-18, 34) refuses dilation in its constructor. All convolutions behind a removed
    stride are dilated, so every second feature equals a feature of the strided layer.
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
