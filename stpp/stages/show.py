"""The `show` command: prints the results of all systems in a small table, and what follows from them."""

from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.paper.systems import folder_of
from stpp.report.labels import foreground
from stpp.report.statistics import Counts, gains, read_counts
from stpp.report.table import table
from stpp.report.verdict import Facts, read_facts, verdict
from stpp.store.files import StppError
from stpp.store.records import DatasetJson, EvaluationJson, MetricsJson, read


def show(runs: Annotated[Path, Option(help="Folder of the runs.")] = Path("runs")) -> None:
    """Print the mIoU of every evaluated system, and its gain over SupOnly.

    The last lines say where to find the plots and the MLflow runs.
    """
    found = sorted(runs.glob("**/evaluation/metrics.json"), key=lambda p: (len(p.parts), p))
    if not found:
        raise StppError(f"{runs}: nothing evaluated yet; run `dvc repro` first")
    base = _setting(found[0])
    print()
    for path in [p for p in found if _setting(p) != base]:
        print(
            f"{path.parent}: left out, as its data or parameters differ from those of {found[0].parent}; run it again"
        )
    found = [path for path in found if _setting(path) == base]
    dataset = read(runs / "data" / "dataset.json", DatasetJson)
    counts = {subset: _counts(found, subset) for subset in ("val", "test")}
    print(
        table(
            [read(path, MetricsJson) for path in found],
            dataset["name"],
            {subset: gains(models) for subset, models in counts.items() if models},
            foreground(dataset["classes"]),
        )
    )
    if any(gains(models) for models in counts.values()):
        print("in brackets: 95 % interval of the gain over SupOnly, by a bootstrap over images (one training seed)")
    if counts["val"]:
        print("", *verdict(counts["val"], _known(runs, list(counts["val"]), dataset["classes"])), sep="\n")
        print(
            "one seed says little: docs/results.md has eight on the embedded data set, and the claims that they support"
        )
    plots = runs / "report"
    if plots.is_dir():
        print(f"\nplots     {plots}/  ({', '.join(sorted(p.name for p in plots.glob('*.png')))})")
    print("compare   make ui  opens the MLflow UI;  dvc metrics show,  dvc plots show")


def _counts(found: list[Path], subset: str) -> dict[str, Counts]:
    """Return the pixel counts by image of every model on a set, from the files images.npz that exist."""
    counts: dict[str, Counts] = {}
    for path in found:
        file = path.with_name("images.npz")
        if file.is_file():
            counts = read_counts(file, subset) | counts
    return counts


def _known(runs: Path, models: list[str], classes: list[str]) -> Facts:
    """Return what else the files of the runs say about the models, for the verdict."""
    folders = {name: runs / Path(folder).relative_to("runs") for name in models if (folder := folder_of(name))}
    return read_facts(folders, runs / "score", classes)


def _setting(metrics: Path) -> str:
    """Return the setting of an evaluation, which two evaluations must share to stand in one table."""
    return str(read(metrics.parent / "run.json", EvaluationJson).get("stpp.setting", ""))
