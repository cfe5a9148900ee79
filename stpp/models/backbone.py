"""ResNets of torchvision with dilation in place of the last strides (paper, 4.1)."""

import struct
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

from stpp.files import StppError

# name -> (torchvision's constructor, its weights, channels of the low- and the high-level features)
BACKBONES = {
    "resnet18": (models.resnet18, models.ResNet18_Weights, (64, 512)),
    "resnet34": (models.resnet34, models.ResNet34_Weights, (64, 512)),
    "resnet50": (models.resnet50, models.ResNet50_Weights, (256, 2048)),
    "resnet101": (models.resnet101, models.ResNet101_Weights, (256, 2048)),
}

# What torch's and safetensors' readers raise, depending on where a file is cut or changed; OSError also offline.
UNREADABLE = (
    SafetensorError,
    UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AssertionError,
    struct.error,
    OSError,
)


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


def read_weights(name: str, weights: str, folder: Path) -> dict[str, Tensor]:
    """The start of a backbone in torchvision's keys, float32; empty for `none`.

    weights: `none`, a name of torchvision (IMAGENET1K_V1, downloaded through torchvision), or a file below `folder`.
    Raises StppError naming the three choices where none of them is there, and every key that fits nowhere.
    """
    choices = (
        f"model.weights is `none`, a name of torchvision for {name} "
        f"({', '.join(w.name for w in BACKBONES[name][1])}; downloaded once), or a file in {folder}/"
    )
    if weights == "none":
        return {}
    state: Mapping[str, Tensor]
    published = BACKBONES[name][1].__members__.get(weights)
    if published is not None:
        try:
            state = published.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except UNREADABLE as error:
            raise StppError(f"{weights} could not be downloaded ({_reason(error)}); {choices}") from None
    else:
        path = folder / weights
        if Path(weights).is_absolute() or ".." in Path(weights).parts or not path.is_file():
            raise StppError(f"{path}: no such file; {choices}")
        state = _read_state(path)
    return _checked(name, weights, state)


def _read_state(path: Path) -> Mapping[str, Tensor]:
    state: object
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise StppError(f"{path}: not a file of weights alone: {_reason(error)}") from None
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise StppError(f"{path}: not a state dict (tensors by name); save `model.state_dict()`")
    return state


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _checked(name: str, source: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every key is placed, dropped for a stated reason (torchvision's classifier `fc`), or named in the error."""
    expected = Backbone(name, 16).state_dict()
    counters = {k for k in expected if k.endswith("num_batches_tracked")}
    given = {k: v for k, v in state.items() if not k.startswith("fc.")}
    missing = sorted(set(expected) - set(given) - counters)
    unknown = sorted(set(given) - set(expected))
    misshapen = sorted(k for k in set(given) & set(expected) if given[k].shape != expected[k].shape)
    for what, keys in {"missing": missing, "unknown": unknown, "of another shape": misshapen}.items():
        if keys:
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            raise StppError(f"{source} does not fit {name}: {what}: {', '.join(keys[:5])}{more}")
    return {k: v.float() if v.is_floating_point() else v for k, v in given.items()}
