"""The training loop, the same for the teacher and every student (paper, Algorithms 1 and 2)."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpp.data.datasets import Training, WeakStrong
from stpp.data.loaders import Batches, training_loader
from stpp.engine.device import precision
from stpp.engine.evaluate import Scores
from stpp.engine.optim import optimizer, schedule
from stpp.models.build import not_finite
from stpp.params.models import Model, Runtime, Train
from stpp.run.distributed import first, rank, summed, world
from stpp.run.progress import progress
from stpp.run.seeds import seed_of
from stpp.store.files import StppError
from stpp.store.masks import IGNORE

SAVE_EVERY_S = 120.0
"""Within an epoch, state is saved about this often."""
POINTS = 10
"""Where the length is given in iterations, val is measured so many times if `train.val_points` is left out."""
SAVING = 0.05
"""The share of the time that saving state takes at most: where epochs are short, it is not saved after every one."""

State = dict[str, Any]
Step = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(network, x, y), a batch of the data's samples -> the loss."""


@dataclass(frozen=True)
class Hooks:
    """What the loop tells the world outside it, at every point of the curve in this order."""

    validate: Callable[[nn.Module], Scores]
    checkpoint: Callable[[str, nn.Module], None]
    """Called with "1".."K", and with "best" whenever val mIoU rises."""
    save: Callable[[State], None]
    """Keeps what `fit` takes as `state` to go on from here."""
    log: Callable[[dict[str, float], int], None]
    """Metrics by name and the epoch or, where the length is given in iterations, the iteration, both counted from 1.

    For a point kept in `state`, once more when it goes on.
    """


