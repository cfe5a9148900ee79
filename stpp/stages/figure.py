"""The `figure` stage: draws one of the paper's figures that compare several systems."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from stpp.report.compare import FIGURES, draw, merge_metrics
from stpp.report.labels import one_line
from stpp.run.resume import root
from stpp.stages import options
from stpp.store.files import StppError, read_csv
from stpp.store.records import EvaluationJson, MetricsJson, read
from stpp.tracking.attach import attach
from stpp.tracking.client import run_ids_of

Name = Annotated[str, Argument(help="figure_1, figure_3a, figure_3b, figure_4, figure_6 or figure_8.")]
Evaluations = Annotated[
    list[Path] | None, Option(help="Folder that `stpp evaluate` wrote; may be given several times.")
]
Models = Annotated[
    list[str] | None,
    Option(help="Model whose curve is drawn: NAME=FOLDER that `stpp train` wrote; may be given several times."),
]


def figure(
    name: Name,
    out: Annotated[Path, Option(help="PNG to write.")],
    evaluation: Evaluations = None,
    model: Models = None,
) -> None:
    """Draw a figure of the paper from several systems.

    The figure is also added to the MLflow runs of the evaluations.
    """
    if name not in FIGURES:
        raise StppError(f"{name}: no such figure; choose one of {', '.join(FIGURES)} (docs/paper.md lists the others)")
    folders = evaluation or []
    run_ids_of([folder / "run.json" for folder in folders])  # reports a wrong run.json before anything is written
    columns = ("epoch", "train/loss", "val/miou")
    curves = {key: read_csv(folder / "curve.csv", columns) for key, folder in options.named(model or []).items()}
    records = [read(folder / "run.json", EvaluationJson) for folder in folders]
    on = ", ".join(sorted({one_line(one.get("experiment", "")) for one in records}))
    if name != "figure_4":  # which shows pseudo masks
        on += f", val, n = {' or '.join(sorted({str(one['images']['val']) for one in records}))}"
    draw(name, merge_metrics([read(folder / "metrics.json", MetricsJson) for folder in folders], curves), on, out)
    for folder in folders:
        attach(folder / "run.json", [out], root())
    print(out)
