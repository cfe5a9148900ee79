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
    from torch import nn

    from stpp.data.datasets import Photos, Training
    from stpp.engine.fit import Hooks
    from stpp.params import Params

STATE, BEST = "state.pt", "best.safetensors"

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

    from stpp.data.datasets import Photos
    from stpp.engine import device as devices
    from stpp.engine.fit import fit
    from stpp.files import publish, read_dataset, read_ids, write_csv
    from stpp.models import build
    from stpp.seeds import seed_of

    dataset = read_dataset(data)
    photos = Photos(dataset, Path(p.data.root))
    samples = _samples(p, name, photos, read_ids(split / "labeled.txt"), pseudo)

    where = devices.start(p.runtime)
    torch.manual_seed(seed_of(p.train.seed, name, "init"))
    network = build.build(p.model, len(dataset.classes))
    started = build.start(network, p.model, backbone)
    print(
        f"{name}: {_start(p, network, started)}; {where}, {torch.get_num_threads()} threads, {p.model.precision}",
        flush=True,
    )

    state_file = job.folder / STATE
    curve = fit(
        network,
        samples,
        p.train,
        model=p.model,
        runtime=p.runtime,
        device=where,
        role=name,
        started=started,
        hooks=_hooks(job, run, p, photos, read_ids(split / "val.txt"), teacher=not pseudo),
        state=torch.load(state_file, map_location="cpu", weights_only=True) if state_file.exists() else None,
    )
    if p.train.keep == "best_val":
        publish(job.folder / BEST, job.folder / "model.safetensors")
    else:
        build.save(job.folder / "model.safetensors", network.state_dict())
    rows = [_named(row, dataset.classes) for row in curve]
    write_csv(job.folder / "curve.csv", list(rows[0]), [list(row.values()) for row in rows])
    _summarise(job, run, p, curve)


def _start(p: "Params", network: "nn.Module", started: frozenset[str]) -> str:
    """What the network starts from, for a person."""
    if not started:
        return "network from scratch"
    whole = {name for name, _ in network.named_parameters()} <= started
    head = any(not name.startswith("backbone.") for name in started)
    return f"{'network' if whole else 'network but its classifier' if head else 'backbone'} from {p.model.weights}"


def _samples(p: "Params", name: str, photos: "Photos", labeled: list[str], pseudo: list[Path]) -> "Training":
    """D_l, over-sampled, and the pseudo-labelled images; said, and checked to fill a batch."""
    from stpp.data.datasets import Labeled, Training
    from stpp.data.splits import copies
    from stpp.engine.optim import scaled_lr
    from stpp.files import StppError
    from stpp.masks import MaskSet

    parts = [Labeled(photos, masks.ids, masks) for masks in map(MaskSet, pseudo)]
    count = sum(len(part.ids) for part in parts)
    repeat = copies(len(labeled), count)
    samples = Training(Labeled(photos, labeled), repeat, parts, p.augment, p.train.seed, name)
    made_of = f"{len(labeled)} labelled x {repeat}, {count} pseudo-labelled"
    if len(samples) < p.train.batch_size:
        raise StppError(
            f"{name}: {len(samples)} samples an epoch ({made_of}) are fewer than train.batch_size "
            f"{p.train.batch_size}: lower it, or give more images"
        )
    print(
        f"{name}: {made_of}; {p.train.epochs} epochs of {len(samples) // p.train.batch_size} iterations at batch "
        f"{p.train.batch_size}; lr {scaled_lr(p.train):g} (train.lr x {p.train.batch_size} / 16), "
        f"head x {p.train.head_lr_factor:g}"
    )
    return samples


def _hooks(job: Job, run: Run, p: "Params", photos: "Photos", val: list[str], teacher: bool) -> "Hooks":
    """What the loop tells the world: this stage's files and MLflow run. Only a teacher keeps f_1 .. f_K."""
    import torch

    from stpp.data.datasets import Plain
    from stpp.data.loaders import prediction_loader
    from stpp.engine import device as devices
    from stpp.engine.evaluate import Scores, evaluate
    from stpp.engine.fit import Hooks, State
    from stpp.files import replacing
    from stpp.models import build

    loader = prediction_loader(Plain(photos, val), p.evaluate.batch_size, p.runtime)
    where = devices.start(p.runtime)

    def validate(network: torch.nn.Module) -> Scores:
        return evaluate(network, loader, photos, p.model, where)

    def checkpoint(which: str, network: torch.nn.Module) -> None:
        if which == "best":
            if p.train.keep == "best_val":
                build.save(job.folder / BEST, network.state_dict())
        elif teacher:
            build.save(job.folder / "checkpoints" / f"{which}.safetensors", network.state_dict())

    def save(state: State) -> None:
        # Through memory: torch's own writer hides that a disk is full.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with replacing(job.folder / STATE) as partial:
            partial.write_bytes(buffer.getbuffer())

    def log(row: dict[str, float], epoch: int) -> None:
        run.log(_named(row, photos.dataset.classes), epoch)

    return Hooks(validate=validate, checkpoint=checkpoint, save=save, log=log)


def _named(row: dict[str, float], classes: tuple[str, ...]) -> dict[str, float]:
    """val/iou/3 -> val/iou/<name of class 3>, in the letters, digits and few signs that MLflow takes."""
    labels = [re.sub(r"[^\w.\- ]", "_", label) for label in classes]
    labels = [f"{x}_{i}" if labels.count(x) > 1 or not x.strip(" .") else x for i, x in enumerate(labels)]
    names = {f"val/iou/{i}": f"val/iou/{label}" for i, label in enumerate(labels)}
    return {names.get(key, key): value for key, value in row.items()}


def _summarise(job: Job, run: Run, p: "Params", curve: list[dict[str, float]]) -> None:
    """mIoU on val of the last and of the best epoch, whichever is kept."""
    from stpp.files import write_json

    last, best = curve[-1], max(curve, key=lambda row: row["val/miou"])
    summary = {
        "val": {"miou_last": last["val/miou"], "miou_best": best["val/miou"], "epoch_best": int(best["epoch"])},
        "kept": p.train.keep,
        "train_loss": last["train/loss"],
    }
    write_json(job.folder / "metrics.json", summary)
    run.log({"val/miou_last": last["val/miou"], "val/miou_best": best["val/miou"]}, len(curve))
