"""The metadata of safetensors files of weights: what the weights belong to, and where they come from."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from stpp.data.normalization import IMAGENET, Normalization
from stpp.params.models import Model
from stpp.store.files import StppError, regular
from stpp.store.reading import Reading

ABOUT = "stpp"
"""The only key of a checkpoint's metadata: with two keys, its bytes would differ from process to process."""


@dataclass(frozen=True)
class Start:
    """Which weights a training starts from, and where they come from."""

    weights: str = "none"
    """Their name, as in `model.weights`."""
    source: str = ""
    licence: str = ""
    normalization: Normalization = IMAGENET
    """Normalisation of the images that they were trained on, and therefore of all images used later."""

    def __str__(self) -> str:
        about = ", ".join(filter(None, (self.source, f"licence {self.licence}" if self.licence else "")))
        return f"{self.weights} ({about})" if about else self.weights


@dataclass(frozen=True)
class BackboneMetadata:
    """The metadata of a file of `stpp backbone`: the network that starts from it, and where its weights come from."""

    model: Model
    start: Start = Start()


@dataclass(frozen=True)
class CheckpointMetadata:
    """The metadata of a checkpoint: what is needed to predict with it."""

    model: Model
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    """The RGB colour of every class."""
    start: Start = Start()
    reading: Reading | None = None
    """How the files of its images were read; None: as ordinary pictures."""


def read_metadata(path: Path) -> CheckpointMetadata:
    """Return the metadata of a checkpoint. Raises StppError that names the file if it has no valid metadata."""
    return parse_metadata(metadata_of(path) or "null", path)


def parse_metadata(text: str, path: Path, writer: str = "`stpp train`") -> CheckpointMetadata:
    """Return the metadata that JSON text holds. Raises StppError naming the file and its writer if it is invalid."""
    try:
        found = TypeAdapter(CheckpointMetadata).validate_json(text, strict=True)
    except ValidationError:
        what = f"no valid metadata about its network and classes: not written by {writer}, or by an older version"
        raise StppError(f"{path}: {what}") from None
    if not 2 <= len(found.classes) == len(found.palette) <= 255 or any(
        [not 0 <= value <= 255 for colour in found.palette for value in colour]
        + [not label.isprintable() for label in found.classes]
    ):
        raise StppError(f"{path}: invalid metadata about its {len(found.classes)} classes and their colours")
    return found


def start_of(path: Path) -> Start:
    """Return which weights a file holds that `stpp backbone` wrote; a file without metadata gives `Start()`.

    Raises StppError that names the file if the file or its metadata cannot be read.
    """
    return _backbone_metadata(path).start if metadata_of(path) else Start()


def model_of(path: Path) -> Model:
    """Return the network that starts from a file that `stpp backbone` wrote.

    Raises StppError that names the file if the file or its metadata cannot be read.
    """
    return _backbone_metadata(path).model


def _backbone_metadata(path: Path) -> BackboneMetadata:
    try:
        return TypeAdapter(BackboneMetadata).validate_json(metadata_of(path) or "null", strict=True)
    except ValidationError:
        what = "no valid metadata about its network and the source of its weights"
        raise StppError(f"{path}: {what}; run `stpp backbone` again") from None


def metadata_of(path: Path) -> str:
    """Return a file's metadata, JSON text; "" if it has none. Raises StppError that names the file."""
    try:
        with safe_open(regular(path), "np") as file:  # "pt" would import torch
            return str((file.metadata() or {}).get(ABOUT, ""))
    except (SafetensorError, OSError) as error:
        raise StppError(f"{path}: not readable as weights: {error}") from None
