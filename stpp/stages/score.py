"""The `score` stage: measures the stability of unlabelled images over the teacher's checkpoints (paper, 3.4)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated

import torch
from typer import Option

from stpp.data.pixel_cache import open_cache
from stpp.data.prediction import ImageMaskDataset, batches_of_equal_size, nodata_of, prediction_loader
from stpp.data.reader import ImageReader
from stpp.engine import device as devices
from stpp.engine.evaluate import predict_batches
from stpp.engine.metrics import confusions, image_means, iou
from stpp.engine.predict import fold_batch_norms, mask_predictor, single_pass
from stpp.models import build
from stpp.run import distributed
from stpp.run.progress import progress
from stpp.selftrain.scoring.criteria import CRITERIA
from stpp.selftrain.scoring.stability import stabilities
from stpp.stages import options
from stpp.stages.stage import Inputs, Recipe, Stage, open_stage
from stpp.store.files import StppError, read_ids, scan_csv, write_csv
from stpp.store.manifest import read_dataset
from stpp.store.masks import IGNORE, shards_of

RECIPE = Recipe(__name__, ("model", "score"))
Checkpoints = Annotated[Path, Option(help="Folder of the checkpoints f_1 .. f_K.")]


def score(
    checkpoints: Checkpoints,
    data: options.Data,
    split: options.Split,
    out: options.Out,
    params: options.Params = None,
) -> None:
    """Score the stability of every unlabelled image's pseudo masks.

    scores.csv holds the stability of each image, s_i / (K - 1) in [0, 1].
    For comparison, it also holds the mean confidence of M_iK, in (0, 1].
    M_iK is the mask that the last checkpoint predicts. classes.csv holds how
    many pixels of M_iK each class has.
    """
    inputs = Inputs(data, split, [checkpoints])
    outs = ["scores.csv", "quality.csv", "classes.csv"]
    with open_stage("score", RECIPE, options.params_files(params), inputs, out=out, outs=outs) as stage:
        if not stage.finished:
            _score(stage, checkpoints, data, split)


def _score(stage: Stage, checkpoints: Path, data: Path, split: Path) -> None:
    p, job, run = stage.params, stage.job, stage.run
    dataset = read_dataset(data)
    photos = ImageReader(dataset, Path(p.data.root), open_cache(p.runtime, job.folder.parent))
    where = devices.setup_device(p.runtime)
    classes = len(dataset.classes)
    # Sort f_1 .. f_K by number, not by name: "10" comes after "9".
    files = sorted((f for f in checkpoints.glob("*.safetensors") if f.stem.isdecimal()), key=lambda f: int(f.stem))
    if len(files) < 2:
        raise StppError(
            f"{checkpoints}: has {len(files)} checkpoints (1.safetensors, 2.safetensors, ...); stability needs two"
        )
    loaded = [build.load_checkpoint(file, p.model, classes) for file in files]
    networks, model = [fold_batch_norms(network.to(where), model) for network, model in loaded], loaded[-1][1]

    columns = ("id", "stability", "confidence", *p.score.criteria, "quality")
    pixels = tuple(f"pixels_{c}" for c in range(classes))
    criteria = [resolve_name(CRITERIA[name]) for name in p.score.criteria]
    decide = mask_predictor(single_pass, p.score.max_pixels, criteria=criteria)

    def score_shard(ids: Sequence[str], path: Path) -> None:
        images = ImageMaskDataset(photos, ids)
        batches = batches_of_equal_size(images, p.score.batch_size, p.score.max_pixels)
        loader = prediction_loader(images, batches, p.runtime, where)
        rows: list[tuple[str | float, ...]] = []
        for batch in predict_batches(networks, loader, model, where, decide):
            assert batch.truth is not None
            # batch.masks holds M_i1 .. M_iK of the batch's images
            nodata = nodata_of(photos, batch.ids, where)
            s = stabilities(batch.masks, classes, nodata).tolist()
            confidence = image_means(batch.confidence, nodata)
            qualities = (100 * iou(confusions(batch.masks[-1], batch.truth, classes)).nanmean(-1)).tolist()
            known = [repr(q) if dataset.records[i].mask else "" for i, q in zip(batch.ids, qualities, strict=True)]
            by = [image_means(one, nodata) for one in batch.by]
            last = batch.masks[-1] if nodata is None else batch.masks[-1].masked_fill(nodata, IGNORE)
            counts = [mask.flatten().bincount(minlength=classes)[:classes] for mask in last]
            rows += zip(batch.ids, s, confidence, *by, known, *torch.stack(counts).T.tolist(), strict=True)
        write_csv(path, columns + pixels, rows)

    ids = read_ids(split / "unlabeled.txt")
    shards = shards_of(ids, p.score.shards)
    names = [f"part-{index:05d}.csv" for index in range(len(shards))]
    stage.resumed(sum((job.folder / name).exists() for name in names), len(names))
    mine = distributed.shard(list(zip(names, shards, strict=True)))
    for name, shard in progress(mine, f"score {len(ids)} images", len(mine)):
        job.once(name, partial(score_shard, shard))
    distributed.barrier()
    if not distributed.is_main():
        return

    scored = sorted(row for name in names for row in scan_csv(job.folder / name, columns))
    write_csv(job.folder / "scores.csv", columns[:-1], (row[:-1] for row in scored))
    counted = sorted(row for name in names for row in scan_csv(job.folder / name, ("id", *pixels)))
    write_csv(job.folder / "classes.csv", ("id", *dataset.classes), counted)
    # The true quality of M_iK, for unlabelled images with a true mask. Only reports and `select.by: oracle` use it.
    write_csv(job.folder / "quality.csv", ("id", "miou"), ((row[0], row[-1]) for row in scored if row[-1]))
    s = [float(row[1]) for row in scored]
    confidence = [float(row[2]) for row in scored]
    run.table({"id": [row[0] for row in scored], "stability": s, "confidence": confidence}, "scores.json")
    run.log({"stability/mean": sum(s) / len(s), "stability/min": min(s)}, 0)
    found = f"stability {sum(s) / len(s):.2f} on average, {min(s):.2f} to {max(s):.2f}"
    stage.done(f"{len(s)} images with K = {len(files)} checkpoints; {found}", "scores.csv")
