"""The training loop, the same for the teacher and every student (paper, Algorithms 1 and 2)."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stpp.data.datasets import OnlineDataset, SelfTrainingDataset
from stpp.data.loaders import TrainingBatchSampler, seed_each_batch, training_loader
from stpp.engine.device import autocast
from stpp.engine.evaluate import Scores
from stpp.engine.losses import Loss, cross_entropy
from stpp.engine.optim import MovingAverage, optimizer, schedule
from stpp.models.build import first_non_finite, train_mode
from stpp.params.models import Model, Runtime, Train
from stpp.run.distributed import all_reduce, is_main, world_size
from stpp.run.progress import bar
from stpp.run.training_lines import training_lines
from stpp.store.files import StppError

SAVE_EVERY_S = 120.0
"""Between two points of the curve, the training state is saved about once in this many seconds."""
POINTS = 10
"""How often val is measured if the length is given in iterations and `train.val_points` is left out."""
SAVING = 0.05
"""Largest share of the time that saving state may take. Where epochs are short, not every one is saved."""

State = dict[str, Any]
Step = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(network, x, y, whole) -> the loss; x and y are a batch of samples or a part of it, whole is y of the whole batch.

The losses of the parts add up to the loss of the batch: a mean divides by the pixels of `whole`. A step with state is a
`StatefulStep`.
"""


