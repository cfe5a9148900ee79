"""Stage backbone: the one start that the teacher and every student share."""

from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.stages import options

Weights = Annotated[Path, Option(help="Folder that holds local files of weights.")]


def backbone(
    weights: Weights, out: Annotated[Path, Option(help="File to write.")], params: options.Params = None
) -> None:
    """Find the backbone's weights (none, published, of a package, or a local file) and keep them for all trainings."""
    from stpp.models.build import save
    from stpp.models.weights import start_of
    from stpp.params_file import load

    model = load(options.params_files(params)).model
    placed, start = start_of(model, weights)
    save(out, placed.state, start)
    whole = "" if all(key.startswith("backbone.") for key in placed.state) else " of a whole network"
    print(f"{model.network} on {model.backbone}: weights {start}, {len(placed.state)} tensors{whole}")
