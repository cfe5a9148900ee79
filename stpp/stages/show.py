"""Command show: what came out, in a small table."""

from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.files import StppError
from stpp.report.table import table


def show(runs: Annotated[Path, Option(help="Folder of the runs.")] = Path("runs")) -> None:
    """Print mIoU of every system that was run, and where its plots and MLflow runs are."""
    from stpp.records import DataSet, Evaluation, read

    found = sorted(runs.glob("**/evaluation/metrics.json"), key=lambda p: len(p.parts))
    if not found:
        raise StppError(f"{runs}: nothing evaluated yet; run `dvc repro` first")
    base = _setting(found[0])
    print()
    for path in [p for p in found if _setting(p) != base]:
        print(f"{path.parent} is of other data or parameters than {found[0].parent}, and left out: run it again")
    found = [path for path in found if _setting(path) == base]
    print(table([read(path, Evaluation) for path in found], read(runs / "data" / "dataset.json", DataSet)["name"]))
    plots = runs / "report"
    if plots.is_dir():
        print(f"\nplots     {plots}/  ({', '.join(sorted(p.name for p in plots.glob('*.png')))})")
    print("compare   make ui  opens the MLflow UI;  dvc metrics show,  dvc plots show")


def _setting(metrics: Path) -> str:
    """What two evaluations must share to stand in one table."""
    from stpp.records import Run, read

    return str(read(metrics.parent / "run.json", Run).get("stpp.setting", ""))
