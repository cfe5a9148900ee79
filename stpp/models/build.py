"""Networks by name, and their weights in safetensors files."""

from pathlib import Path
from pkgutil import resolve_name
from typing import Protocol

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from timm.models import adapt_input_conv
from torch import nn

from stpp.data.normalization import IMAGENET, Normalization
from stpp.models.backbone import RESNETS
from stpp.models.metadata import ABOUT, BackboneMetadata, CheckpointMetadata, metadata_of, read_metadata, start_of
from stpp.models.networks import NETWORKS
from stpp.params.models import Model
from stpp.store.files import StppError, atomic_write, regular


def build(model: Model, classes: int, normalization: Normalization = IMAGENET) -> nn.Module:
    """Return the network of `model`, randomly initialised by torch's global generator, in channels-last memory format.

    Its images have a channel for each mean of `normalization`. The buffers `pixel_mean` and `pixel_std` say how they
    are normalised; they are not in its state dict. With `model.freeze`, the parameters of the backbone have no
    gradients. Raises StppError if its first layer cannot take so many channels.
    """
    network = network_class(model.network)(model.backbone, classes, model.output_stride)
    if (channels := len(normalization.mean)) != 3:
        first = network.get_submodule(first_layer(network))
        assert isinstance(first, nn.Conv2d)
        first.in_channels = channels
        first.weight = nn.Parameter(first.weight.new_empty(first.out_channels, channels, *first.kernel_size))
        first.reset_parameters()
    if model.freeze:
        network.get_submodule("backbone").requires_grad_(False)
    return set_normalization(network.to(memory_format=torch.channels_last), normalization)


def first_layer(network: nn.Module) -> str:
    """Return the name of the convolution that reads the images' three channels.

    Raises StppError if there is none, or if there are several.
    """
    found: list[str] = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1
    ]
    if len(found) != 1:
        raise StppError("data.bands: this backbone has no single first convolution; choose another, such as resnet50")
    return found[0]


def train_mode(network: nn.Module) -> None:
    """Put a network in training mode, but a frozen backbone, none of whose parameters has a gradient, not."""
    network.train()
    backbone = getattr(network, "backbone", None)
    if isinstance(backbone, nn.Module) and not any(one.requires_grad for one in backbone.parameters()):
        backbone.eval()


class Network(Protocol):
    """The interface of a network's class.

    Calling it with the backbone's name, the number of classes and the output stride gives a module that maps images to
    logits.
    """

    CLASSIFIER: str
    """Prefix of the tensor names of the layer whose size depends on the number of classes."""

    def __call__(self, backbone: str, classes: int, output_stride: int) -> nn.Module: ...


def network_class(name: str) -> Network:
    """Return the class of the network that `model.network` names."""
    found: Network = resolve_name(NETWORKS[name])
    return found


def set_normalization(network: nn.Module, normalization: Normalization) -> nn.Module:
    """Store in a network, as buffers, how its images are normalised. Return the network."""
    for name, values in zip(("pixel_mean", "pixel_std"), normalization, strict=True):
        network.register_buffer(name, torch.tensor(values).reshape(1, -1, 1, 1), persistent=False)
    return network


def save(
    path: Path, state: dict[str, torch.Tensor], about: CheckpointMetadata | BackboneMetadata | None = None
) -> None:
    """Write tensors by name, and metadata, to a safetensors file; equal content gives equal bytes.

    about: what the tensors belong to, and where they come from. Raises StppError that names the file and the tensor if
    a value is not finite.
    """
    if odd := first_non_finite(state):
        raise StppError(f"{path}: not written: {odd} has NaN or infinite values: training diverged; lower train.lr")
    text = TypeAdapter(type(about)).dump_json(about, exclude_none=True).decode() if about else ""
    with atomic_write(path) as partial:
        # Serialised in memory first: the library's own writer hides that a disk is full.
        dense = {k: v.detach().cpu().contiguous() for k, v in state.items()}
        partial.write_bytes(to_bytes(dense, {ABOUT: text} if about else None))


