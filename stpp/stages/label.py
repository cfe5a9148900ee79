"""Stage label: pseudo labels of a list of images by test-time augmentation (paper, 4.1)."""

from functools import partial
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

    from stpp.data.datasets import Photos, Plain
    from stpp.data.loaders import prediction_loader
    from stpp.engine import device as devices
    from stpp.engine.evaluate import predictions
    from stpp.engine.predict import augmented, plain
    from stpp.files import raise_all, read_csv, write_csv
    from stpp.manifest import listed, read_dataset
    from stpp.masks import COLUMNS, MaskSet, encode_mask, mask_sha256, shard_name, shards_of, write_shard
    from stpp.models import build
    from stpp.params import IGNORE
    from stpp.progress import progress
    from stpp.selftrain.pseudo import fill, pseudo_mask

    dataset = read_dataset(data)
    found, problems = listed(ids, dataset)
    raise_all(problems, "label")
    wanted = list(found)
    photos = Photos(dataset, Path(p.data.root))
    where = devices.start(p.runtime)
    classes = len(dataset.classes)
    network = build.load(build.build(p.model, classes), model).to(where)
    predict = augmented(plain, p.label.scales, p.label.flip)
    kept = MaskSet(keep) if keep else None

    def label_shard(name: str, ids: list[str], rows: Path, path: Path) -> None:
        loader = prediction_loader(Plain(photos, ids), p.label.batch_size, p.runtime)
        masks, about = {}, []
        for i, probabilities in predictions(network, loader, p.model, where, predict):
            mask, confidence = pseudo_mask(probabilities, p.label.threshold)
            if kept:
                mask = fill(kept.read(i), mask)
            masks[i] = encode_mask(mask, dataset.palette)
            pixels = " ".join(map(str, np.bincount(mask[mask != IGNORE], minlength=classes)))
            about.append((i, name, mask_sha256(mask), pixels, f"{confidence:.6f}", ""))
        write_csv(rows, COLUMNS, about)
        write_shard(path, masks)

    shards = shards_of(wanted, p.label.shards)
    rows: list[tuple[str, ...]] = []
    for index, shard in enumerate(progress(shards, f"label {len(wanted)} images", len(shards))):
        name = shard_name(index, p.label.shards)
        part = job.folder / f"part-{index:05d}.csv"
        job.once(f"masks/{name}", partial(label_shard, name, shard, part))
        rows += [tuple(row[c] for c in COLUMNS) for row in read_csv(part, COLUMNS)]
    write_csv(job.folder / "masks" / "manifest.csv", COLUMNS, sorted(rows))
    confidences = [float(row[4]) for row in rows]
    run.log({"pseudo/images": float(len(rows)), "pseudo/confidence": sum(confidences) / len(rows)}, 0)
