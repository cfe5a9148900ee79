"""Stage backbone: the one start that the teacher and every student share."""

from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.stages import options

Weights = Annotated[Path, Option(help="Folder that holds local files of weights.")]


def backbone(
    weights: Weights, out: Annotated[Path, Option(help="File to write.")], params: options.Params = None
) -> None:
    """Find the backbone's weights (none, torchvision's by name, or a local file) and keep them for every training."""
    from stpp.models.backbone import read_weights
    from stpp.models.build import save
    from stpp.params import load

    model = load(options.params_files(params)).model
    state = read_weights(model.backbone, model.weights, weights)
    save(out, state)
    print(f"{model.backbone}: {model.weights}, {len(state)} tensors")
