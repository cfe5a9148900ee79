"""The commands `weights import` and `weights export`: exchange weights with other code."""

from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal

import torch
from typer import Argument, Option

from stpp.models.build import save
from stpp.models.weights import ConvertedWeights, convert_keys, read_state
from stpp.store.files import StppError, atomic_write

File = Annotated[Path, Argument(help="File of weights: .pth, .pt or .safetensors.")]
Network = Annotated[
    Literal["deeplabv2", "deeplabv3plus", "deeplabv3plus_separable", "dpt", "linear", "pspnet"],
    Option(help="Network that the weights belong to."),
]
Backbone = Annotated[str, Option(help="Its backbone, as model.backbone names it.")]


def import_(
    file: File, network: Network, backbone: Backbone, out: Annotated[Path, Option(help="Safetensors file to write.")]
) -> None:
    """Read weights of the public ST++ code, torchvision or AdvSemiSeg into weights/.

    Every key of the file is placed in the network, dropped with a printed
    reason, or named in an error. Half precision becomes float32. The result is
    a network or its backbone alone. In weights/, `model.weights` can name it.
    """
    if out.suffix != ".safetensors":
        raise StppError(f"{out}: the name must end in .safetensors")
    placed = convert_keys(read_state(file), network, backbone, str(file))
    save(out, placed.state)
    _say_dropped(placed)
    print(f"{out}: {len(placed.state)} tensors of {network} on {backbone}, read from the {placed.layout} layout")


def export(
    file: File,
    network: Network,
    backbone: Backbone,
    out: Annotated[Path, Option(help="PyTorch file to write (.pth or .pt).")],
) -> None:
    """Write a checkpoint as a state dict in the public ST++ code's layout."""
    if out.suffix not in (".pth", ".pt"):
        raise StppError(f"{out}: the name must end in .pth or .pt")
    placed = convert_keys(read_state(file), network, backbone, str(file))
    held = BytesIO()  # torch's own writer raises an unclear error if the disk is full
    torch.save(placed.state, held)
    with atomic_write(out) as partial:
        partial.write_bytes(held.getvalue())
    _say_dropped(placed)
    print(f"{out}: {len(placed.state)} tensors of {network} on {backbone}")


def _say_dropped(placed: ConvertedWeights) -> None:
    for key, reason in placed.dropped.items():
        print(f"dropped {key}: {reason}")
