"""Name -> network; weights in and out as safetensors."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from stpp.files import StppError, replacing
from stpp.models.deeplabv2 import DeepLabV2
from stpp.models.deeplabv3plus import DeepLabV3Plus
from stpp.models.pspnet import PSPNet
from stpp.params import Model

NETWORKS: dict[str, type[DeepLabV2] | type[DeepLabV3Plus] | type[PSPNet]] = {
    "deeplabv2": DeepLabV2,
    "deeplabv3plus": DeepLabV3Plus,
    "pspnet": PSPNet,
}


def build(model: Model, classes: int) -> nn.Module:
    """The network of `model`, randomly initialised from torch's global generator, in channels-last memory."""
    network = NETWORKS[model.network](model.backbone, classes, model.output_stride)
    return network.to(memory_format=torch.channels_last)


def save(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Write tensors by name; equal tensors give equal bytes."""
    with replacing(path) as partial:
        # Through memory: the library's own writer hides that a disk is full.
        partial.write_bytes(to_bytes({k: v.detach().cpu().contiguous() for k, v in state.items()}))


def load(network: nn.Module, path: Path) -> nn.Module:
    """Fill `network` from a checkpoint; every key must fit. Raises StppError naming the file."""
    _fill(network, _read(path), path)
    return network


def start(network: nn.Module, model: Model, path: Path) -> frozenset[str]:
    """Fill `network` from the file that `stpp backbone` wrote; the names of what was filled, none if it is empty.

    A classifier of another number of classes stays random. Raises StppError naming the file.
    """
    own, state = network.state_dict(), _read(path)
    classifier = NETWORKS[model.network].CLASSIFIER
    state = {k: v for k, v in state.items() if not (k.startswith(classifier) and k in own and v.shape != own[k].shape)}
    _fill(network, {**own, **state}, path)
    return frozenset(state)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise StppError(f"{path}: not readable as weights: {error}; run `dvc repro` again") from None


def _fill(module: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise StppError(f"{path}: not a checkpoint of this network: {' '.join(str(error).split())[:300]}") from None
