"""The `evaluate` stage: measures all models on val and test, and pseudo masks where true masks exist.

Models are measured on test here only, and only once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from typer import Option

from stpp.data.pixel_cache import open_cache
from stpp.data.prediction import ImageMaskDataset, batches_of_equal_size, prediction_loader
from stpp.data.reader import ImageReader
from stpp.engine import device as devices
from stpp.engine.evaluate import BatchMasks, Scores, predict_batches
from stpp.engine.evaluate import evaluate as measured
from stpp.engine.metrics import LEVELS, confidence_counts, confusion
from stpp.engine.predict import describe, evaluation_predictor, fold_batch_norms
from stpp.models import build
from stpp.params.models import Params
from stpp.report.statistics import (
    FOREGROUND,
    Counts,
    calibration,
    calibration_error,
    constant_class,
    dice,
    gains,
    iou,
    miou,
    over_classes,
    pixel_accuracy,
    precision,
    recall,
    reliability,
    worst_first,
    write_counts,
)
from stpp.run import distributed
from stpp.run.progress import progress
from stpp.run.resume import Job
from stpp.stages import options
from stpp.stages.stage import Inputs, Recipe, Stage, open_stage
from stpp.store.files import StppError, atomic_write, raise_problems, read_json, write_csv, write_json
from stpp.store.manifest import Dataset, digest_of, read_dataset, read_user_list
from stpp.store.masks import IGNORE, MaskSet, encode_mask

RECIPE = Recipe(__name__, ("model", "evaluate", "label"))
PER_CLASS = ("set", "model", "class", "iou", "dice", "precision", "recall")
PER_IMAGE = ("set", "model", "id", "miou", "pixel_accuracy")
OF_FOREGROUND = ("foreground_iou", "foreground_dice")
CALIBRATION = ("set", "model", "above", "to", "pixels", "accuracy", "confidence")

Ids = Annotated[
    list[Path] | None, Option(help="List of images to use instead of val and test; may be given several times.")
]
Masks = Annotated[list[str] | None, Option(help="Mask set as GROUP=FOLDER; may be given several times.")]


def evaluate(
    model: options.Named,
    data: options.Data,
    out: options.Out,
    split: Annotated[Path | None, Option(help="Folder that `stpp split` wrote; not needed with --ids.")] = None,
    masks: Masks = None,
    ids: Ids = None,
    params: options.Params = None,
) -> None:
    """Evaluate models at original resolution, and pseudo masks where true masks exist.

    The images are those of val and, if the split has one, of test. With --ids,
    they are those of the given lists.
    """
    models, sets = options.named(model), options.named(masks or [])
    lists = _lists(ids or [])
    if not lists and split is None:
        raise StppError("no images given; use --split for its val and test, or --ids LIST")
    if not lists and split is not None:
        lists = {name: split / f"{name}.txt" for name in ("val", "test") if (split / f"{name}.txt").exists()}
    inputs = Inputs(data, split, [*models.values(), *sets.values(), *(ids or [])])
    tables = ["per_class.csv", "per_image.csv", "calibration.csv", "quality.csv"]
    outs = ["metrics.json", "scores.json", "images.npz", *tables, "panels", "worst"]
    also = {"of": [*models, *sets], "on": list(lists)}
    with open_stage("evaluate", RECIPE, options.params_files(params), inputs, out=out, outs=outs, also=also) as stage:
        if not stage.finished:
            _evaluate(stage, models, sets, lists, data)


@dataclass(frozen=True)
class Measured:
    """What was counted of one model on one set."""

    scores: Scores
    counts: Counts
    """By image, in the order of the set."""
    bins: NDArray[np.float64]
    """The calibration, see `report.statistics.calibration`."""


Results = dict[tuple[str, str], Measured]
"""The counts by (set, model)."""


def _evaluate(stage: Stage, models: dict[str, Path], sets: dict[str, Path], lists: dict[str, Path], data: Path) -> None:
    p, job, run = stage.params, stage.job, stage.run
    dataset = read_dataset(data)
    photos = ImageReader(dataset, Path(p.data.root), open_cache(p.runtime, job.folder.parent))
    subsets = {name: _with_masks(path, dataset) for name, path in lists.items()}
    print(f"evaluation: {describe(p.evaluate)}", flush=True)
    _count(job, p, photos, models, subsets)
    distributed.barrier()  # every process writes the panels of its own images
    if not distributed.is_main():
        return

    (job.folder / "panels").mkdir(exist_ok=True)
    results = {(subset, name): _measured(job, subset, name) for subset in subsets for name in models}
    first, (*_, last) = next(iter(subsets)), models  # the last model is the final one of the system
    _write_worst(p, photos, models[last], subsets[first], results[first, last].counts, job.folder / "worst")
    stage.about["evaluation"], stage.about["unit"] = describe(p.evaluate), "%"
    stage.about["lists"] = {subset: digest_of(dataset, ids) for subset, ids in subsets.items()}
    stage.about["images"] = {subset: len(ids) for subset, ids in subsets.items()}
    run.tag("stpp.evaluation", describe(p.evaluate))
    write_counts(job.folder / "images.npz", subsets, {key: one.counts for key, one in results.items()})
    matrices = {s: {name: results[s, name].scores.matrix.tolist() for name in models} for s in subsets}
    metrics = _metrics(results, list(models), list(subsets))
    final = {f"{s}/{name}/{what}": v for s in metrics for name, of in metrics[s].items() for what, v in of.items()}
    quality = []
    for group, folder in sets.items():
        rows, one = _quality(MaskSet(folder), photos, group)
        quality += rows
        if rows:
            metrics.setdefault("pseudo", {})[group] = {"miou": one.miou, "images": len(rows)}
            final[f"pseudo/{group}/miou"] = one.miou
    run.log(final, 0)
    headline = ("miou", "gain", *OF_FOREGROUND)
    whole = {f"{s}/{what}": v for s in subsets for what, v in metrics[s][last].items() if what in headline}
    run.summary(final | whole)
    write_csv(job.folder / "quality.csv", ("id", "group", "miou"), quality)
    write_json(job.folder / "scores.json", matrices)
    write_json(job.folder / "metrics.json", metrics)
    _write_tables(stage, dataset, subsets, results)
    run.artifact(job.folder / "metrics.json")
    _say(stage, dataset, {key: one.scores for key, one in results.items()})


def _measured(job: Job, subset: str, model: str) -> Measured:
    """Return what `_count` wrote of a model on a set."""
    path = _counted(job, subset, model)
    counted = read_json(path)
    levels = np.array(counted["confidence"], dtype=np.int64)
    return Measured(Scores(torch.tensor(counted["matrix"])), np.load(path.with_suffix(".npy")), calibration(levels))


def _metrics(results: Results, models: list[str], subsets: list[str]) -> dict[str, Any]:
    """Return the content of metrics.json: numbers by set and model."""
    metrics: dict[str, Any] = {}
    for subset in subsets:
        above = gains({name: results[subset, name].counts for name in models})
        for name in models:
            one = results[subset, name]
            total = one.counts.sum(0)
            found = {"miou": one.scores.miou, "pixel_accuracy": one.scores.pixel_accuracy}
            if gain := above.get(name):
                found |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
            found |= {"dice": float(over_classes(dice(total))), "ece": calibration_error(one.bins)}
            if total.shape[1] == 2:
                values = (float(of(total)[FOREGROUND]) for of in (iou, dice))
                found |= dict(zip(OF_FOREGROUND, values, strict=True))
            metrics.setdefault(subset, {})[name] = found
    return metrics


def _write_tables(stage: Stage, dataset: Dataset, subsets: dict[str, list[str]], results: Results) -> None:
    """Write and log per_class.csv, per_image.csv (by set and model, the lowest mIoU first) and calibration.csv."""
    per_class, per_image, bins = [], [], []
    two = len(dataset.classes) == 2
    for key, one in results.items():
        ids, total = subsets[key[0]], one.counts.sum(0)
        of_class = [one.scores.iou, *(of(total).tolist() for of in (dice, precision, recall))]
        per_class += [(*key, *row) for row in zip(dataset.classes, *of_class, strict=True)]
        of_image = [miou(one.counts), pixel_accuracy(one.counts)]
        of_image += [of(one.counts)[:, FOREGROUND] for of in (iou, dice)] if two else []
        per_image += [(*key, ids[row], *(float(of[row]) for of in of_image)) for row in worst_first(one.counts)]
        bins += [(*key, *row) for row in reliability(one.bins)]
    folder, run = stage.folder, stage.run
    write_csv(folder / "per_class.csv", PER_CLASS, per_class)
    write_csv(folder / "per_image.csv", PER_IMAGE + OF_FOREGROUND if two else PER_IMAGE, per_image)
    write_csv(folder / "calibration.csv", CALIBRATION, bins)
    run.artifact(folder / "per_image.csv")
    run.artifact(folder / "calibration.csv")
    run.table({name: [row[at] for row in per_class] for at, name in enumerate(PER_CLASS)}, "per_class.json")


def _write_worst(p: Params, photos: ImageReader, model: Path, ids: list[str], counts: Counts, folder: Path) -> None:
    """Write a model's masks of the `evaluate.panels` images with the lowest mIoU as PNGs."""
    folder.mkdir(exist_ok=True)
    where, classes = devices.setup_device(p.runtime), len(photos.dataset.classes)
    network, described = build.load_checkpoint(model, p.model, classes)
    network = fold_batch_norms(network.to(where), described)
    worst = ImageMaskDataset(photos, [ids[row] for row in worst_first(counts)[: p.evaluate.panels]])
    batches = batches_of_equal_size(worst, p.evaluate.batch_size, p.evaluate.max_pixels)
    loader = prediction_loader(worst, batches, p.runtime, where)
    for batch in predict_batches([network], loader, described, where, evaluation_predictor(p.evaluate)):
        for i, mask in zip(batch.ids, batch.masks[0], strict=True):
            with atomic_write(folder / f"{i}.png") as partial:
                partial.write_bytes(encode_mask(mask.cpu().numpy(), photos.dataset.palette))


