"""The lines that a training prints about its progress."""

from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any, Protocol, TypeVar

from stpp.params.models import Train
from stpp.run.progress import duration, say

T = TypeVar("T")
LINES = 30
"""The most lines that a training prints."""


class Training(Protocol):
    """What the lines are about; see `stpp.engine.fit.Trainer`."""

    role: str
    train: Train
    per_epoch: int
    ends: list[int]
    """The iterations after which the curve has a point; the last one is the end."""
    iteration: int
    loss_sum: Any
    """Sum of the losses since the last point, a scalar tensor."""
    curve: list[dict[str, float]]


def training_lines(batches: Iterable[T], training: Training) -> Iterator[T]:
    """Yield the batches of a training, and print lines about its progress; the first one if it resumes.

    There is a line after every epoch and every point of the curve. If these are more than LINES, there are LINES at
    most, evenly spaced, and points come first. The end of the training always has a line.
    """
    total, points, epochs = training.ends[-1], training.ends, training.ends[-1] // training.per_epoch
    shown = {points[at - 1] for at in _spread(LINES, len(points))}
    shown |= {at * training.per_epoch for at in _spread(LINES - len(shown), epochs)}
    if training.iteration:
        say(f"{training.role}: resumed at {_reached(training)}")
    begun = last = perf_counter()
    first, busy, counted = training.iteration, 0.0, 0
    for batch in batches:
        before = len(training.curve)
        yield batch  # when this goes on, the iteration is done
        now = perf_counter()
        if len(training.curve) == before:  # else val was measured in this time, too
            busy, counted = busy + now - last, counted + 1
        last = now
        if training.iteration not in shown:
            continue
        left = (now - begun) / (training.iteration - first) * (total - training.iteration)
        rate = f", {counted * training.train.batch_size / busy:.1f} images/s" if counted else ""
        remaining = f", {duration(left)} left" if training.iteration < total else ""
        say(f"{training.role}: {_reached(training)}, {_measured(training)}{rate}{remaining}")
        busy, counted = 0.0, 0


def _spread(count: int, total: int) -> set[int]:
    """Return at most `count` of the numbers 1 .. total, evenly spaced, among them the last."""
    return {round(total * at / count) for at in range(1, count + 1)} if count < total else set(range(1, total + 1))


def _reached(training: Training) -> str:
    """Return how far a training is: its epoch, or its iteration if its length is given in iterations."""
    if training.train.epochs is None:
        return f"iteration {training.iteration}/{training.ends[-1]}"
    return f"epoch {round(training.iteration / training.per_epoch, 2):g}/{training.train.epochs}"


def _measured(training: Training) -> str:
    """Return the mean loss since the last point of the curve and, at a point, val mIoU and the best so far in %."""
    curve, done = training.curve, training.iteration
    if not curve or curve[-1]["iteration"] < done:
        return f"loss {float(training.loss_sum) / (done - (curve[-1]['iteration'] if curve else 0)):.3f}"
    loss = f"loss {curve[-1]['train/loss']:.3f}"
    if "val/miou" not in curve[-1]:
        return loss
    best = max(row["val/miou"] for row in curve)
    return f"{loss}, val mIoU {curve[-1]['val/miou']:.1f} (best {best:.1f})"
