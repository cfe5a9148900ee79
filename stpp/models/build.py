"""Name -> network; weights in and out as safetensors, which say what they are weights of."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from stpp.files import StppError, regular, replacing
from stpp.models.deeplabv2 import DeepLabV2
from stpp.models.deeplabv3plus import DeepLabV3Plus
from stpp.models.pspnet import PSPNet
from stpp.params import Model

NETWORKS: dict[str, type[DeepLabV2] | type[DeepLabV3Plus] | type[PSPNet]] = {
    "deeplabv2": DeepLabV2,
    "deeplabv3plus": DeepLabV3Plus,
    "pspnet": PSPNet,
}


ABOUT = "stpp"
"""The one key of a checkpoint's metadata: with two, its bytes would differ from process to process."""


@dataclass(frozen=True)
class About:
    """What a checkpoint is of: enough to predict with it."""

    model: Model
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    """RGB by class."""


def build(model: Model, classes: int) -> nn.Module:
    """The network of `model`, randomly initialised from torch's global generator, in channels-last memory."""
    network = NETWORKS[model.network](model.backbone, classes, model.output_stride)
    return network.to(memory_format=torch.channels_last)


def save(path: Path, state: dict[str, torch.Tensor], about: About | None = None) -> None:
    """Write tensors by name, and what they are of; equal ones give equal bytes.

    Raises StppError naming the file and the tensor if a value is not finite.
    """
    if odd := not_finite(state):
        raise StppError(f"{path}: not written: {odd} has NaN or infinite values: training diverged; lower train.lr")
    text = TypeAdapter(About).dump_json(about).decode() if about else ""
    with replacing(path) as partial:
        # Through memory: the library's own writer hides that a disk is full.
        dense = {k: v.detach().cpu().contiguous() for k, v in state.items()}
        partial.write_bytes(to_bytes(dense, {ABOUT: text} if about else None))


def about(path: Path) -> About:
    """What a checkpoint is of. Raises StppError naming the file if it does not say so."""
    try:
        with safe_open(regular(path), "pt") as file:
            text = (file.metadata() or {}).get(ABOUT, "null")
        found = TypeAdapter(About).validate_json(text, strict=True)
    except (SafetensorError, OSError) as error:
        raise StppError(f"{path}: not readable as weights: {error}") from None
    except ValidationError:
        what = "does not say which network and classes it is of: no checkpoint of `stpp train`, or of an older one"
        raise StppError(f"{path}: {what}") from None
    if not 2 <= len(found.classes) == len(found.palette) <= 255 or any(
        [not 0 <= value <= 255 for colour in found.palette for value in colour]
        + [not label.isprintable() for label in found.classes]
    ):
        raise StppError(f"{path}: what it says of its {len(found.classes)} classes and their colours makes no sense")
    return found


def load(model: Model, classes: int, path: Path) -> nn.Module:
    """The network of `model` as a checkpoint has it; every key must fit. Raises StppError naming the file."""
    with torch.device("meta"):  # random weights take longer to draw than a file to read
        network = build(model, classes)
    network.to_empty(device="cpu")
    for buffer in network.buffers():
        buffer.zero_()  # torch lets a file lack batch norm's counters
    _fill(network, _read(path), path)
    return network


def of_checkpoint(path: Path, model: Model, classes: int) -> nn.Module:
    """The network that a checkpoint says it is of, or that of `model` where it says nothing, filled from it.

    Raises StppError naming the file if it is of another number of classes, or not readable.
    """
    try:
        said = about(path)
    except StppError:
        return load(model, classes, path)  # which says what is wrong, if anything is
    if len(said.classes) != classes:
        what = f"is of {len(said.classes)} classes ({', '.join(said.classes)}), but the data set has {classes}"
        raise StppError(f"{path}: {what}: evaluate it on data of its own classes")
    return load(said.model, classes, path)


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
        return load_file(regular(path))
    except (SafetensorError, OSError) as error:
        remedy = "run the stage that makes it again; `stpp weights import` reads checkpoints of other code"
        raise StppError(f"{path}: not readable as weights: {error}; {remedy}") from None


def _fill(module: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        remedy = "is it of other model.* parameters or classes, or of other code (`stpp weights import`)?"
        raise StppError(f"{path}: not a checkpoint of this network: {said}; {remedy}") from None
    if odd := not_finite(module.state_dict()):
        what = f"{odd} has NaN or infinite values: its training diverged, or the file was changed"
        raise StppError(f"{path}: {what}; train it again, with a lower train.lr")


def not_finite(state: dict[str, torch.Tensor]) -> str:
    """The name of a tensor with a value that is no finite number, empty if there is none."""
    for name, value in state.items():
        # The least and the greatest value, of which NaN is one: a pass without memory of its own.
        if value.is_floating_point() and value.numel() and not all(map(torch.isfinite, value.aminmax())):
            return name
    return ""