def _say(stage: Stage, dataset: Dataset, scores: dict[tuple[str, str], Scores]) -> None:
    """Print the mIoU of every model by set, and a warning about a model that predicts one class for every pixel."""
    constant: dict[str, list[str]] = {}
    values: dict[str, list[str]] = {}
    for (subset, name), one in scores.items():
        values.setdefault(subset, []).append(f"{name} {one.miou:.1f}")
        if (only := constant_class(one.matrix.numpy())) is not None:
            constant.setdefault(f"{name} predicts {dataset.classes[only]} for every pixel", []).append(subset)
    for what, subsets in constant.items():
        print(f"warning: {what} of {' and '.join(subsets)}: it has learnt nothing")
    found = "; ".join(f"{subset} mIoU: {', '.join(of)}" for subset, of in values.items())
    stage.done(found, "metrics.json", "per_class.csv")


def _count(job: Job, p: Params, photos: ImageReader, models: dict[str, Path], subsets: dict[str, list[str]]) -> None:
    """Write the counts of every model on every set, unless they exist: in all, by confidence, and by image.

    Also writes the masks of up to `evaluate.panels` images of the first set as PNGs.
    """
    first, candidates = next(iter(subsets.items()))
    count = p.evaluate.panels
    shown = candidates[:: max(1, len(candidates) // count)][:count] if count else []
    for subset, ids in subsets.items():
        for name, model in models.items():
            path = _counted(job, subset, name)
            if distributed.broadcast(not path.exists()):
                panels = {i: job.folder / "panels" / name / f"{i}.png" for i in shown if subset == first}
                total, counts = _counts(p, photos, model, ids, panels, f"evaluate {name} on {subset}")
                if distributed.is_main():
                    with atomic_write(path.with_suffix(".npy")) as partial, partial.open("wb") as file:
                        np.save(file, counts)
                    write_json(path, total)  # written last: its existence says that both files are complete


def _counted(job: Job, subset: str, model: str) -> Path:
    """Return the file that keeps the counts of a model on a set until all are complete."""
    return job.folder / f"on-{subset}" / f"{model}.json"


def _counts(
    p: Params, photos: ImageReader, model: Path, ids: list[str], panels: dict[str, Path], what: str
) -> tuple[dict[str, list[list[int]]], Counts]:
    """Return a model's `matrix` (confusion) and pixels by `confidence` over `ids`, and its counts by image.

    All cover the images of all processes. panels: the path of a PNG by id, for the images whose masks are written.
    """
    where = devices.setup_device(p.runtime)
    classes = len(photos.dataset.classes)
    network, described = build.load_checkpoint(model, p.model, classes)
    network = fold_batch_norms(network.to(where), described)
    images = ImageMaskDataset(photos, ids)
    mine = distributed.shard(batches_of_equal_size(images, p.evaluate.batch_size, p.evaluate.max_pixels))
    loader = prediction_loader(images, mine, p.runtime, where)

    counts = torch.zeros(len(ids), 3, classes, dtype=torch.int64, device=where)
    levels = torch.zeros(LEVELS + 1, 2, dtype=torch.int64, device=where)
    rows = {i: row for row, i in enumerate(ids)}

    def seen(batch: BatchMasks, by_image: torch.Tensor) -> None:
        parts = torch.stack([by_image.diagonal(dim1=1, dim2=2), by_image.sum(2), by_image.sum(1)], dim=1)
        counts[torch.tensor([rows[i] for i in batch.ids], device=where)] = parts
        assert batch.truth is not None
        levels.add_(confidence_counts(batch.confidence, batch.masks[0], batch.truth))
        for i, mask in zip(batch.ids, batch.masks[0], strict=True):
            if i in panels:
                with atomic_write(panels[i]) as partial:
                    partial.write_bytes(encode_mask(mask.cpu().numpy(), photos.dataset.palette))

    scores = measured(
        network, progress(loader, what, len(mine)), classes, described, where, evaluation_predictor(p.evaluate), seen
    )
    total = {"matrix": scores.matrix.tolist(), "confidence": distributed.all_reduce(levels).tolist()}
    return total, distributed.all_reduce(counts).cpu().numpy()


def _lists(paths: list[Path]) -> dict[str, Path]:
    """Return the lists by file name without suffix, the name that they have in the results.

    Raises StppError if a name is taken: by another list, or by another entry of the results.
    """
    lists: dict[str, Path] = {}
    for path in paths:
        if path.stem in lists or path.stem in ("evaluation", "lists", "pseudo"):
            raise StppError(f"{path}: this name is already used in the results; rename the list")
        lists[path.stem] = path
    return lists


def _with_masks(path: Path, dataset: Dataset) -> list[str]:
    """Return the ids of a list. Raises StppError naming all problems of the list, such as images without a mask."""
    ids, problems = read_user_list(path, dataset)
    bare = "has no mask, so it cannot be evaluated"
    problems += [f"{path}:{number}: {i} {bare}" for i, number in ids.items() if not dataset.records[i].mask]
    raise_problems(problems, "evaluate")
    return list(ids)


def _quality(masks: MaskSet, photos: ImageReader, group: str) -> tuple[list[tuple[str, str, float]], Scores]:
    """Return the mIoU of every pseudo mask whose true mask is known, and the scores over all of them.

    A row is (id, group, mIoU). Only pixels that have a pseudo label count.
    """
    classes = len(photos.dataset.classes)
    total = torch.zeros(classes, classes, dtype=torch.int64)
    known = [i for i in masks.ids if photos.dataset.records[i].mask]
    rows = []
    for i in progress(known, f"quality of {group}", len(known)):
        mask, truth = torch.from_numpy(masks.read(i).copy()), torch.from_numpy(photos.mask(i).copy())
        truth[mask == IGNORE] = IGNORE  # count only the pixels that have a pseudo label
        one = confusion(torch.where(mask == IGNORE, 0, mask), truth, classes)
        rows.append((i, group, Scores(one).miou))
        total += one
    return rows, Scores(total)
