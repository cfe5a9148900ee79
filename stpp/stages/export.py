"""The `export` command: writes a checkpoint for other runtimes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.deploy.export import INPUT, OUTPUT, channels_of, to_onnx, to_torch_export
from stpp.models import build
from stpp.store.files import StppError
from stpp.tracking.package import package


class Format(StrEnum):
    """The format to which a checkpoint is exported."""

    onnx = "onnx"
    torch = "torch"
    mlflow = "mlflow"


Formats = Annotated[Format, Option("--as", help="onnx: a file; torch: a .pt2 file of torch.export; mlflow: a folder.")]


def export(
    model: Annotated[Path, Option(help="Checkpoint that `stpp train` wrote; it names its network and classes.")],
    out: Annotated[Path, Option(help="File to write, or folder for mlflow.")],
    kind: Formats = Format.onnx,
) -> None:
    """Write a checkpoint for ONNX Runtime, torch.export or `mlflow models serve`.

    An ONNX or .pt2 file is run on several image sizes and compared with the
    checkpoint. If its logits differ by more than rounding, no file is left.
    An MLflow model holds the checkpoint itself, so it is not compared.
    """
    if not model.is_file():
        raise StppError(f"{model}: no such file; name a checkpoint, such as runs/student/model.safetensors")
    if out.exists():
        raise StppError(f"{out}: already exists; remove it, or give another name")
    about = build.read_metadata(model)
    network, _ = build.load_checkpoint(model, about.model, len(about.classes))
    network.eval()
    if kind is Format.mlflow:
        package(model, about.classes, str(about.start), out)
        print(f"{out}: an MLflow model; to serve it, run `mlflow models serve --env-manager local --model-uri {out}`")
        return

    worst = (to_onnx if kind is Format.onnx else to_torch_export)(network, about, out)
    channels = channels_of(network)
    sizes = (
        f"{INPUT} (batch, {channels}, height, width), {'RGB' if channels == 3 else 'bands'} from 0 to 1 -> "
        f"{OUTPUT} (batch, {len(about.classes)}, height, width)"
    )
    print(f"{out}: {sizes}; logits differ from the checkpoint's by {worst:.1e} at most")