@runtime_checkable
class StatefulStep(Protocol):
    """A step with its own state, such as an averaged teacher; the state is saved and restored with the network's."""

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor: ...

    def after(self, network: nn.Module) -> None:
        """Update the state; called after the optimiser's step of every iteration."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class Hooks:
    """Callbacks of the training loop; by default they do nothing.

    The loop calls them in this order at every point of the curve. `save` is skipped if the last save was too recent,
    and is also called between points.
    """

    def validate(self, network: nn.Module) -> Scores | None:
        """Return the scores on val, or None if there is no val."""

    def checkpoint(self, which: str, network: nn.Module) -> None:
        """Keep the network. which: "1".."K" for f_1..f_K, or "best" whenever val mIoU rises."""

    def save(self, state: State) -> None:
        """Keep a trainer's state, so that training can resume from here.

        Write it before returning: it refers to the tensors of the network in training.
        """

    def log(self, row: dict[str, float], step: int) -> None:
        """Log metrics by name at a step of the curve (see `validation_points`).

        When a trainer resumes from a saved state, the points in that state are logged once more.
        """


def supervised(
    network: nn.Module, x: Tensor, y: Tensor, whole: Tensor | None = None, loss: Loss = cross_entropy
) -> Tensor:
    """Return the loss of a training on masks, true or pseudo. x (B, 3, H, W), y: see `Loss`. Default whole: y."""
    return loss(network(x.contiguous(memory_format=torch.channels_last)), y, y if whole is None else whole)


def evenly_spaced(count: int, length: int) -> list[int]:
    """Return floor(j E / K) for j = 1..K: the epochs, counted from 1, after which f_1..f_K are kept (paper, 4.1).

    count: K. length: E.
    """
    return [j * length // count for j in range(1, count + 1)]


def validation_points(train: Train, per_epoch: int) -> dict[int, int]:
    """Return the iterations after which val is measured, each with its step on the curve; all are counted from 1.

    There are `train.val_points` such points, evenly spaced. Without it, there is one after every epoch, or POINTS if
    the length is given in iterations. Their number is rounded down to a multiple of K, but not below K, unless every
    epoch (or every iteration) is such a point. f_1..f_K are kept at K of the points. Steps are epochs if every point
    ends an epoch, else iterations.
    """
    length, unit = (train.iterations, 1) if train.epochs is None else (train.epochs, per_epoch)
    assert length is not None
    points, k = train.val_points or (POINTS if train.epochs is None else length), train.checkpoints
    if points < length:
        points = max(k, points // k * k)
    ends = [at * unit for at in evenly_spaced(min(points, length), length)]
    whole = not any(end % per_epoch for end in ends)
    return {end: end // per_epoch if whole else end for end in ends}


class Trainer:
    """A network with its optimiser, its learning rate schedule and its progress in training.

    role: the model's role, for messages. per_epoch: iterations per epoch. started: names of the tensors that were
    filled from trained weights (see `optimizer`). step: computes the loss of a batch.
    """

    def __init__(
        self,
        network: nn.Module,
        train: Train,
        per_epoch: int,
        *,
        model: Model,
        device: torch.device,
        role: str,
        started: frozenset[str] = frozenset(),
        step: Step = supervised,
    ) -> None:
        self.network, self.train, self.per_epoch, self.role, self.step = network, train, per_epoch, role, step
        self.model, self.device = model, device
        network.to(device)
        self.replica = data_parallel(network, device)
        self.average = MovingAverage(network, train.ema) if train.ema is not None else None
        self.optimizer = optimizer(network, train, started)
        self.steps = validation_points(train, per_epoch)
        self.ends = list(self.steps)
        self.poly = schedule(self.optimizer, self.ends[-1], train.warmup)
        self.iteration = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.curve = list[dict[str, float]]()

    def state_dict(self) -> State:
        kept = {"step": self.step.state_dict()} if isinstance(self.step, StatefulStep) else {}
        if self.average:
            kept["average"] = self.average.state_dict()
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.poly.state_dict(),
            "iteration": self.iteration,
            "loss_sum": self.loss_sum,
            "curve": self.curve,
            **kept,
        }

    def load_state_dict(self, state: State) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.poly.load_state_dict(state["schedule"])
        self.iteration, self.loss_sum = state["iteration"], state["loss_sum"].to(self.device)
        self.curve = state["curve"]
        if isinstance(self.step, StatefulStep):
            self.step.load_state_dict(state["step"])
        if self.average:
            self.average.load_state_dict(state["average"])

    def compile(self, *, strict: bool) -> None:
        """Let `torch.compile` compile the network for training iterations, but not for validation.

        strict: raise torch's error if compiling fails; else train without it, which torch logs.
        """
        torch._dynamo.config.suppress_errors = not strict
        # dropout draws the same numbers as without compiling
        compiled = torch.compile(self.replica, dynamic=False, options={"fallback_random": True})
        self.replica = cast(nn.Module, compiled)

    @property
    def kept(self) -> nn.Module:
        """The network that is measured and kept: the moving average with `train.ema`, else the network in training."""
        return self.average.network if self.average else self.network

    def fit(self, batches: Iterable[Sequence[Tensor]], hooks: Hooks) -> list[dict[str, float]]:
        """Train the network in place, from the current iteration to the end. Return a row of metrics for every point.

        Columns: epoch, iteration, train/loss, train/lr and, if there are scores, val/miou, val/pixel_accuracy,
        val/iou/*. batches: (x, y) of the iterations that are left. Raises StppError if the loss or a weight is not
        finite. This is checked before state is saved, so that a bad state never replaces a good one.
        """
        if not is_main():  # only the main process (rank 0) logs and saves
            hooks = _Validation(hooks)
        for row in self.curve:
            hooks.log(row, self.steps[int(row["iteration"])])
        pace, began, since = _Pace(), time.monotonic(), self.iteration
        for x, y in batches:
            lr = self._update(x, y)
            if self.iteration != self.ends[len(self.curve)]:
                if pace.due(SAVE_EVERY_S):
                    self._check(lr)
                    pace.timed(hooks.save, self.state_dict())
                continue
            self._check(lr)
            rate = (self.iteration - since) * self.train.batch_size / (time.monotonic() - began)
            row = self._point(lr, hooks)
            if pace.due():
                pace.timed(hooks.save, self.state_dict())
            hooks.log(row | {"train/images_per_second": rate}, self.steps[self.iteration])
            began, since = time.monotonic(), self.iteration
        return self.curve

    def _update(self, x: Tensor, y: Tensor) -> float:
        """Run one training iteration. Return its learning rate."""
        train_mode(self.network)
        lr = float(self.optimizer.param_groups[0]["lr"])
        x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        parts = list(zip(x.chunk(self.train.accumulate), y.chunk(self.train.accumulate), strict=True))
        for at, (x_part, y_part) in enumerate(parts, 1):
            with gradients_stay_local(self.replica) if at < len(parts) else nullcontext():
                loss += self._backward(x_part, y_part, y)
        if self.train.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.train.clip_norm)
        self.optimizer.step()
        self.poly.step()
        if isinstance(self.step, StatefulStep):
            self.step.after(self.network)
        if self.average:
            self.average.update(self.network)
        self.loss_sum += all_reduce(loss) / world_size()
        self.iteration += 1
        return lr

    def _backward(self, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
        """Add the gradients of a part of a batch to those of the parts before. Return its share of the batch's loss."""
        with autocast(self.model, self.device):
            loss = self.step(self.replica, x, y, whole)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _point(self, lr: float, hooks: Hooks) -> dict[str, float]:
        """Measure val, keep checkpoints, and add a row to the curve. Return the row."""
        mean_loss = float(self.loss_sum) / (self.iteration - (self.ends[len(self.curve) - 1] if self.curve else 0))
        self.loss_sum.zero_()
        for network in (self.network, self.kept):
            broadcast_buffers(network)
        scores = hooks.validate(self.kept)
        best = max((row["val/miou"] for row in self.curve if "val/miou" in row), default=-1.0)
        length = {"epoch": self.iteration / self.per_epoch, "iteration": float(self.iteration)}
        row = {**length, "train/loss": mean_loss, "train/lr": lr, **(_named(scores) if scores else {})}
        self.curve.append(row)
        keep_after = [self.ends[at - 1] for at in evenly_spaced(self.train.checkpoints, len(self.ends))]
        if self.iteration in keep_after:
            hooks.checkpoint(str(keep_after.index(self.iteration) + 1), self.kept)
        if scores and scores.miou > best:
            hooks.checkpoint("best", self.kept)
        return row

    def _check(self, lr: float) -> None:
        """Raise StppError if the loss or a weight is not finite."""
        loss, odd = float(self.loss_sum), first_non_finite(self.network.state_dict())
        if odd or not math.isfinite(loss):
            what = f"{odd} has NaN or infinite values" if math.isfinite(loss) else f"the loss is {loss}"
            epoch = -(-self.iteration // self.per_epoch)
            where = f"in epoch {epoch}, after iteration {self.iteration} of {self.ends[-1]} at lr {lr:g}"
            raise StppError(f"{self.role}: {what} {where}: training diverged; lower train.lr")


class _Validation(Hooks):
    """The hooks of all processes but the main one (rank 0): they only measure val."""

    def __init__(self, hooks: Hooks) -> None:
        self.validate = hooks.validate  # type: ignore[method-assign]


def fit(
    trainer: Trainer, data: SelfTrainingDataset | OnlineDataset, runtime: Runtime, hooks: Hooks
) -> list[dict[str, float]]:
    """Train on `data` from the trainer's current iteration to its end. Return the curve's rows (see `Trainer.fit`).

    Every random draw of an iteration has its own seed. So a run that resumes from a saved state ends in the same
    weights as a run that was never stopped, on a CPU with the same thread count.
    """
    train, role, total = trainer.train, trainer.role, trainer.ends[-1]
    batches = TrainingBatchSampler(
        len(data), train.batch_size // data.images, total, train.seed, role, trainer.iteration
    )
    loader = training_loader(data, batches, runtime, trainer.device)
    shown = seed_each_batch(bar(loader, f"train {role}", total, trainer.iteration), train.seed, role, trainer.iteration)
    return trainer.fit(training_lines(shown, trainer) if is_main() else shown, hooks)


class _Pace:
    """When state was last saved and how long that took; decides when the next save is due."""

    def __init__(self) -> None:
        self.last, self.took = time.monotonic(), 0.0

    def due(self, every: float = 0.0) -> bool:
        """Return whether `every` seconds have passed since the last save, and saving keeps to its share (SAVING)."""
        return time.monotonic() - self.last >= max(every, self.took / SAVING)

    def timed(self, save: Callable[[State], None], state: State) -> None:
        before = time.monotonic()
        save(state)
        self.last = time.monotonic()
        self.took = self.last - before


def data_parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network itself or, with several processes, a replica that averages gradients over them.

    On GPUs, batch norm computes its statistics over the whole batch. On CPUs PyTorch has no such layer: there the
    statistics are over each process's shard, as the authors' code does with its GPUs.
    """
    if world_size() == 1:
        return network
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    devices = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer releases of torch have another name for this
        return DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)


def own(replica: nn.Module) -> nn.Module:
    """Return the network behind a replica of `data_parallel`, compiled or not."""
    replica = getattr(replica, "_orig_mod", replica)
    return replica.module if isinstance(replica, DistributedDataParallel) else replica


def gradients_stay_local(replica: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which processes do not average their gradients; they do so after a batch's last part."""
    return replica.no_sync() if isinstance(replica, DistributedDataParallel) else nullcontext()


def broadcast_buffers(network: nn.Module) -> None:
    """Copy the main process's buffers (running statistics) to all processes; their parameters are equal already."""
    if world_size() > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def _named(scores: Scores) -> dict[str, float]:
    per_class = {f"val/iou/{i}": v for i, v in enumerate(scores.iou)}
    return {"val/miou": scores.miou, "val/pixel_accuracy": scores.pixel_accuracy, **per_class}