def supervised(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The loss of every training on masks, true or pseudo. x (B, 3, H, W), y int64 (B, H, W)."""
    return cross_entropy(network(x.contiguous(memory_format=torch.channels_last)), y)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """L_ce of logits (B, classes, H, W) and y (B, H, W): mean over the pixels that are not 255, 0 where none is."""
    total = F.cross_entropy(logits.float(), y, ignore_index=IGNORE, reduction="sum")
    return mean_over(total, y != IGNORE)


def mean_over(total: Tensor, shown: Tensor) -> Tensor:
    """A sum over pixels, divided by how many are shown (bool) and at least 1.

    Of several processes, by how many each has on average: the mean over the processes, which is what their gradients
    come to, is the mean over all pixels of the batch.
    """
    return total / (summed(shown.sum()) / world()).clamp(min=1 / world())


def evenly(count: int, length: int) -> list[int]:
    """floor(j E / K) for j = 1..K: the epochs E, counted from 1, after which f_1..f_K are kept (paper, 4.1)."""
    return [j * length // count for j in range(1, count + 1)]


def measured_after(train: Train, per_epoch: int) -> dict[int, int]:
    """The iterations after which val is measured, and the step of each on a curve.

    There are `train.val_points`, evenly spaced; left out, one after every epoch, or POINTS of the iterations.
    f_1..f_K are kept at K of them. Steps are epochs where every point ends one, and else iterations.
    All are counted from 1.
    """
    length, unit = (train.iterations, 1) if train.epochs is None else (train.epochs, per_epoch)
    assert length is not None
    points, k = train.val_points or (POINTS if train.epochs is None else length), train.checkpoints
    if points < length:
        points = max(k, points // k * k)
    ends = [at * unit for at in evenly(min(points, length), length)]
    whole = not any(end % per_epoch for end in ends)
    return {end: end // per_epoch if whole else end for end in ends}


def fit(
    network: nn.Module,
    data: Training | WeakStrong,
    train: Train,
    *,
    model: Model,
    runtime: Runtime,
    device: torch.device,
    role: str,
    hooks: Hooks,
    started: frozenset[str] = frozenset(),
    state: State | None = None,
    step: Step = supervised,
) -> list[dict[str, float]]:
    """Train `network` in place; a row for every point (see `measured_after`) with all that is measured there.

    The columns: epoch, iteration, train/loss, train/lr, val/miou, val/pixel_accuracy, val/iou/*.

    started: names of what was filled from trained weights (see `optimizer`); state: what `hooks.save` kept.
    Every draw of an iteration has its own seed, so a run that goes on from a saved state ends, on a CPU with the same
    thread count, in the same weights as one that was never stopped. Raises StppError if the loss or a weight is not
    finite: looked for before the state is saved, so that a good one is never replaced by it.
    """
    if not first():  # of several processes, that alone tells the world
        hooks = replace(hooks, checkpoint=_nothing, save=_nothing, log=_nothing)
    network.to(device)
    replica = replicated(network, device)
    sgd = optimizer(network, train, started)
    iteration, loss_sum, curve = 0, torch.zeros((), dtype=torch.float64, device=device), list[dict[str, float]]()
    per_epoch = len(data) // (train.batch_size // data.images)
    steps = measured_after(train, per_epoch)
    ends = list(steps)
    batches = Batches(len(data), train.batch_size // data.images, ends[-1], train.seed, role)
    poly = schedule(sgd, batches.total)
    if state:
        network.load_state_dict(state["network"])
        sgd.load_state_dict(state["optimizer"])
        poly.load_state_dict(state["schedule"])
        iteration, loss_sum, curve = state["iteration"], state["loss_sum"].to(device), state["curve"]
        for row in curve:
            hooks.log(row, steps[int(row["iteration"])])

    def saved() -> State:
        return {
            "network": network.state_dict(),
            "optimizer": sgd.state_dict(),
            "schedule": poly.state_dict(),
            "iteration": iteration,
            "loss_sum": loss_sum,
            "curve": curve,
        }

    def check() -> None:
        loss, odd = float(loss_sum), not_finite(network.state_dict())
        if odd or not math.isfinite(loss):
            what = f"{odd} has NaN or infinite values" if math.isfinite(loss) else f"the loss is {loss}"
            where = (
                f"in epoch {-(-iteration // per_epoch)}, after iteration {iteration} of {batches.total} at lr {lr:g}"
            )
            raise StppError(f"{role}: {what} {where}: training diverged; lower train.lr")

    batches.start = iteration
    keep_after = {ends[at - 1]: str(j) for j, at in enumerate(evenly(train.checkpoints, len(ends)), 1)}
    pace, began, since = _Pace(), time.monotonic(), iteration
    loader = training_loader(data, batches, runtime, device)
    for x, y in progress(loader, f"train {role}", batches.total, iteration):
        torch.manual_seed(seed_of(train.seed, role, iteration, "dropout") + rank())
        network.train()
        lr = sgd.param_groups[0]["lr"]
        with precision(model, device):
            loss = step(replica, x.to(device, non_blocking=True), y.to(device, non_blocking=True))
        sgd.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        sgd.step()
        poly.step()
        loss_sum += summed(loss.detach()) / world()
        iteration += 1
        if iteration != ends[len(curve)]:
            if pace.due(SAVE_EVERY_S):
                check()
                pace.timed(hooks.save, saved())
            continue

        check()
        mean_loss = float(loss_sum) / (iteration - (ends[len(curve) - 1] if curve else 0))
        loss_sum.zero_()
        rate = (iteration - since) * train.batch_size / (time.monotonic() - began)
        align(network)
        scores = hooks.validate(network)
        best = max((row["val/miou"] for row in curve), default=-1.0)
        length = {"epoch": iteration / per_epoch, "iteration": float(iteration)}
        row = {**length, "train/loss": mean_loss, "train/lr": lr, **_named(scores)}
        curve.append(row)
        if iteration in keep_after:
            hooks.checkpoint(keep_after[iteration], network)
        if scores.miou > best:
            hooks.checkpoint("best", network)
        if pace.due():
            pace.timed(hooks.save, saved())
        hooks.log(row | {"train/images_per_second": rate}, steps[iteration])
        began, since = time.monotonic(), iteration
    return curve


class _Pace:
    """Since when nothing was saved, and how long it took then."""

    def __init__(self) -> None:
        self.last, self.took = time.monotonic(), 0.0

    def due(self, every: float = 0.0) -> bool:
        return time.monotonic() - self.last >= max(every, self.took / SAVING)

    def timed(self, save: Callable[[State], None], state: State) -> None:
        before = time.monotonic()
        save(state)
        self.last = time.monotonic()
        self.took = self.last - before


def replicated(network: nn.Module, device: torch.device) -> nn.Module:
    """The network, or of several processes a replica of it that adds up gradients over them.

    On GPUs batch norm takes its statistics over the whole batch; on CPUs, where PyTorch has no such layer, over each
    process's part, as the authors' code does with its GPUs.
    """
    if world() == 1:
        return network
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    devices = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer releases of torch have another name for it
        return nn.parallel.DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)


def align(network: nn.Module) -> None:
    """Give every process the buffers (running statistics) of the first; parameters are equal already."""
    if world() > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def _nothing(*_: Any) -> None:
    pass


def _named(scores: Scores) -> dict[str, float]:
    per_class = {f"val/iou/{i}": v for i, v in enumerate(scores.iou)}
    return {"val/miou": scores.miou, "val/pixel_accuracy": scores.pixel_accuracy, **per_class}
