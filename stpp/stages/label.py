"""The `label` stage: pseudo labels for a list of images, predicted with test-time augmentation (paper, 4.1)."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from typer import Option

from stpp.data.pixel_cache import open_cache
from stpp.data.prediction import ImageDataset, batches_of_equal_size, nodata_of, prediction_loader
from stpp.data.reader import ImageReader
from stpp.engine import device as devices
from stpp.engine.evaluate import predict_batches
from stpp.engine.predict import fold_batch_norms, label_predictor, window_of
from stpp.models import build
from stpp.run import distributed
from stpp.run.lineage import from_json, sha256_of
from stpp.run.progress import progress
from stpp.run.resume import Job, recipe_hash
from stpp.selftrain.pseudo import fill, pseudo_masks, soft_labels
from stpp.stages import options
from stpp.stages.stage import Inputs, Recipe, Stage, open_stage
from stpp.store.files import StppError, raise_problems, read_json, sha256
from stpp.store.manifest import Dataset, read_dataset, read_user_list
from stpp.store.masks import (
    Levels,
    Mask,
    MaskSet,
    ShardWriter,
    copy_shard,
    merge_manifests,
    read_shard_keys,
    shard_name,
    shards_of,
    write_shard_keys,
)

RECIPE = Recipe(__name__, ("model", "label"))
Ids = Annotated[Path, Option(help="List of the images to label.")]
Keep = Annotated[
    Path | None, Option(help="Mask set whose labels are kept; only the pixels that it ignores are labelled.")
]
Labeller = Annotated[Path, Option(help="Checkpoint of the model that labels the images.")]


def label(
    model: Labeller,
    ids: Ids,
    data: options.Data,
    split: options.Split,
    out: options.Out,
    keep: Keep = None,
    params: options.Params = None,
) -> None:
    """Label images with a model: a mask set of zip shards and a manifest.

    If --out already holds a mask set, its shards are reused where the same
    images would be labelled in the same way.
    """
    inputs = Inputs(data, split, [model, ids] if keep is None else [model, ids, keep])
    files = options.params_files(params)
    with open_stage(out.name, RECIPE, files, inputs, out=out, outs=["masks"]) as stage:
        if not stage.finished:
            _label(stage, model, ids, data, keep)


def _label(stage: Stage, model: Path, ids: Path, data: Path, keep: Path | None) -> None:
    """Label the images shard by shard on all processes; the main process (rank 0) then merges the manifests."""
    p, job, out = stage.params, stage.job, stage.out
    dataset = read_dataset(data)
    found, problems = read_user_list(ids, dataset)
    raise_problems(problems, "label")
    photos = ImageReader(dataset, Path(p.data.root), open_cache(p.runtime, job.folder.parent))
    where = devices.setup_device(p.runtime)
    network, described = build.load_checkpoint(model, p.model, len(dataset.classes))
    network = fold_batch_norms(network.to(where), described)
    kept, soft = MaskSet(keep) if keep else None, p.label.soft
    if soft and kept and not kept.soft:
        raise StppError(f"{keep}: has no soft masks to keep; make it with label.soft, too")

    def label_shard(shard: Path, part: Path, ids: Sequence[str]) -> None:
        images = ImageDataset(photos, ids)
        batches = batches_of_equal_size(images, p.label.batch_size, p.label.max_pixels)
        loader = prediction_loader(images, batches, p.runtime, where)
        with ShardWriter(shard, part, dataset.palette, soft=soft) as writer:
            for batch in predict_batches([network], loader, described, where, label_predictor(p.label)):
                nodata = nodata_of(photos, batch.ids, where)
                decided = pseudo_masks(batch.masks[0], batch.confidence, p.label.threshold, nodata)
                levels = batch.by[0].cpu().numpy() if soft else [None] * len(batch.ids)
                for i, mask, mean, of in zip(batch.ids, *decided, levels, strict=True):
                    side = window_of(mask.shape[0], mask.shape[1], p.label.max_pixels)
                    labels, of_classes = _final(kept, i, mask, of)
                    writer.add(i, labels, mean, side, of_classes)

    names = [shard_name(index, p.label.shards) for index in range(p.label.shards)]
    shards = shards_of(sorted(found), p.label.shards)
    parts = [job.folder / f"{name}.csv" for name in names]
    labeller = f"{recipe_hash(__name__, RECIPE.sections(p))} {sha256(model)}"
    keys = {name: _key(labeller, dataset, kept, shard) for name, shard in zip(names, shards, strict=True)}
    before = distributed.broadcast(_before(job, out))
    same = {name for name, key in keys.items() if before.get(name) == key}
    earlier = MaskSet(out / "masks") if same else None
    stage.resumed(sum(part.exists() for part in parts), len(parts))
    mine = distributed.shard(list(zip(names, shards, parts, strict=True)))
    for name, shard, part in progress(mine, f"label {len(found)} images", len(mine)):
        if part.exists():  # the part takes its final name after the shard, so both are complete
            continue
        if earlier is not None and name in same:
            copy_shard(earlier, shard, job.folder / "masks" / name, part)
        else:
            label_shard(job.folder / "masks" / name, part, shard)
    distributed.barrier()
    if not distributed.is_main():
        return

    if same:
        print(f"{stage.name}: {len(same)} of {len(names)} shards are reused: the same images, labelled in the same way")
    merge_manifests(parts, job.folder / "masks" / "manifest.csv")
    write_shard_keys(job.folder / "masks", keys)
    rows = MaskSet(job.folder / "masks").rows.values()
    confidence, labelled = 0.0, np.zeros(len(dataset.classes), np.int64)
    for row in rows:
        confidence += float(row["confidence"])
        labelled += np.array(row["classes"].split(), np.int64)
    if np.count_nonzero(labelled) == 1:
        only = dataset.classes[int(labelled.argmax())]
        print(f"warning: {model} labels every pixel of {len(found)} images as {only}: it has learnt nothing")
    stage.run.log({"pseudo/images": float(len(found)), "pseudo/confidence": confidence / len(found)}, 0)
    stage.done(f"{len(found)} masks, mean confidence {confidence / len(found):.2f}", "masks")


def _final(kept: MaskSet | None, name: str, mask: Mask, levels: Levels | None) -> tuple[Mask, Levels | None]:
    """Return the pseudo mask of an image and its soft mask, if any, with the labels of `kept`."""
    labels = fill(kept.read(name), mask) if kept else mask
    if levels is None:
        return labels, None
    return labels, soft_labels(levels, labels, kept.read_levels(name) if kept else None)


def _key(labeller: str, dataset: Dataset, kept: MaskSet | None, shard: Iterable[str]) -> str:
    """Return a hash of everything that the masks of a shard depend on."""
    total = hashlib.sha256(f"{labeller} {dataset.classes} {dataset.palette}{dataset.reading or ''}".encode())
    for i in shard:
        total.update(f"\n{i} {dataset.records[i].image_sha256} {kept.rows[i]['sha256'] if kept else ''}".encode())
    return total.hexdigest()


def _before(job: Job, out: Path) -> dict[str, str]:
    """Return the hash by shard (see `_key`) of the mask set in `out`, if it is unchanged since this stage wrote it.

    The result is empty if that run had the same inputs, because a forced repetition (`dvc repro -f`) must do all the
    work again. It is also empty on all processes but the main process (rank 0).
    """
    masks, record = out / "masks", out / "run.json"
    if not distributed.is_main() or not masks.is_dir() or not record.is_file():
        return {}
    try:
        about = read_json(record)
        own = next(content for content in from_json(about["lineage"])[0].outs if Path(content.path).name == "masks")
        return read_shard_keys(masks) if about["key"] != job.key and own.sha256 == sha256_of(masks) else {}
    except (StppError, KeyError, IndexError, StopIteration, TypeError, ValueError):
        return {}  # written by another version of stpp, or damaged
