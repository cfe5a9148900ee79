"""Stage train: the teacher on D_l, or a student on D_l and pseudo-labelled images (paper, Algorithms 1 and 2)."""

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from stpp.resume import Job
from stpp.stages import options
from stpp.stages.tracked import tracked
from stpp.tracking import Run

if TYPE_CHECKING:
    from stpp.params import Params

Name = Annotated[str, Option(help="Role of the model: teacher, student_1, student. Part of every seed.")]
Backbone = Annotated[Path, Option(help="File that `stpp backbone` wrote.")]
Pseudo = Annotated[list[Path] | None, Option(help="Mask set of pseudo labels; may be given several times.")]


def train(
    name: Name,
    data: options.Data,
    split: options.Split,
    backbone: Backbone,
    out: options.Out,
    pseudo: Pseudo = None,
    params: options.Params = None,
) -> None:
    """Train a teacher on the labelled images alone, keeping K checkpoints, or a student with pseudo labels as well."""
    from stpp.params import load

    p = load(options.params_files(params))
    sets = pseudo or []

    def work(job: Job, run: Run) -> None:
        _train(job, run, p, name, data, split, backbone, sets)

    tracked(
        name,
        module=__name__,
        params=p,
        sections={
            "model": p.model.model_dump(),
            "train": p.train.model_dump(),
            "augment": p.augment.model_dump(),
            "evaluate.batch_size": p.evaluate.batch_size,
        },
        data=data,
        split=split,
        inputs=[backbone, *sets],
        out=out,
        files=["model.safetensors", "curve.csv", "metrics.json", *([] if sets else ["checkpoints"])],
        work=work,
    )


def _train(
    job: Job, run: Run, p: "Params", name: str, data: Path, split: Path, backbone: Path, pseudo: list[Path]
) -> None:
    import torch

    from stpp.data.datasets import Labeled, Photos, Plain, Training
    from stpp.data.loaders import Batches, prediction_loader
    from stpp.data.splits import copies
    from stpp.engine import device as devices
    from stpp.engine.evaluate import Scores, evaluate
    from stpp.engine.fit import Hooks, State, fit
    from stpp.engine.optim import scaled_lr
    from stpp.files import StppError, publish, read_dataset, read_ids, replacing, write_csv, write_json
    from stpp.masks import MaskSet
    from stpp.models import build
    from stpp.seeds import seed_of

    dataset = read_dataset(data)
    photos = Photos(dataset, Path(p.data.root))
    labeled = Labeled(photos, read_ids(split / "labeled.txt"))
    parts = [Labeled(photos, masks.ids, masks) for masks in map(MaskSet, pseudo)]
    repeat = copies(len(labeled.ids), sum(len(part.ids) for part in parts))
    samples = Training(labeled, repeat, parts, p.augment, p.train.seed, name)
    val = prediction_loader(Plain(photos, read_ids(split / "val.txt")), p.evaluate.batch_size, p.runtime)

    if len(samples) < p.train.batch_size:
        raise StppError(
            f"{name}: {len(samples)} samples an epoch ({len(labeled.ids)} labelled x {repeat}, and pseudo-labelled) "
            f"are fewer than train.batch_size {p.train.batch_size}: lower it, or give more images"
        )

    where = devices.start(p.runtime)
    torch.manual_seed(seed_of(p.train.seed, name, "init"))
    network = build.build(p.model, len(dataset.classes))
    pretrained = build.start(network, backbone)
    batches = Batches(len(samples), p.train.batch_size, p.train.epochs, p.train.seed, name)
    print(
        f"{name}: {len(labeled.ids)} labelled x {repeat}, {len(samples) - samples.labeled} pseudo-labelled; "
        f"{p.train.epochs} epochs of {batches.per_epoch} iterations at batch {p.train.batch_size}; "
        f"lr {scaled_lr(p.train):g} (train.lr x {p.train.batch_size} / 16), head x {p.train.head_lr_factor:g}; "
        f"backbone {'from ' + p.model.weights if pretrained else 'from scratch'}; {where}, "
        f"{torch.get_num_threads()} threads, {p.model.precision}",
        flush=True,
    )

    state_file = job.folder / "state.pt"

    def save(state: State) -> None:
        # Through memory: torch's own writer hides that a disk is full.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with replacing(state_file) as partial:
            partial.write_bytes(buffer.getbuffer())

    def checkpoint(which: str, net: torch.nn.Module) -> None:
        if which == "best":
            if p.train.keep == "best_val":
                build.save(job.folder / "best.safetensors", net.state_dict())
        elif not pseudo:
            build.save(job.folder / "checkpoints" / f"{which}.safetensors", net.state_dict())

    def validate(net: torch.nn.Module) -> Scores:
        return evaluate(net, val, photos, p.model, where)

    # Metric names that MLflow takes: letters, digits and a few signs.
    labels = [re.sub(r"[^\w.\- ]", "_", label) for label in dataset.classes]
    labels = [f"{x}_{i}" if labels.count(x) > 1 or not x.strip(" .") else x for i, x in enumerate(labels)]

    def named(row: dict[str, float]) -> dict[str, float]:
        """val/iou/3 -> val/iou/<name of class 3>"""
        classes = {f"val/iou/{i}": f"val/iou/{label}" for i, label in enumerate(labels)}
        return {classes.get(key, key): value for key, value in row.items()}

    def log(row: dict[str, float], epoch: int) -> None:
        run.log(named(row), epoch)

    hooks = Hooks(validate=validate, checkpoint=checkpoint, save=save, log=log)
    state = torch.load(state_file, map_location="cpu", weights_only=True) if state_file.exists() else None
    curve = fit(
        network,
        samples,
        p.train,
        model=p.model,
        runtime=p.runtime,
        device=where,
        role=name,
        hooks=hooks,
        state=state,
    )
    if p.train.keep == "best_val":
        publish(job.folder / "best.safetensors", job.folder / "model.safetensors")
    else:
        build.save(job.folder / "model.safetensors", network.state_dict())
    write_csv(job.folder / "curve.csv", list(named(curve[0])), [list(row.values()) for row in curve])
    best = max(curve, key=lambda row: row["val/miou"])
    summary = {
        "val": {"miou_last": curve[-1]["val/miou"], "miou_best": best["val/miou"], "epoch_best": int(best["epoch"])},
        "kept": p.train.keep,
        "train_loss": curve[-1]["train/loss"],
    }
    write_json(job.folder / "metrics.json", summary)
    run.log({"val/miou_last": curve[-1]["val/miou"], "val/miou_best": best["val/miou"]}, len(curve))
