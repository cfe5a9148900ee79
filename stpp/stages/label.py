"""Stage label: pseudo labels of a list of images by test-time augmentation (paper, 4.1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from stpp.resume import Job
from stpp.stages import options
from stpp.stages.tracked import tracked
from stpp.tracking.run import Run

if TYPE_CHECKING:
    from stpp.params import Params

Ids = Annotated[Path, Option(help="List of the images to label.")]
Keep = Annotated[Path | None, Option(help="Mask set whose pixels stay: only those it ignores are labelled.")]
Labeller = Annotated[Path, Option(help="Checkpoint that labels.")]


def label(
    model: Labeller,
    ids: Ids,
    data: options.Data,
    split: options.Split,
    out: options.Out,
    keep: Keep = None,
    params: options.Params = None,
) -> None:
    """Label images with a model: a mask set of zip shards and manifest.csv."""
    from stpp.params_file import load

    files = options.params_files(params)
    p = load(files)

    def work(job: Job, run: Run) -> None:
        _label(job, run, p, model, ids, data, keep)

    tracked(
        out.name,
        module=__name__,
        files=files,
        params=p,
        sections={"model": p.model.model_dump(), "label": p.label.model_dump()},
        data=data,
        split=split,
        inputs=[model, ids] if keep is None else [model, ids, keep],
        out=out,
        outs=["masks"],
        work=work,
    )


def _label(job: Job, run: Run, p: "Params", model: Path, ids: Path, data: Path, keep: Path | None) -> None:
    import numpy as np

    from stpp import distributed
    from stpp.data.datasets import Photos, Plain
    from stpp.data.decoded import opened
    from stpp.data.loaders import equal_sized, prediction_loader
    from stpp.engine import device as devices
    from stpp.engine.evaluate import decisions
    from stpp.engine.predict import folded, labelling, window_of
    from stpp.files import raise_all
    from stpp.manifest import listed, read_dataset
    from stpp.masks import MaskSet, ShardWriter, encode_mask, mask_sha256, merge_manifests, shard_name, shards_of
    from stpp.models import build
    from stpp.params import IGNORE
    from stpp.progress import progress
    from stpp.selftrain.pseudo import fill, pseudo_masks

    dataset = read_dataset(data)
    found, problems = listed(ids, dataset)
    raise_all(problems, "label")
    photos = Photos(dataset, Path(p.data.root), opened(p.runtime, job.folder.parent))
    where = devices.start(p.runtime)
    classes = len(dataset.classes)
    network = folded(build.load(build.build(p.model, classes), model).to(where))
    kept = MaskSet(keep) if keep else None

    def label_shard(shard: Path, part: Path, ids: Sequence[str]) -> None:
        images = Plain(photos, ids)
        batches = equal_sized(images, p.label.batch_size, p.label.max_pixels)
        loader = prediction_loader(images, batches, p.runtime, where)
        with ShardWriter(shard, part) as writer:
            for batch in decisions([network], loader, p.model, where, labelling(p.label)):
                decided = pseudo_masks(batch.masks[0], batch.confidence, p.label.threshold)
                for i, mask, mean in zip(batch.ids, *decided, strict=True):
                    labels = fill(kept.read(i), mask) if kept else mask
                    row = {
                        "id": i,
                        "shard": shard.name,
                        "sha256": mask_sha256(labels),
                        "classes": " ".join(map(str, np.bincount(labels[labels != IGNORE], minlength=classes))),
                        "confidence": f"{mean:.6f}",
                        "window": str(window_of(labels.shape[0], labels.shape[1], p.label.max_pixels) or ""),
                    }
                    writer.add(row, encode_mask(labels, dataset.palette))

    names = [shard_name(index, p.label.shards) for index in range(p.label.shards)]
    shards = zip(names, shards_of(sorted(found), p.label.shards), strict=True)
    parts = [job.folder / f"{name}.csv" for name in names]
    mine = distributed.share(list(zip(shards, parts, strict=True)))
    for (name, shard), part in progress(mine, f"label {len(found)} images", len(mine)):
        if not part.exists():  # it is the last that takes its name
            label_shard(job.folder / "masks" / name, part, shard)
    distributed.together()
    if not distributed.first():
        return

    merge_manifests(parts, job.folder / "masks" / "manifest.csv")
    confidence = sum(float(row["confidence"]) for row in MaskSet(job.folder / "masks").rows.values())
    run.log({"pseudo/images": float(len(found)), "pseudo/confidence": confidence / len(found)}, 0)
