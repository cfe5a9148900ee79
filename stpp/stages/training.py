"""What the stages `train` and `train-online` share: the network, the training loop, and the files that they write."""

import io
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stpp.data.datasets import OnlineDataset, SelfTrainingDataset
from stpp.data.normalization import Normalization
from stpp.data.pixel_cache import open_cache
from stpp.data.prediction import Batch, ImageDataset, ImageMaskDataset, batches_of_equal_size, prediction_loader
from stpp.data.reader import ImageReader
from stpp.data.seeds import seed_of
from stpp.engine import device as devices
from stpp.engine.evaluate import Scores, evaluate, predict_batches
from stpp.engine.fit import Hooks, State, Step, Trainer, evenly_spaced, fit
from stpp.engine.losses import Loss, by_frequency, loss_of
from stpp.engine.optim import scaled_lr
from stpp.engine.predict import LARGE, mask_predictor, single_pass
from stpp.models import build, metadata
from stpp.models.metadata import CheckpointMetadata, Start
from stpp.params.models import Params
from stpp.run import distributed
from stpp.run.distributed import is_main, world_size
from stpp.stages.stage import Stage
from stpp.store.files import StppError, atomic_write, publish, read_ids, write_csv, write_json
from stpp.store.manifest import read_dataset

OUTS = ["model.safetensors", "curve.csv", "metrics.json"]
STATE, BEST = "state.pt", "best.safetensors"
SHOWN_IMAGES, SHOWN_TIMES = 4, 10
"""How many val images have their predictions logged to MLflow, and at how many evenly spaced points of the curve."""


def photos_of(stage: Stage, data: Path) -> ImageReader:
    """Return the images and masks of the data set, with the pixel cache."""
    p = stage.params
    return ImageReader(read_dataset(data), Path(p.data.root), open_cache(p.runtime, stage.folder.parent))


def start_for(photos: ImageReader, backbone: Path) -> Start:
    """Return which weights a training starts from, with the data set's own normalisation if it has one."""
    start, reading = metadata.start_of(backbone), photos.dataset.reading
    return replace(start, normalization=Normalization(reading.mean, reading.std)) if reading and reading.mean else start


def loss_for(stage: Stage, photos: ImageReader, split: Path) -> Loss:
    """Return the loss that `train.loss` asks for. Class weights are printed and go into run.json.

    Raises StppError if there is not one weight for each class.
    """
    chosen, classes = stage.params.train.loss, photos.dataset.classes
    if chosen.class_weights is None:
        return loss_of(chosen)
    if chosen.class_weights == "frequency":
        masks = map(photos.mask, read_ids(split / "labeled.txt"))
        pixels = np.sum([np.bincount(mask.ravel(), minlength=256) for mask in masks], axis=0).tolist()[: len(classes)]
        weights = by_frequency(pixels)
        stage.about["class_pixels"] = dict(zip(classes, pixels, strict=True))
    else:
        weights = list(chosen.class_weights)
    if len(weights) != len(classes):
        raise StppError(
            f"train.loss.class_weights has {len(weights)} numbers, but the data set has {len(classes)} classes "
            f"({', '.join(classes)}); give one for each, or `frequency`"
        )
    stage.about["class_weights"] = dict(zip(classes, weights, strict=True))
    shown = ", ".join(f"{name} {weight:.3g}" for name, weight in stage.about["class_weights"].items())
    print(f"{stage.name}: class weights: {shown}")
    return loss_of(chosen, weights)


