"""The `export` command: writes a checkpoint for other runtimes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.deploy.card import model_card
from stpp.deploy.engines import INPUT
from stpp.deploy.example import example_image
from stpp.deploy.export import Export, Graph, channels_of
from stpp.models import build, metadata
from stpp.store.files import StppError
from stpp.tracking.package import package


class Format(StrEnum):
    """The format to which a checkpoint is exported."""

    onnx = "onnx"
    openvino = "openvino"
    torch = "torch"
    mlflow = "mlflow"


WRITERS = {Format.onnx: Export.to_onnx, Format.openvino: Export.to_openvino, Format.torch: Export.to_torch_export}
Formats = Annotated[
    Format,
    Option("--as", help="onnx: a file; openvino: .xml and .bin; torch: a .pt2 file of torch.export; mlflow: a folder."),
]
ArgMax = Annotated[bool, Option("--argmax", help="Return class ids (uint8) in place of logits.")]
Half = Annotated[bool, Option("--half", help="Weights of float16: half the size. Input and logits stay float32.")]


def export(
    model: Annotated[Path, Option(help="Checkpoint that `stpp train` wrote; it names its network and classes.")],
    out: Annotated[Path, Option(help="File to write, or folder for mlflow.")],
    kind: Formats = Format.onnx,
    argmax: ArgMax = False,
    half: Half = False,
) -> None:
    """Write a checkpoint for ONNX Runtime, OpenVINO, torch.export or `mlflow models serve`.

    The exported file is run on several image sizes and compared with the
    checkpoint. If its logits differ by more than rounding, no file is left.
    An MLflow model holds the checkpoint itself, so it is not compared.
    """
    if not model.is_file():
        raise StppError(f"{model}: no such file; name a checkpoint, such as runs/student/model.safetensors")
    if kind is Format.openvino and out.suffix != ".xml":
        raise StppError(f"{out}: OpenVINO needs a file name that ends in .xml; the weights go into .bin beside it")
    if kind is Format.mlflow and (argmax or half):
        raise StppError("an MLflow model holds the checkpoint as it is; leave out --argmax and --half")
    for one in (out, out.with_suffix(".bin")) if kind is Format.openvino else (out,):
        if one.exists():
            raise StppError(f"{one}: already exists; remove it, or give another name")
    about = metadata.read_metadata(model)
    network, _ = build.load_checkpoint(model, about.model, len(about.classes))
    network.eval()
    if kind is Format.mlflow:
        package(model, about.classes, str(about.start), model_card(about, out.name), example_image(about.reading), out)
        print(f"{out}: an MLflow model; to serve it, run `mlflow models serve --env-manager local --model-uri {out}`")
        return

    graph = Graph(argmax, half)
    far = WRITERS[kind](Export(network, about, graph), out)
    channels = channels_of(network)
    classes = "" if argmax else f"{len(about.classes)}, "
    print(
        f"{out}: {INPUT} (batch, {channels}, height, width), {'RGB' if channels == 3 else 'bands'} from 0 to 1 -> "
        f"{graph.output} (batch, {classes}height, width); logits differ from the checkpoint's by {far.logits:.1e} at "
        f"most, classes in {far.pixels:.2%} of pixels"
    )
