"""The `backbone` stage: stores the weights that trainings start from; and `backbone list`."""

import time
from pathlib import Path
from typing import Annotated

import timm
import torch
from typer import Argument, Option

from stpp.models.backbone import RESNETS
from stpp.models.build import save
from stpp.models.metadata import BackboneMetadata
from stpp.models.vit import VisionTransformer, of_any_kind
from stpp.models.weights import PACKAGED, start_of, weight_names
from stpp.params.file import load
from stpp.params.models import Model
from stpp.stages import options
from stpp.store.files import StppError

Weights = Annotated[Path, Option(help="Folder of local weights files.")]


def backbone(
    weights: Weights,
    out: Annotated[Path, Option(help="File to write for the teacher.")],
    out_student: Annotated[Path | None, Option(help="File to write for the students.")] = None,
    params: options.Params = None,
) -> None:
    """Find the weights that trainings start from, and save them to files.

    `model.weights` names them: `none`, published weights, the weights that a
    package ships, or a local file. Each file also says which network they are
    for. The students' file is for the network of `student`; if that is null,
    it equals the teacher's.
    """
    p = load(options.params_files(params))
    _write(p.model, weights, [out, out_student] if out_student and p.student is None else [out])
    if out_student and p.student is not None:
        _write(p.student, weights, [out_student])


def _write(model: Model, weights: Path, outs: list[Path]) -> None:
    """Find the weights of a network, and save them to all of `outs`."""
    placed, start = start_of(model, weights)
    for out in outs:
        save(out, placed.state, BackboneMetadata(model, start))
    whole = "" if all(key.startswith("backbone.") for key in placed.state) else " of a whole network"
    found = f"{len(placed.state)} tensors{whole} from {start}" if placed.state else "no weights: random ones"
    print(f"{model.network} on {model.backbone}: {found}; {' and '.join(map(str, outs))}")


SIDE, TIMES = 256, 3
"""Side in pixels of the image that is timed, and how many times it is timed."""


def list_(
    pattern: Annotated[str, Argument(help="Pattern of timm names, such as '*mobilenet*'.")] = "",
    stride: Annotated[int, Option(help="model.output_stride: 8 or 16.")] = 16,
    speed: Annotated[
        bool, Option("--speed", help="Measure the speed of each here, on an image of 256 x 256 pixels.")
    ] = False,
) -> None:
    """List the backbones that fit, with parameters, heads and weights.

    Without a pattern, these are torchvision's ResNets and the backbones whose
    weights a package ships.
    """
    if stride not in (8, 16):
        raise StppError(f"--stride {stride}: must be 8 or 16")
    names = timm.list_models(pattern) if pattern else [*RESNETS, *PACKAGED]
    refused: list[str] = []
    for name in names:
        try:
            with torch.device("cpu" if speed else "meta"):
                network = of_any_kind(name, stride).eval()
        except StppError as error:
            refused.append(str(error))
            continue
        heads = "dpt, linear" if isinstance(network, VisionTransformer) else "convolutional heads"
        size = f"{sum(one.numel() for one in network.parameters()) / 1e6:7.1f} M"
        rate = f"{_images_per_second(network):7.1f} images/s" if speed else ""
        print(f"{name:40}{size}  {rate}  {heads:20}{', '.join(weight_names(name))}")
    if refused:
        print(f"{len(refused)} of {len(names)} cannot be used, such as {refused[0].removeprefix('model.backbone: ')}")
    if not names:
        raise StppError(f"{pattern}: no timm network matches this pattern")
    if not pattern:
        print("for timm networks, give a pattern: `stpp backbone list '*mobilenet*'`")


def _images_per_second(network: torch.nn.Module) -> float:
    """Return how many images of SIDE x SIDE pixels a network predicts in a second on this machine, one at a time."""
    x = torch.rand(1, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    network = network.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        network(x)
        begun = time.perf_counter()
        for _ in range(TIMES):
            network(x)
    return TIMES / (time.perf_counter() - begun)