def train_network(
    stage: Stage,
    photos: ImageReader,
    samples: SelfTrainingDataset | OnlineDataset,
    split: Path,
    backbone: Path,
    step: Step,
    *,
    checkpoints: bool,
) -> None:
    """Train one network to its end, from the stage's saved state if there is one.

    The main process (rank 0) writes model.safetensors, curve.csv and metrics.json. checkpoints: whether f_1 .. f_K are
    kept.
    """
    name, p = stage.name, stage.params
    dataset, model, start = photos.dataset, metadata.model_of(backbone), start_for(photos, backbone)
    per_epoch = _say(p, name, samples)

    where = devices.setup_device(p.runtime)
    torch.manual_seed(seed_of(p.train.seed, name, "init"))
    network = build.build(model, len(dataset.classes), start.normalization)
    started = build.load_start_weights(network, model, backbone)
    trainer = Trainer(network, p.train, per_epoch, model=model, device=where, role=name, started=started, step=step)
    how = f"{where}, {torch.get_num_threads()} threads, {model.precision}"
    if not getattr(step, "eager", False) and devices.compiles(p.runtime, where, trainer.ends[-1]):
        trainer.compile(strict=p.runtime.compile is True)
        how += ", compiled"
    stage.about["network"], stage.about["compute"] = model.title, how
    print(f"{name}: {model.network} on {model.backbone}, {_start(start, network, started)}; {how}", flush=True)
    if model.precision == "bfloat16" and devices.emulates_bfloat16(where):
        lacking = "this processor has no instructions for bfloat16, so float32 is several times as fast"
        print(f"{name}: warning: {lacking}: set model.precision, or ask `stpp preset suggest`", flush=True)
    stage.run.tag("stpp.start", str(start))
    stage.run.tag("stpp.network", model.title)

    if state := _state_of(stage):
        trainer.load_state_dict(state)
    before = trainer.iteration
    steps = list(trainer.steps.values())
    about = CheckpointMetadata(model, dataset.classes, dataset.palette, start, dataset.reading)
    hooks = _World(stage, photos, read_ids(split / "val.txt"), about, steps, keep=checkpoints)
    curve = fit(trainer, samples, p.runtime, hooks)
    if not is_main():
        return
    if p.train.keep == "best_val":
        publish(stage.folder / BEST, stage.folder / "model.safetensors")
    else:
        build.save(stage.folder / "model.safetensors", trainer.kept.state_dict(), about)
    rows = [_named(row, dataset.classes) for row in curve]
    write_csv(stage.folder / "curve.csv", list(rows[0]), [list(row.values()) for row in rows])
    _summarise(stage, curve, steps[-1], before)


def _state_of(stage: Stage) -> State | None:
    """Return the state that an earlier attempt saved; None if there is none.

    Raises StppError if the state has NaN or infinite values.
    """
    file = stage.folder / STATE
    if not file.exists():
        return None
    state: State = torch.load(file, map_location="cpu", weights_only=True)
    if odd := build.first_non_finite({**state["network"], "the loss": state["loss_sum"]}):
        remedy = "lower train.lr, or remove the file to start again"
        raise StppError(f"{file}: {odd} has NaN or infinite values: training diverged; {remedy}")
    return state


def _say(p: Params, name: str, samples: SelfTrainingDataset | OnlineDataset) -> int:
    """Print the length of the training and its learning rate; return the iterations of an epoch, at least one.

    Raises StppError if the batch does not divide into equal parts (`train.accumulate`) of at least two samples for all
    processes, or if an epoch has fewer samples than a batch.
    """
    batch, parts = p.train.batch_size // samples.images, world_size() * p.train.accumulate
    if batch % parts or batch // parts < 2:
        step = samples.images * parts
        shares = {"processes": world_size(), "parts (train.accumulate)": p.train.accumulate}
        whole = f"is shared by {' with '.join(f'{n} {what}' for what, n in shares.items() if n > 1)}"
        needed = f"it must be a multiple of {step}, at least {2 * step}"
        raise StppError(f"{name}: train.batch_size {p.train.batch_size} {whole}; {needed}")
    if len(samples) < batch:
        raise StppError(
            f"{name}: an epoch has {len(samples)} samples ({samples.made_of}), fewer than a batch of {batch}; "
            "lower train.batch_size, or add images"
        )
    on = f" on {world_size()} processes" if world_size() > 1 else ""
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
    """Return a text that says what the network starts from."""
    if not started:
        return "network from scratch"
    whole = {name for name, _ in network.named_parameters()} <= started
    head = any(not name.startswith("backbone.") for name in started)
    frozen = not all(one.requires_grad for one in network.parameters())
    channels = network.get_buffer("pixel_mean").shape[1]
    adapted = f", also its first layer, whose weights for 3 channels were adapted to {channels}"
    return (
        f"{'network' if whole else 'network but its classifier' if head else 'backbone'} from {start}"
        f"{f', the backbone frozen{adapted * (channels != 3)}' if frozen else ''}"
    )


