"""What trainings on masks and online labelling have in common: the network, the loop, and the files they leave."""

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from stpp.data.datasets import Photos, Plain, Training, WeakStrong, WithTruth
from stpp.data.decoded import opened
from stpp.data.loaders import Batch, equal_sized, prediction_loader
from stpp.data.normalization import Normalization
from stpp.engine import device as devices
from stpp.engine.evaluate import Scores, decisions, evaluate
from stpp.engine.fit import Hooks, State, Step, evenly, fit, measured_after
from stpp.engine.optim import scaled_lr
from stpp.engine.predict import LARGE, decided, plain
from stpp.models import build
from stpp.models.build import About, Start
from stpp.params.models import Params
from stpp.run import distributed
from stpp.run.distributed import first, world
from stpp.run.resume import Job
from stpp.run.seeds import seed_of
from stpp.stages.tracked import tracked
from stpp.store.files import StppError, publish, read_ids, replacing, write_csv, write_json
from stpp.store.manifest import read_dataset
from stpp.tracking.run import Run

STATE, BEST = "state.pt", "best.safetensors"
SHOWN_IMAGES, SHOWN_TIMES = 4, 10
"""Predictions of so many val images go to MLflow after so many epochs, evenly spaced."""


def trained(
    name: str,
    *,
    module: str,
    files: list[Path],
    params: Params,
    sections: dict[str, Any],
    data: Path,
    split: Path,
    backbone: Path,
    pseudo: list[Path],
    out: Path,
    samples_of: Callable[[Photos, Normalization], Training | WeakStrong],
    step_of: Callable[[], Step],
    checkpoints: bool,
) -> None:
    """The whole of a stage that trains: once, tracked, published in `out`.

    sections: parameters that count besides those of every training. samples_of, step_of: what is learnt, and by which
    loss; called when the work begins. checkpoints: whether f_1 .. f_K are kept.
    """

    def work(job: Job, run: Run) -> None:
        _train(job, run, params, name, data, split, backbone, samples_of, step_of(), checkpoints)

    tracked(
        name,
        module=module,
        files=files,
        params=params,
        sections={
            "model": params.model.model_dump(),
            "train": params.train.model_dump(),
            "augment": params.augment.model_dump(),
            **sections,
        },
        data=data,
        split=split,
        inputs=[backbone, *pseudo],
        out=out,
        outs=["model.safetensors", "curve.csv", "metrics.json", *(["checkpoints"] if checkpoints else [])],
        work=work,
    )


def _train(
    job: Job,
    run: Run,
    p: Params,
    name: str,
    data: Path,
    split: Path,
    backbone: Path,
    samples_of: Callable[[Photos, Normalization], Training | WeakStrong],
    step: Step,
    checkpoints: bool,
) -> None:
    """Train one network to its end, going on from the job's state; checkpoints: whether f_1 .. f_K are kept."""
    dataset = read_dataset(data)
    photos = Photos(dataset, Path(p.data.root), opened(p.runtime, job.folder.parent))
    start = build.start_of(backbone)
    samples = samples_of(photos, start.normalization)
    per_epoch = _say(p, name, samples)
    steps = list(measured_after(p.train, per_epoch).values())
    shown_after = {steps[at - 1] for at in evenly(min(SHOWN_TIMES, len(steps)), len(steps))}

    where = devices.start(p.runtime)
    torch.manual_seed(seed_of(p.train.seed, name, "init"))
    network = build.build(p.model, len(dataset.classes))
    started = build.start(network, p.model, backbone)
    about = build.About(p.model, dataset.classes, dataset.palette, start)
    how = f"{where}, {torch.get_num_threads()} threads, {p.model.precision}"
    print(f"{name}: {_start(start, network, started)}; {how}", flush=True)
    run.tag("stpp.start", str(start))

    state_file = job.folder / STATE
    state = torch.load(state_file, map_location="cpu", weights_only=True) if state_file.exists() else None
    if state and (odd := build.not_finite({**state["network"], "the loss": state["loss_sum"]})):
        remedy = "lower train.lr, or remove the file to begin anew"
        raise StppError(f"{state_file}: {odd} has NaN or infinite values: training diverged; {remedy}")
    curve = fit(
        network,
        samples,
        p.train,
        model=p.model,
        runtime=p.runtime,
        device=where,
        role=name,
        started=started,
        hooks=_hooks(job, run, p, photos, read_ids(split / "val.txt"), checkpoints, about, shown_after),
        state=state,
        step=step,
    )
    if not first():
        return
    if p.train.keep == "best_val":
        publish(job.folder / BEST, job.folder / "model.safetensors")
    else:
        build.save(job.folder / "model.safetensors", network.state_dict(), about)
    rows = [_named(row, dataset.classes) for row in curve]
    write_csv(job.folder / "curve.csv", list(rows[0]), [list(row.values()) for row in rows])
    _summarise(job, run, p, curve, steps[-1])


