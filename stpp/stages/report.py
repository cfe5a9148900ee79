"""The `report` stage: draws the figures of a whole run, and adds them to the MLflow runs that they belong to."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Option

from stpp.data.reader import ImageReader
from stpp.params.file import load
from stpp.report import plots
from stpp.report.labels import LABELS, foreground, one_line
from stpp.report.panels import Cell, panel
from stpp.report.statistics import constant_class, gains, miou, read_counts, read_images, worst_first
from stpp.report.table import table
from stpp.report.verdict import Facts, read_facts, verdict
from stpp.run.lineage import from_json
from stpp.run.resume import root
from stpp.stages import options
from stpp.stages.registration import register_model
from stpp.store.files import atomic_folder, read_csv, read_ids, sha256
from stpp.store.manifest import Dataset, read_dataset
from stpp.store.masks import IGNORE, Mask, MaskSet, read_png
from stpp.store.records import EvaluationJson, MetricsJson, RunJson, ScoresJson, read
from stpp.tracking.attach import attach, conclude
from stpp.tracking.champion import Measured
from stpp.tracking.client import run_ids_of
from stpp.tracking.models import Checkpoint, log_checkpoints

ENDS = 3
"""The number of most stable images, and of least stable images, that are shown of a mask set."""


def report(
    data: options.Data,
    evaluation: Annotated[Path, Option(help="Folder that `stpp evaluate` wrote.")],
    model: Annotated[list[str], Option(help="Model: NAME=FOLDER that `stpp train` wrote; may be given several times.")],
    out: options.Out,
    masks: Annotated[
        list[Path] | None, Option(help="Folder that `stpp label` wrote; may be given several times.")
    ] = None,
    scores: Annotated[Path | None, Option(help="Folder that `stpp score` wrote.")] = None,
    selection: Annotated[Path | None, Option(help="Folder that `stpp select` wrote from these scores.")] = None,
    params: options.Params = None,
) -> None:
    """Draw curves, stability, quality, classes and panels of a run.

    Each figure is also added to the MLflow runs that it belongs to. The
    checkpoints are logged in MLflow, and the final and the best model are
    registered there.
    """
    p = load(options.params_files(params))
    dataset = read_dataset(data)
    photos = ImageReader(dataset, Path(p.data.root))
    metrics = read(evaluation / "metrics.json", MetricsJson)
    models = options.named(model)
    folders = [*models.values(), *([scores] if scores else []), *(masks or []), evaluation]
    members = [folder / "run.json" for folder in folders]
    run_ids_of(members)  # reports a wrong run.json before anything is written
    stability = _stability(scores)
    matrices = read(evaluation / "scores.json", ScoresJson)["val"]
    only = {name: _only(matrix, dataset.classes) for name, matrix in matrices.items()}
    about = read(evaluation / "run.json", EvaluationJson)
    checkpoints = {name: _checkpoints(folder, name, metrics, about, only) for name, folder in models.items()}
    with atomic_folder(out) as partial:
        val = _val(dataset, evaluation)
        _plots(dataset, metrics, evaluation, models, scores, selection, val, partial)
        _predictions(photos, evaluation / "panels", list(metrics["val"]), val, partial / "panels.png")
        _worst(photos, evaluation, list(metrics["val"])[-1], val, partial / "worst.png")
        for folder in masks or []:
            _pseudo_masks(photos, folder, stability, partial / f"panel_{folder.name}.png")

    for name, folder in models.items():
        attach(folder / "run.json", [out / f"curve_{name}.png"], root())
    for folder in masks or []:
        attach(folder / "run.json", [out / f"panel_{folder.name}.png"], root())
    # The evaluation's run gets all figures. Those of a selection, or of all models, are added to this run alone,
    # because several selections or systems may share a run that scored or trained.
    attach(evaluation / "run.json", sorted(out.glob("*.png")), root())
    for name, folder in models.items():
        log_checkpoints(folder / "run.json", checkpoints[name], dataset.name, root())
    measured = [name for name in models if name in matrices]
    if measured:  # the last one is the final model of the system
        values = {name: metrics["val"][name]["miou"] for name in measured}
        best = max(measured, key=lambda name: -1.0 if math.isnan(values[name]) else values[name])
        for name in dict.fromkeys((measured[-1], best)):
            register_model(models[name] / "run.json", dataset.name, checkpoints[name][-1], name, evaluation, p)
    text, said = _conclusion(dataset, metrics, evaluation, read_facts(models, scores, dataset.classes))
    conclude(evaluation / "run.json", members, text, [out / "panels.png"], root())
    print(*said, sep="\n")
    print(f"report: {len(list(out.glob('*.png')))} figures; {out}; `stpp show` prints the table of results")


def _conclusion(dataset: Dataset, metrics: dict[str, Any], evaluation: Path, known: Facts) -> tuple[str, list[str]]:
    """Return the table of results and the verdict as Markdown, and the lines of the verdict."""
    by_image = {subset: read_counts(evaluation / "images.npz", subset) for subset in ("val", "test")}
    above = {subset: gains(counts) for subset, counts in by_image.items()}
    shown = table([metrics], dataset.name, above, foreground(dataset.classes))
    said = verdict(by_image["val"], known)
    return "\n".join(["```", shown, "```", *said]), said


def _stability(scores: Path | None) -> dict[str, float]:
    """Return the stability of every scored image by id; empty if there are no scores."""
    rows = read_csv(scores / "scores.csv", ("id", "stability")) if scores else []
    return {row["id"]: float(row["stability"]) for row in rows}


def _plots(
    dataset: Dataset,
    metrics: dict[str, Any],
    evaluation: Path,
    models: dict[str, Path],
    scores: Path | None,
    selection: Path | None,
    val: str,
    out: Path,
) -> None:
    """Draw curves, stability, quality, classes and confusion matrix as PNGs in the folder `out`. val: see `_val`."""
    columns = ("epoch", "train/loss", "val/miou")
    curves = {name: read_csv(folder / "curve.csv", columns) for name, folder in models.items()}
    name = one_line(dataset.name)
    plots.curves(curves, val, out / "curves.png")
    for model, rows in curves.items():
        plots.curves({model: rows}, val, out / f"curve_{model}.png")

    if scores and selection:
        quality = {row["id"]: float(row["miou"]) for row in read_csv(scores / "quality.csv", ("id", "miou"))}
        reliable = set(read_ids(selection / "reliable.txt"))
        plots.stability(_stability(scores), reliable, quality, name, out / "stability.png")
        if quality:
            plots.quality_histogram({"teacher": list(quality.values())}, name, out / "quality_histogram.png")
    if "pseudo" in metrics:
        groups = {group: (q["miou"], q["images"]) for group, q in metrics["pseudo"].items()}
        plots.quality(groups, name, out / "quality.png")

    per_class: dict[str, list[float]] = {}
    for row in read_csv(evaluation / "per_class.csv", ("set", "model", "class", "iou")):
        if row["set"] == "val":
            per_class.setdefault(row["model"], []).append(float(row["iou"]))
    plots.per_class(per_class, dataset.classes, val, out / "per_class.png")
    bins: dict[str, list[dict[str, str]]] = {}
    for row in read_csv(evaluation / "calibration.csv", ("set", "model", "pixels", "accuracy", "confidence")):
        if row["set"] == "val":
            bins.setdefault(row["model"], []).append(row)
    errors = {model: of["ece"] for model, of in metrics["val"].items()}
    plots.reliability(bins, errors, val, out / "reliability.png")
    *_, (model, final) = read(evaluation / "scores.json", ScoresJson)["val"].items()
    plots.confusion(final, dataset.classes, f"{plots.label(model).strip()} on {val}", out / "confusion.png")


def _val(dataset: Dataset, evaluation: Path) -> str:
    """Return the data set and the images of val for the title of a figure: `camvid, val, n = 101`."""
    counts = next(iter(read_counts(evaluation / "images.npz", "val").values()))
    return f"{one_line(dataset.name)}, val, n = {len(counts)}"


def _only(matrix: list[list[int]], classes: Sequence[str]) -> str:
    """Return the name of the class that a model predicts for every pixel, else ""; see `constant_class`."""
    only = constant_class(np.array(matrix))
    return "" if only is None else classes[only]


def _checkpoints(
    folder: Path, name: str, metrics: dict[str, Any], of_evaluation: dict[str, Any], only: dict[str, str]
) -> list[Checkpoint]:
    """Return a training's checkpoints for MLflow: those of f_1 .. f_K that exist, and the model if it was evaluated.

    metrics, of_evaluation: metrics.json and run.json of the evaluation. only: by model, the class that it predicts for
    every pixel of val; empty if it predicts several.
    """
    about, val = read(folder / "run.json", RunJson), of_evaluation["lists"]["val"]
    rows = read_csv(folder / "curve.csv", ("epoch", "iteration", "val/miou"))
    whole = all(float(row["epoch"]).is_integer() for row in rows)  # the step is chosen as in MLflow's curves
    steps = [int(float(row["epoch" if whole else "iteration"])) for row in rows]
    kept = sorted((folder / "checkpoints").glob("*.safetensors"), key=lambda file: int(file.stem))
    found = []
    for j, file in enumerate(kept, 1):
        at = j * len(rows) // len(kept) - 1  # the row of f_j, see `engine.fit.evenly_spaced`
        on = {"val/miou_checkpoint": float(rows[at]["val/miou"])}
        found.append(Checkpoint(f"{about['stage']}_f{j}", file, sha256(file), on, steps[at], val))
    if name in metrics["val"]:
        file, miou = folder / "model.safetensors", metrics["val"][name]["miou"]
        made = from_json(about["lineage"])[0].out(file.as_posix()) if "lineage" in about else None
        tags = Measured(miou, val, of_evaluation["evaluation"], only[name]).tags | {"stpp.role": about["stage"]}
        on = {"val/miou_final": miou}
        found.append(Checkpoint(about["stage"], file, made.sha256 if made else "", on, steps[-1], val, tags))
    return found


def _predictions(photos: ImageReader, folder: Path, models: list[str], val: str, path: Path) -> None:
    """Draw validation images beside their true masks and the predicted masks of every model.

    The images on which the models differ in the largest share of pixels come first; with one model, those on which it
    is wrong most often. val: see `_val`.
    """
    first = folder / models[0]
    rows = []
    for name in sorted(file.relative_to(first).with_suffix("").as_posix() for file in first.rglob("*.png")):
        truth = photos.mask(name)
        predicted = [read_png(folder / model / f"{name}.png") for model in models]
        rows.append((_differing(truth, predicted), name, [photos.picture(name), truth, *predicted]))
    rows.sort(key=lambda row: (-row[0], row[1]))
    what = "the models differ" if len(models) > 1 else "the model is wrong"
    heading = f"{val}: {len(rows)} of these images, by the share of pixels where {what} (in brackets)"
    panel(
        [(f"{name} ({share:.0%})", cells) for share, name, cells in rows],
        ["image", "ground truth", *(LABELS.get(model, model) for model in models)],
        photos.dataset.palette,
        photos.dataset.classes,
        path,
        heading,
        truth=1,
    )


def _worst(photos: ImageReader, evaluation: Path, model: str, val: str, path: Path) -> None:
    """Draw the validation images with the lowest mIoU of the final model beside their true and predicted masks.

    The evaluation has these masks in the folder `worst`. val: see `_val`.
    """
    ids, counts = read_images(evaluation / "images.npz", "val")
    values, folder = miou(counts[model]), evaluation / "worst"
    there = {file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.png")}
    rows = [
        (f"{name} ({values[row]:.0f}%)", [photos.picture(name), photos.mask(name), read_png(folder / f"{name}.png")])
        for row in worst_first(counts[model])
        if (name := ids[row]) in there
    ]
    heading = f"{val}: the {len(rows)} images with the lowest mIoU (in brackets); per_image.csv has all"
    titles = ["image", "ground truth", LABELS.get(model, model)]
    panel(rows, titles, photos.dataset.palette, photos.dataset.classes, path, heading, truth=1)


def _differing(truth: Mask, predicted: list[Mask]) -> float:
    """Return the share of pixels on which not all masks agree, in [0, 1]; a single one is compared with the true mask.

    Pixels that the true mask ignores do not count.
    """
    counted = truth != IGNORE
    differ = np.any([predicted[0] != other for other in predicted[1:] or [truth]], axis=0) & counted
    return float(differ.sum() / max(1, counted.sum()))


def _pseudo_masks(photos: ImageReader, folder: Path, stability: dict[str, float], path: Path) -> None:
    """Draw the most and the least stable images of a mask set, beside their true masks where these exist.

    If no stability is known, draw the first and the last images by id.
    """
    masks = MaskSet(folder / "masks")
    scored = {name: f"{name} ({stability[name]:.2f})" for name in masks.ids if name in stability}
    ranked = sorted(scored, key=lambda name: (-stability[name], name)) if scored else sorted(masks.ids)
    ends = [*ranked[:ENDS], *ranked[max(ENDS, len(ranked) - ENDS) :]]
    rows = [(scored.get(name, name), [*_known(photos, name), masks.read(name)]) for name in ends]
    which = f"the {ENDS} most and the {ENDS} least stable" if scored else "the first and the last by id"
    heading = f"{one_line(photos.dataset.name)}, pseudo masks {folder.name}, n = {len(masks.ids)}: {which}"
    titles = ["image", "ground truth", "pseudo mask"]
    panel(rows, titles, photos.dataset.palette, photos.dataset.classes, path, heading, truth=1)


def _known(photos: ImageReader, name: str) -> list[Cell]:
    """Return an image and its true mask; the mask is None if the image has none."""
    return [photos.picture(name), photos.mask(name) if photos.dataset.records[name].mask else None]