class _World(Hooks):
    """The hooks of a training: they write the stage's files and its MLflow run.

    steps: the steps of the curve. keep: whether f_1 .. f_K are kept.
    """

    def __init__(
        self,
        stage: Stage,
        photos: ImageReader,
        val: list[str],
        about: CheckpointMetadata,
        steps: list[int],
        *,
        keep: bool,
    ) -> None:
        self.stage, self.photos, self.about, self.keep = stage, photos, about, keep
        self.where = devices.setup_device(stage.params.runtime)
        self.decide = mask_predictor(single_pass, LARGE)
        self.loader = self._loader(ImageMaskDataset(photos, val), share=True)
        self.shown = ImageDataset(photos, val[:SHOWN_IMAGES] if stage.run.enabled else [])
        self.shown_after = {steps[at - 1] for at in evenly_spaced(min(SHOWN_TIMES, len(steps)), len(steps))}
        self.predicted: list[tuple[str, torch.Tensor]] = []

    def _loader(self, data: ImageDataset, share: bool) -> Iterable[Batch]:
        p = self.stage.params
        batches = batches_of_equal_size(data, p.evaluate.batch_size, LARGE)
        return prediction_loader(data, distributed.shard(batches) if share else batches, p.runtime, self.where)

    def validate(self, network: torch.nn.Module) -> Scores:
        model, loader = self.about.model, self._loader(self.shown, share=False)
        some = predict_batches([network], loader, model, self.where, self.decide) if self.shown.ids else ()
        self.predicted = [pair for batch in some for pair in zip(batch.ids, batch.masks[0], strict=True)]
        return evaluate(network, self.loader, len(self.photos.dataset.classes), model, self.where, self.decide)

    def checkpoint(self, which: str, network: torch.nn.Module) -> None:
        if which == "best":
            if self.stage.params.train.keep == "best_val":
                build.save(self.stage.folder / BEST, network.state_dict(), self.about)
        elif self.keep:
            build.save(self.stage.folder / "checkpoints" / f"{which}.safetensors", network.state_dict(), self.about)

    def save(self, state: State) -> None:
        # Save through memory: torch's own writer hides that the disk is full.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with atomic_write(self.stage.folder / STATE) as partial:
            partial.write_bytes(buffer.getbuffer())

    def log(self, row: dict[str, float], step: int) -> None:
        dataset, run = self.photos.dataset, self.stage.run
        run.log(_named(row, dataset.classes), step)
        if self.predicted and step in self.shown_after:
            rows = [(self.photos.picture(i), self.photos.mask(i), mask.cpu().numpy()) for i, mask in self.predicted]
            run.predictions("val predictions", rows, dataset.palette, step)
        self.predicted = []


def _named(row: dict[str, float], classes: tuple[str, ...]) -> dict[str, float]:
    """Rename val/iou/3 to val/iou/<name of class 3>, with only those characters that MLflow accepts.

    A name that is blank, or that two classes share, ends in the class id.
    """
    labels = [re.sub(r"[^\w.\- ]", "_", label) for label in classes]
    labels = [f"{x}_{i}" if labels.count(x) > 1 or not x.strip(" .") else x for i, x in enumerate(labels)]
    names = {f"val/iou/{i}": f"val/iou/{label}" for i, label in enumerate(labels)}
    return {names.get(key, key): value for key, value in row.items()}


def _summarise(stage: Stage, curve: list[dict[str, float]], step: int, before: int) -> None:
    """Write metrics.json with val mIoU of the last and of the best epoch, log both to MLflow, and print them.

    Both are written, regardless of which network `train.keep` keeps. step: the last step of the curve. before: the
    iterations that an earlier attempt did.
    """
    last, best = curve[-1], max(curve, key=lambda row: row["val/miou"])
    summary = {
        "val": {
            "miou_last": last["val/miou"],
            "miou_best": best["val/miou"],
            "epoch_best": round(best["epoch"], 2),
        },
        "iterations": int(last["iteration"]),
        "kept": stage.params.train.keep,
        "train_loss": last["train/loss"],
    }
    write_json(stage.folder / "metrics.json", summary)
    stage.run.log({"val/miou_last": last["val/miou"], "val/miou_best": best["val/miou"]}, step)
    of = f"{summary['iterations']} iterations" + (f", {before} of them before a stop" if before else "")
    found = f"{last['val/miou']:.1f}, best {best['val/miou']:.1f} in epoch {best['epoch']:.4g}"
    kept = ", which is kept" if stage.params.train.keep == "best_val" else ""
    stage.done(f"{of}; val mIoU {found}{kept}", *OUTS)