def _say(p: Params, name: str, samples: Training | WeakStrong) -> int:
    """Say how long the training is, and how fast it learns. The iterations of an epoch, checked to be one at least."""
    batch = p.train.batch_size // samples.images
    if batch % world() or batch // world() < 2:
        raise StppError(
            f"{name}: train.batch_size {p.train.batch_size} is that of all {world()} processes together: a multiple of "
            f"{samples.images * world()} is needed, {2 * samples.images * world()} at least"
        )
    if len(samples) < batch:
        raise StppError(
            f"{name}: {len(samples)} samples an epoch ({samples.made_of}) are fewer than a batch of {batch}: "
            "lower train.batch_size, or give more images"
        )
    on = f" on {world()} processes" if world() > 1 else ""
    per_epoch = len(samples) // batch
    epochs = f"{p.train.epochs} epochs of {per_epoch} iterations"
    iterations = f"{p.train.iterations} iterations, {per_epoch} an epoch,"
    print(
        f"{name}: {samples.made_of}; {iterations if p.train.epochs is None else epochs} at batch "
        f"{p.train.batch_size}{on}; lr {scaled_lr(p.train):g} (train.lr x {p.train.batch_size} / 16), "
        f"head x {p.train.head_lr_factor:g}"
    )
    return per_epoch


def _start(start: Start, network: torch.nn.Module, started: frozenset[str]) -> str:
    """What the network starts from, for a person."""
    if not started:
        return "network from scratch"
    whole = {name for name, _ in network.named_parameters()} <= started
    head = any(not name.startswith("backbone.") for name in started)
    return f"{'network' if whole else 'network but its classifier' if head else 'backbone'} from {start}"


def _hooks(
    job: Job,
    run: Run,
    p: Params,
    photos: Photos,
    val: list[str],
    checkpoints: bool,
    about: About,
    shown_after: set[int],
) -> Hooks:
    """What the loop tells the world: this stage's files and MLflow run."""
    where = devices.start(p.runtime)
    decide = decided(plain, LARGE)

    def loader_of(data: Plain, share: bool) -> Iterable[Batch]:
        batches = equal_sized(data, p.evaluate.batch_size, LARGE)
        return prediction_loader(data, distributed.share(batches) if share else batches, p.runtime, where)

    loader = loader_of(WithTruth(photos, val), share=True)
    shown = Plain(photos, val[:SHOWN_IMAGES] if run.enabled else [])
    predicted: list[tuple[str, torch.Tensor]] = []

    def validate(network: torch.nn.Module) -> Scores:
        some = decisions([network], loader_of(shown, share=False), p.model, where, decide) if shown.ids else ()
        predicted[:] = [pair for batch in some for pair in zip(batch.ids, batch.masks[0], strict=True)]
        return evaluate(network, loader, len(photos.dataset.classes), p.model, where, decide)

    def checkpoint(which: str, network: torch.nn.Module) -> None:
        if which == "best":
            if p.train.keep == "best_val":
                build.save(job.folder / BEST, network.state_dict(), about)
        elif checkpoints:
            build.save(job.folder / "checkpoints" / f"{which}.safetensors", network.state_dict(), about)

    def save(state: State) -> None:
        # Through memory: torch's own writer hides that a disk is full.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with replacing(job.folder / STATE) as partial:
            partial.write_bytes(buffer.getbuffer())

    def log(row: dict[str, float], step: int) -> None:
        run.log(_named(row, photos.dataset.classes), step)
        for i, mask in predicted if step in shown_after else ():
            masks = (photos.mask(i), mask.cpu().numpy())
            run.prediction(f"val/{i}", photos.image(i), masks, photos.dataset.palette, step)
        predicted.clear()

    return Hooks(validate=validate, checkpoint=checkpoint, save=save, log=log)


def _named(row: dict[str, float], classes: tuple[str, ...]) -> dict[str, float]:
    """val/iou/3 -> val/iou/<name of class 3>, in the letters, digits and few signs that MLflow takes."""
    labels = [re.sub(r"[^\w.\- ]", "_", label) for label in classes]
    labels = [f"{x}_{i}" if labels.count(x) > 1 or not x.strip(" .") else x for i, x in enumerate(labels)]
    names = {f"val/iou/{i}": f"val/iou/{label}" for i, label in enumerate(labels)}
    return {names.get(key, key): value for key, value in row.items()}


def _summarise(job: Job, run: Run, p: Params, curve: list[dict[str, float]], step: int) -> None:
    """mIoU on val of the last and of the best epoch, whichever is kept."""
    last, best = curve[-1], max(curve, key=lambda row: row["val/miou"])
    summary = {
        "val": {
            "miou_last": last["val/miou"],
            "miou_best": best["val/miou"],
            "epoch_best": round(best["epoch"], 2),
        },
        "iterations": int(last["iteration"]),
        "kept": p.train.keep,
        "train_loss": last["train/loss"],
    }
    write_json(job.folder / "metrics.json", summary)
    run.log({"val/miou_last": last["val/miou"], "val/miou_best": best["val/miou"]}, step)
