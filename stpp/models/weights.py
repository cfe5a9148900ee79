"""Weights from outside: read without running code, and every key placed, dropped for a reason, or named."""

import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stpp.files import StppError, open_regular, raise_all, regular
from stpp.models.backbone import BACKBONES
from stpp.models.build import NETWORKS
from stpp.params import Model

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


PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Placed:
    """A state dict in the keys of this project's network: those of the paper's public code."""

    state: dict[str, Tensor]
    """Float32; a whole network, or its backbone alone."""
    layout: str
    dropped: dict[str, str]
    """Reason by key of the file."""


def start_of(model: Model, folder: Path) -> Placed:
    """What every training of `model` starts from; nothing for `none`.

    model.weights: `none`, a name of torchvision (IMAGENET1K_V1, downloaded through torchvision), or a file below
    `folder`. Raises StppError naming the three choices where none of them is there, and every key that fits nowhere.
    """
    name, weights = model.backbone, model.weights
    choices = (
        f"model.weights is `none`, a name of torchvision for {name} "
        f"({', '.join(w.name for w in BACKBONES[name][1])}; downloaded once), or a file in {folder}/"
    )
    if weights == "none":
        return Placed({}, "none", {})
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
        state = read_state(path)
    return place(state, model.network, name, weights)


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name, as a file of torch or safetensors holds them. Raises StppError naming the file."""
    state: object
    remedy = "save `model.state_dict()` with torch.save or safetensors, and give that"
    try:
        if path.suffix == ".safetensors":
            state = load_file(regular(path))
        else:
            with open_regular(path) as file:
                _check_sums(file, path)
                state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StppError(f"{path}: not readable: {_reason(error)}") from None
    except SafetensorError as error:
        raise StppError(f"{path}: not a file of weights alone: {_reason(error)}; {remedy}") from None
    except UNREADABLE:  # what torch says of it advises to read it in a way that runs its code
        what = "not a file of weights alone: it is damaged, or holds Python objects, which are not loaded"
        raise StppError(f"{path}: {what}; {remedy}") from None
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise StppError(f"{path}: not a state dict (tensors by name); save `model.state_dict()`")
    return state


def _check_sums(file: BufferedReader, path: Path) -> None:
    """Read a zip archive, which files of torch are, once: torch itself takes changed bytes for weights."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            try:
                damaged = archive.testzip()
            except (zipfile.BadZipFile, zlib.error, *UNREADABLE) as error:
                damaged = _reason(error)
        if damaged:
            raise StppError(f"{path}: is damaged ({damaged}): its checksum is not that of its bytes; get it again")
    file.seek(0)


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def place(given: Mapping[str, Tensor], network: str, backbone: str, source: str) -> Placed:
    """Bring a state dict of one of the known layouts into the keys of this project, which are the public code's.

    Known are torchvision's ResNets, the public code's networks (also as DataParallel saves them), and the DeepLabv2 of
    AdvSemiSeg with its COCO start. Raises StppError naming every key that fits nowhere, is missing or misshapen.
    """
    _check_kinds(given, source)
    state, written = dict(given), {key: key for key in given}
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
        written = {key.removeprefix("module."): key for key in given}
    dropped = {}
    if any("layer5.conv2d_list." in key for key in state):
        layout = "AdvSemiSeg"
        names = [_of_advsemiseg(key) for key in state]
        if twice := sorted({key for key in names if names.count(key) > 1}):
            raise StppError(f"{source}: two tensors each for {', '.join(twice)}, with and without `Scale.`; remove one")
        written = dict(zip(names, written.values(), strict=True))
        state = dict(zip(names, state.values(), strict=True))
    elif any(key.startswith("backbone.") for key in state):
        layout = "public code"
    else:
        layout = "torchvision"
        dropped = {key: "classifier of ImageNet" for key in state if key.startswith("fc.")}
        written = {f"backbone.{key}": written[key] for key in state if key not in dropped}
        state = {f"backbone.{key}": value for key, value in state.items() if key not in dropped}

    cls = NETWORKS[network]
    classes = next((v.shape[0] for k, v in state.items() if k.startswith(cls.CLASSIFIER) and v.ndim), 2)
    with torch.device("meta"):
        expected = {k: v.shape for k, v in cls(backbone, classes, 8).state_dict().items()}
    if all(key.startswith("backbone.") for key in state):
        expected = {k: v for k, v in expected.items() if k.startswith("backbone.")}
    # Files older than torch 0.4.1 do not count batches: they start at zero.
    counters = [k for k in expected if k.endswith(COUNTER) and k not in state]
    state |= {k: torch.tensor(0) for k in counters}
    missing = sorted(set(expected) - set(state))
    unknown = sorted(set(state) - set(expected))
    misshapen = sorted(k for k in set(state) & set(expected) if state[k].shape != expected[k])
    wrong = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    said = [f"{len(keys)} {what}: {', '.join(written.get(k, k) for k in keys)}" for what, keys in wrong.items() if keys]
    if said:
        named = f"{network} on {backbone} ({layout} layout)"
        raise StppError("\n".join([f"{source} does not fit {named}:", *said]))
    state = {k: v.long() if k.endswith(COUNTER) else v.float() for k, v in state.items()}
    return Placed(state, layout, dropped)


def _check_kinds(given: Mapping[str, Tensor], source: str) -> None:
    """Weights are dense, real and finite. Raises StppError naming every key whose tensor is not."""
    problems = []
    for key, value in given.items():
        size = value.numel() * value.element_size()
        if value.layout != torch.strided or value.is_complex() or value.is_quantized:
            problems.append(f"{key}: {value.dtype} of layout {value.layout}; weights are dense and real")
        elif not value.is_floating_point() and not key.endswith(COUNTER):
            problems.append(f"{key}: {value.dtype}; weights are floating point numbers")
        elif value.is_floating_point() and value.dtype not in PRECISIONS:
            problems.append(f"{key}: {value.dtype}; weights are saved in 16, 32 or 64 bits")
        elif size > value.untyped_storage().nbytes():
            problems.append(f"{key}: {value.numel()} values of fewer in the file; save a copy of it (`.clone()`)")
        elif not value.numel() or not bool(torch.isfinite(value).all()):
            problems.append(f"{key}: {'NaN or infinite values' if value.numel() else 'is empty'}")
    raise_all(problems, source)


def _of_advsemiseg(key: str) -> str:
    """Scale.layer5.conv2d_list.0.weight -> classifier.0.weight, Scale.conv1.weight -> backbone.conv1.weight."""
    key = key.removeprefix("Scale.")
    head = "layer5.conv2d_list."
    return f"classifier.{key.removeprefix(head)}" if key.startswith(head) else f"backbone.{key}"