def load(model: Model, classes: int, path: Path, normalization: Normalization = IMAGENET) -> nn.Module:
    """Return the network of `model` with the weights of a checkpoint.

    Raises StppError that names the file if it cannot be read, a key does not fit, or a value is not finite.
    """
    if model.backbone in RESNETS:
        with torch.device("meta"):  # drawing random weights takes longer than reading the file
            network = build(model, classes, normalization)
        network.to_empty(device="cpu")
        for buffer in network.buffers():
            buffer.zero_()  # torch accepts a file without batch norm's counters
        set_normalization(network, normalization)
    else:  # some networks of timm have buffers that are in no checkpoint
        network = build(model, classes, normalization)
    _fill(network, _read(path), path)
    return network


def load_checkpoint(path: Path, model: Model, classes: int) -> tuple[nn.Module, Model]:
    """Return the network that a checkpoint's metadata describes, with the checkpoint's weights, and the description.

    If the file has no metadata, the description is `model`. Raises StppError that names the file if it is for
    another number of classes, or cannot be read.
    """
    if not metadata_of(path):
        return load(model, classes, path), model
    said = read_metadata(path)
    if len(said.classes) != classes:
        what = f"has {len(said.classes)} classes ({', '.join(said.classes)}), but the data set has {classes}"
        raise StppError(f"{path}: {what}; use a data set with the same classes")
    return load(said.model, classes, path, said.start.normalization), said.model


def load_start_weights(network: nn.Module, model: Model, path: Path) -> frozenset[str]:
    """Fill `network` from a file that `stpp backbone` wrote. Return the names of the filled tensors.

    There are no names if the file holds no tensors. A classifier for another number of classes stays random. With three
    channels, the network's normalisation becomes that of the weights. With others, the first convolution is adapted as
    timm does: its channels are repeated and scaled. Raises StppError that names the file if it does not fit.
    """
    own, state = network.state_dict(), _read(path)
    classifier = network_class(model.network).CLASSIFIER
    state = {k: v for k, v in state.items() if not (k.startswith(classifier) and k in own and v.shape != own[k].shape)}
    if (channels := network.get_buffer("pixel_mean").shape[1]) == 3:
        set_normalization(network, start_of(path).normalization)
    else:
        with torch.device("meta"):
            first = f"{first_layer(network_class(model.network)(model.backbone, 2, model.output_stride))}.weight"
        state = {k: adapt_input_conv(channels, v) if k == first else v for k, v in state.items()}
    _fill(network, {**own, **state}, path)
    return frozenset(state)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(regular(path))
    except (SafetensorError, OSError) as error:
        remedy = "rerun the stage that writes it; for a checkpoint of other code, use `stpp weights import`"
        raise StppError(f"{path}: not readable as weights: {error}; {remedy}") from None


def _fill(module: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        remedy = "does it belong to other model.* parameters or classes, or to other code (`stpp weights import`)?"
        raise StppError(f"{path}: not a checkpoint of this network: {said}; {remedy}") from None
    if odd := first_non_finite(module.state_dict()):
        what = f"{odd} has NaN or infinite values: its training diverged, or the file was changed"
        raise StppError(f"{path}: {what}; train it again, with a lower train.lr")


def first_non_finite(state: dict[str, torch.Tensor]) -> str:
    """Return the name of a tensor that has a NaN or infinite value; "" if there is no such tensor."""
    floating = {name: value for name, value in state.items() if value.is_floating_point() and value.numel()}
    if not floating:
        return ""
    # A sum is finite only if all its terms are, and takes a third of the time of checking each value. But a sum may
    # also overflow, so the tensors with such a sum are then checked value by value.
    sums = torch.stack([value.detach().sum().double() for value in floating.values()]).isfinite().tolist()
    suspects = [name for name, sound in zip(floating, sums, strict=True) if not sound]
    return next((name for name in suspects if not bool(floating[name].isfinite().all())), "")
