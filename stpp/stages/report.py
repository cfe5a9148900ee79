"""Stage report: figures of a whole run, for DVC and in the MLflow runs they belong to."""

from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.files import read_csv, read_dataset, read_ids, read_json, replacing_folder, write_text
from stpp.report.table import table
from stpp.resume import root
from stpp.stages import options
from stpp.tracking import attach

PSEUDO_ROWS = 3


def report(
    data: options.Data,
    evaluation: Annotated[Path, Option(help="Folder that `stpp evaluate` wrote.")],
    scores: Annotated[Path, Option(help="Folder that `stpp score` wrote.")],
    selection: Annotated[Path, Option(help="Folder that `stpp select` wrote.")],
    model: Annotated[list[Path], Option(help="Folder that `stpp train` wrote, once for each.")],
    masks: Annotated[list[Path], Option(help="Folder that `stpp label` wrote, once for each.")],
    out: options.Out,
    params: options.Params = None,
) -> None:
    """Draw curves, stability, quality, classes and panels, and put each into the MLflow run it tells of."""
    import numpy as np
    from numpy.typing import NDArray

    from stpp.data.images import read_image, read_mask, to_classes
    from stpp.masks import MaskSet, decode_mask
    from stpp.params import load
    from stpp.report import panels, plots
    from stpp.report.labels import LABELS

    p = load(options.params_files(params))
    dataset = read_dataset(data)
    source = Path(p.data.root)
    metrics = read_json(evaluation / "metrics.json")
    stability = {row["id"]: float(row["stability"]) for row in read_csv(scores / "scores.csv")}
    quality = {row["id"]: float(row["miou"]) for row in read_csv(evaluation / "quality.csv")}
    reliable = set(read_ids(selection / "reliable.txt"))
    curves = {folder.name: read_csv(folder / "curve.csv") for folder in model}
    per_class: dict[str, list[float]] = {}
    for row in read_csv(evaluation / "per_class.csv"):
        if row["set"] == "val":
            per_class.setdefault(row["model"], []).append(float(row["iou"]))

    def cells(name: str) -> list[NDArray[np.uint8] | None]:
        record = dataset.records[name]
        truth = to_classes(read_mask(source / record.mask), dataset.values) if record.mask else None
        return [read_image(source / record.image)[0], truth]

    predicted = {f.name: f for f in sorted((evaluation / "panels").iterdir())}
    order = [m for m in metrics["val"] if m in predicted]
    shown = (
        sorted(str(f.relative_to(predicted[order[0]]).with_suffix("")) for f in predicted[order[0]].rglob("*.png"))
        if order
        else []
    )
    with replacing_folder(out) as partial:
        plots.curves(curves, partial / "curves.png")
        for name, rows in curves.items():
            plots.curves({name: rows}, partial / f"curve_{name}.png")
        plots.stability(stability, reliable, quality, partial / "stability.png")
        plots.per_class(per_class, dataset.classes, partial / "per_class.png")
        plots.confusion(
            list(read_json(evaluation / "scores.json")["val"].values())[-1], dataset.classes, partial / "confusion.png"
        )
        if "pseudo" in metrics:
            plots.quality({g: s["miou"] for g, s in metrics["pseudo"].items()}, partial / "quality.png")
        rows = [
            (i, [*cells(i), *(decode_mask((predicted[m] / f"{i}.png").read_bytes()) for m in order)]) for i in shown
        ]
        titles = ["image", "ground truth", *(LABELS.get(m, m) for m in order)]
        panels.panel(rows, titles, dataset.palette, dataset.classes, partial / "panels.png")
        for folder in masks:
            mask_set = MaskSet(folder / "masks")
            ranked = sorted(mask_set.ids, key=lambda i: (-stability.get(i, 0), i))
            picked = [*ranked[:PSEUDO_ROWS], *ranked[-PSEUDO_ROWS:]] if len(ranked) > 2 * PSEUDO_ROWS else ranked
            rows = [(i, [*cells(i), mask_set.read(i)]) for i in picked]
            note = "the most and the least stable images of this set"
            panels.panel(
                rows,
                ["image", "ground truth", "pseudo mask"],
                dataset.palette,
                dataset.classes,
                partial / f"panel_{folder.name}.png",
                note,
            )
        write_text(partial / "results.txt", table([metrics], dataset.name) + "\n")

    for folder in model:
        attach(folder / "run.json", [out / f"curve_{folder.name}.png"], root())
    for folder in masks:
        attach(folder / "run.json", [out / f"panel_{folder.name}.png"], root())
    attach(scores / "run.json", [out / "stability.png"], root())
    attach(evaluation / "run.json", sorted(out.glob("*.png")), root())
    print(table([metrics], dataset.name))
