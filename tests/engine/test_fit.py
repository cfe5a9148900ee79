"""Tests of the training loop against a loop written by hand, and of interrupted trainings."""

import copy
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import stpp.engine.fit as fit_module
from stpp.data.datasets import ImageMaskPairs, SelfTrainingDataset
from stpp.data.loaders import TrainingBatchSampler
from stpp.data.normalization import IMAGENET
from stpp.data.prediction import ImageMaskDataset, batches_of_equal_size, prediction_loader
from stpp.data.reader import ImageReader
from stpp.engine.evaluate import Scores, evaluate
from stpp.engine.fit import (
    Hooks,
    State,
    Step,
    Trainer,
    evenly_spaced,
    fit,
    supervised,
    validation_points,
)
from stpp.engine.losses import cross_entropy
from stpp.engine.optim import MovingAverage
from stpp.engine.predict import mask_predictor, single_pass
from stpp.models.build import set_normalization
from stpp.params.models import Augment, Model, Runtime, Strong, Train, Weak
from stpp.store.files import StppError

CPU = torch.device("cpu")
MODEL, RUNTIME = Model(), Runtime(workers=0)
CLASSES = 3


class Tiny(nn.Module):
    """A backbone with batch norm, dropout and a head: all kinds of state that an interruption could lose."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Conv2d(4, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.dropout(self.backbone(x)))
        return out


@pytest.fixture(autouse=True, scope="module")
def saved_after_every_epoch() -> Iterator[None]:
    """Save after every epoch, however long saving takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "SAVING", math.inf)
        yield


def tiny(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return set_normalization(Tiny(), IMAGENET)


class Noise:
    """Training data in memory without augmentation: (epoch, position) gives the same sample for every epoch."""

    images = 1

    def __init__(self, samples: int, size: int = 6) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(samples, 3, size, size, generator=generator)
        self.y = torch.randint(CLASSES, (samples, size, size), generator=generator)
        self.y[:, 0] = 255

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return self.x[draw[1]], self.y[draw[1]]


def scores(right: int) -> Scores:
    """Return scores that rise with `right`, a number in 0..10."""
    return Scores(torch.tensor([[right, 10 - right, 0], [10 - right, right, 0], [0, 0, 0]]))


class KilledError(Exception):
    """Stands for the end of the process."""


@dataclass
class World(Hooks):
    """Hooks that record their calls, and keep in `disk` the files that a process leaves behind."""

    quality: Iterator[int] = field(default_factory=lambda: iter([5] * 99))
    validate_with: Callable[[nn.Module], Scores] | None = None
    calls: list[str] = field(default_factory=list)
    logged: list[tuple[dict[str, float], int]] = field(default_factory=list)
    disk: dict[str, bytes] = field(default_factory=dict)
    kill: tuple[str, int] | None = None
    """(hook, n): the n-th call of this hook, counted from 0, ends the process before the hook does anything."""
    seen: Counter[str] = field(default_factory=Counter)

    def pass_(self, hook: str) -> None:
        self.seen[hook] += 1
        if self.kill == (hook, self.seen[hook] - 1):
            raise KilledError
        self.calls.append(hook)

    def validate(self, network: nn.Module) -> Scores:
        self.pass_("validate")
        return self.validate_with(network) if self.validate_with else scores(next(self.quality))

    def checkpoint(self, which: str, network: nn.Module) -> None:
        self.pass_("checkpoint")
        self.calls[-1] = f"checkpoint {which}"
        self.write(which, network.state_dict())

    def save(self, state: State) -> None:
        self.pass_("save")
        self.write("state", state)

    def log(self, row: dict[str, float], step: int) -> None:
        self.pass_("log")
        self.logged.append((dict(row), step))

    def step(self, network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
        """Return the loss. The process can also end here."""
        self.pass_("step")
        self.calls.pop()
        return supervised(network, x, y, whole)

    def write(self, name: str, value: object) -> None:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        self.disk[name] = buffer.getvalue()

    def read(self, name: str) -> Any:
        return torch.load(io.BytesIO(self.disk[name]), weights_only=True) if name in self.disk else None


def run(
    network: nn.Module,
    data: Any,
    train: Train,
    world: Hooks,
    state: State | None = None,
    role: str = "teacher",
    step: Step = supervised,
) -> list[dict[str, float]]:
    per_epoch = len(data) // (train.batch_size // data.images)
    trainer = Trainer(network, train, per_epoch, model=MODEL, device=CPU, role=role, step=step)
    if state:
        trainer.load_state_dict(state)
    return fit(trainer, data, RUNTIME, world)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


# -- the loss ---------------------------------------------------------------------------------------------------------


@st.composite
def logits_and_targets(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Draw logits (B, 3, H, W) that require a gradient, and targets (B, H, W), any of which may be 255."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    y = torch.randint(CLASSES, shape, generator=generator)
    y[torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))] = 255
    x = torch.randn(shape[0], CLASSES, *shape[1:], generator=generator) * 3
    return x.requires_grad_(), y


@settings(max_examples=50, deadline=None)
@given(logits_and_targets())
def test_the_loss_is_the_mean_cross_entropy_over_valid_pixels(
    given: tuple[Tensor, Tensor],
) -> None:
    x, y = given
    log_p = x.detach().double() - x.detach().double().exp().sum(1, keepdim=True).log()
    terms = [-float(log_p[b, int(y[b, r, c]), r, c]) for b, r, c in (y != 255).nonzero().tolist()]
    expected = sum(terms) / max(len(terms), 1)
    assert cross_entropy(x, y).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(logits_and_targets())
def test_pixels_with_target_255_change_neither_the_loss_nor_its_gradient(
    given: tuple[Tensor, Tensor],
) -> None:
    x, y = given
    loss = cross_entropy(x, y)
    loss.backward()
    ignored = (y == 255)[:, None].expand_as(x)
    assert x.grad is not None
    assert not x.grad[ignored].any()
    changed = torch.where(ignored, x.detach() * -7 + 3, x.detach())
    assert torch.equal(cross_entropy(changed, y), loss)


@settings(max_examples=25, deadline=None)
@given(logits_and_targets())
def test_without_ignored_pixels_the_loss_equals_torchs_mean(given: tuple[Tensor, Tensor]) -> None:
    x, y = given[0], given[1].clamp(max=CLASSES - 1)
    torch.testing.assert_close(cross_entropy(x, y), F.cross_entropy(x, y))


def test_a_batch_without_valid_pixels_has_loss_0_and_gradient_0() -> None:
    x = torch.randn(2, CLASSES, 4, 4, requires_grad=True)
    loss = cross_entropy(x, torch.full((2, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_the_loss_is_computed_in_float32_for_logits_of_any_type() -> None:
    x, y = torch.randn(1, CLASSES, 3, 3).bfloat16(), torch.zeros(1, 3, 3, dtype=torch.int64)
    assert torch.equal(cross_entropy(x, y), cross_entropy(x.float(), y))


# -- the checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checkpoints", "epochs", "kept"),
    [(3, 80, [26, 53, 80]), (3, 240, [80, 160, 240]), (3, 3, [1, 2, 3]), (4, 10, [2, 5, 7, 10])],
)
def test_checkpoints_are_kept_after_the_papers_epochs(checkpoints: int, epochs: int, kept: list[int]) -> None:
    assert evenly_spaced(checkpoints, epochs) == kept


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(0, 400))
def test_k_checkpoints_are_evenly_spaced_up_to_the_last_epoch(checkpoints: int, more: int) -> None:
    epochs = checkpoints + more
    kept = evenly_spaced(checkpoints, epochs)
    assert len(kept) == checkpoints
    assert kept[-1] == epochs
    gaps = [b - a for a, b in pairwise([0, *kept])]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1
    assert kept == [math.floor(j * epochs / checkpoints + 1e-9) for j in range(1, checkpoints + 1)]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 9), st.integers(0, 300), st.integers(1, 12))
def test_without_val_points_val_is_measured_evenly_and_at_every_checkpoint(
    checkpoints: int, more: int, per_epoch: int
) -> None:
    length = checkpoints + more
    ends = validation_points(Train(iterations=length, checkpoints=checkpoints), per_epoch)
    gaps = [b - a for a, b in pairwise([0, *ends])]
    assert sum(gaps) == length and min(gaps) >= 1 and max(gaps) - min(gaps) <= 1
    assert checkpoints <= len(ends) <= 10 and len(ends) > min(10, length) - checkpoints
    assert {j * length // checkpoints for j in range(1, checkpoints + 1)} <= set(ends)
    whole = not any(end % per_epoch for end in ends)
    assert list(ends.values()) == [end // per_epoch if whole else end for end in ends]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 9), st.integers(0, 100), st.integers(1, 12), st.integers(1, 120), st.booleans())
def test_with_val_points_val_is_measured_evenly_and_at_every_checkpoint(
    checkpoints: int, more: int, per_epoch: int, points: int, epochs: bool
) -> None:
    length = checkpoints + more
    train = Train.model_validate(
        {"epochs" if epochs else "iterations": length, "checkpoints": checkpoints, "val_points": points}
    )
    ends = [end // per_epoch if epochs else end for end in validation_points(train, per_epoch)]
    assert not epochs or list(validation_points(train, per_epoch).values()) == ends
    gaps = [b - a for a, b in pairwise([0, *ends])]
    assert sum(gaps) == length and min(gaps) >= 1 and max(gaps) - min(gaps) <= 1
    assert {j * length // checkpoints for j in range(1, checkpoints + 1)} <= set(ends)
    assert len(ends) == length if points >= length else points - checkpoints < len(ends) <= max(points, checkpoints)


def test_the_number_of_val_points_does_not_change_the_weights() -> None:
    networks, worlds = [tiny(), tiny()], [World(), World()]
    for network, world, points in zip(networks, worlds, (None, 2), strict=True):
        run(network, Noise(10), Train(epochs=5, batch_size=4, lr=0.2, checkpoints=2, val_points=points), world)
    assert equal(networks[0].state_dict(), networks[1].state_dict())
    assert all(equal(worlds[0].read(j), worlds[1].read(j)) for j in ("1", "2"))
    assert [[step for _, step in world.logged] for world in worlds] == [[1, 2, 3, 4, 5], [2, 5]]


# -- the loop ---------------------------------------------------------------------------------------------------------


def test_training_equals_sgd_with_momentum_decay_and_poly_schedule_written_by_hand() -> None:
    train = Train(epochs=3, batch_size=4, lr=0.2, head_lr_factor=5.0, momentum=0.8, weight_decay=0.01, checkpoints=2)
    data, network = Noise(10), tiny()
    network.dropout.p = 0.0
    hand = copy.deepcopy(network)

    def validate(net: nn.Module) -> Scores:
        net.eval()  # every evaluation leaves the network in eval mode
        return scores(5)

    curve = run(network, data, train, World(validate_with=validate))

    velocity = {name: torch.zeros_like(p) for name, p in hand.named_parameters()}
    order = list(
        TrainingBatchSampler(10, 4, 6, train.seed, "teacher")
    )  # 2 batches per epoch: 2 of the 10 samples are dropped
    losses = []
    for iteration, batch in enumerate(order):
        hand.zero_grad()
        x, y = (torch.stack(part) for part in zip(*(data[draw] for draw in batch), strict=True))
        loss = F.cross_entropy(hand(x), y, ignore_index=255)
        loss.backward()
        losses.append(loss.item())
        lr = 0.2 * 4 / 16 * (1 - iteration / 6) ** 0.9
        with torch.no_grad():
            for name, p in hand.named_parameters():
                velocity[name] = 0.8 * velocity[name] + p.grad + 0.01 * p
                p.sub_(lr * (1 if name.startswith("backbone.") else 5) * velocity[name])

    assert len(order) == 6
    for (name, got), expected in zip(network.named_parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(got, expected, msg=lambda text, name=name: f"{name}: {text}")
    assert [row["train/loss"] for row in curve] == pytest.approx([sum(losses[i : i + 2]) / 2 for i in (0, 2, 4)])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_batch_in_parts_trains_as_the_whole_batch_does_and_long_gradients_are_clipped(optimizer: str) -> None:
    """Without batch norm and dropout, whatever the number of ignored pixels in each part."""
    data = Noise(16)
    for i, y in enumerate(data.y):
        y.flatten()[: 2 * i + 1] = 255
    plain = Train(epochs=3, batch_size=8, lr=0.2, optimizer=optimizer, clip_norm=0.05, checkpoints=2)
    ends, curves, norms = [], [], list[float]()
    for train in (plain, plain.model_copy(update={"accumulate": 4}), plain.model_copy(update={"clip_norm": None})):
        network = tiny()
        network.dropout.p, network.backbone[1] = 0.0, nn.Identity()
        trainer = Trainer(network, train, 2, model=MODEL, device=CPU, role="teacher")
        curves.append(fit(trainer, data, RUNTIME, World()))
        ends.append(network.state_dict())
        norms.append(math.hypot(*(float(p.grad.norm()) for p in network.parameters() if p.grad is not None)))
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, msg=name)
    assert [row["train/loss"] for row in curves[1]] == pytest.approx([row["train/loss"] for row in curves[0]])
    assert norms[0] == pytest.approx(0.05, rel=1e-3) and norms[2] > 0.1
    assert not equal(ends[2], ends[0])


def test_with_ema_val_and_all_that_is_kept_are_of_the_averaged_weights() -> None:
    seen: dict[float | None, list[dict[str, Tensor]]] = {}
    for ema in (None, 0.6):

        def validate(net: nn.Module, ema: float | None = ema) -> Scores:
            seen.setdefault(ema, []).append(copy.deepcopy(net.state_dict()))
            return scores(len(seen[ema]))

        train = Train(iterations=4, val_points=4, batch_size=4, lr=0.5, checkpoints=2, ema=ema)
        world, network = World(validate_with=validate), tiny()
        run(network, Noise(8), train, world)
        assert equal(network.state_dict(), seen[None][-1]), "the network that learns is the same"
    mean: dict[str, Tensor] = {}
    for i, weights in enumerate(seen[None]):
        kept = min(1 - 1 / (i + 1), 0.6)
        mean = {name: kept * mean.get(name, 0) + (1 - kept) * value for name, value in weights.items()}
        for name, value in seen[0.6][i].items():
            if value.is_floating_point():
                torch.testing.assert_close(value, mean[name], msg=name)
    assert equal(world.read("1"), seen[0.6][1])
    assert equal(world.read("2"), seen[0.6][3]) and equal(world.read("best"), seen[0.6][3])


def test_the_curve_has_one_row_per_epoch_with_scores_and_the_last_learning_rate() -> None:
    train = Train(epochs=3, batch_size=4, lr=0.04, checkpoints=2)
    world = World(quality=iter([2, 6, 4]))
    curve = run(tiny(), Noise(9), train, world)
    for epoch, (row, right) in enumerate(zip(curve, (2, 6, 4), strict=True), 1):
        of_class = 100 * right / (20 - right)
        assert row["epoch"] == epoch
        assert row["train/lr"] == pytest.approx(0.01 * (1 - (2 * epoch - 1) / 6) ** 0.9)
        assert row["val/miou"] == pytest.approx(of_class)
        assert row["val/pixel_accuracy"] == pytest.approx(10 * right)
        assert [row["val/iou/0"], row["val/iou/1"]] == pytest.approx([of_class] * 2)
        assert math.isnan(row["val/iou/2"])
    logged = [({k: v for k, v in row.items() if k != "train/images_per_second"}, epoch) for row, epoch in world.logged]
    assert str(logged) == str([(row, int(row["epoch"])) for row in curve])
    assert all(row["train/images_per_second"] > 0 for row, _ in world.logged)


def test_a_length_in_iterations_gives_the_same_weights_as_that_many_iterations_in_epochs() -> None:
    epochs = Train(epochs=4, batch_size=4, lr=0.2, checkpoints=2)  # 2 iterations per epoch
    networks, worlds = [tiny(), tiny()], [World(), World()]
    for network, world, train in zip(
        networks, worlds, (epochs, Train(iterations=8, batch_size=4, lr=0.2, checkpoints=2)), strict=True
    ):
        run(network, Noise(10), train, world)
    assert equal(networks[0].state_dict(), networks[1].state_dict())
    for j in ("1", "2"):
        assert equal(worlds[0].read(j), worlds[1].read(j))
    assert [step for _, step in worlds[0].logged] == [1, 2, 3, 4]
    assert [step for _, step in worlds[1].logged] == [*range(1, 9)]
    assert [row["epoch"] for row, _ in worlds[1].logged] == [i / 2 for i in range(1, 9)]


def test_an_epoch_ends_with_validation_then_checkpoints_then_the_state_then_the_log() -> None:
    world = World(quality=iter([5, 4, 6, 6]))
    run(tiny(), Noise(4), Train(epochs=4, batch_size=2, checkpoints=2), world)
    assert world.calls == [
        *("validate", "checkpoint best", "save", "log"),
        *("validate", "checkpoint 1", "save", "log"),
        *("validate", "checkpoint best", "save", "log"),
        *("validate", "checkpoint 2", "save", "log"),
    ]


def test_a_training_prints_its_epochs_with_val_where_it_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    train = Train(epochs=5, batch_size=4, lr=0.1, checkpoints=2, val_points=2)
    run(tiny(), Noise(10), train, World(quality=iter([5, 4])))
    first, second, third, fourth, last = capsys.readouterr().out.splitlines()
    best, worse = (scores(good).miou for good in (5, 4))
    for at, line in ((1, first), (3, third), (4, fourth)):
        assert re.fullmatch(rf"teacher: epoch {at}/5, loss \d\.\d+, \d+\.\d images/s, \d+ s left", line)
    assert f", val mIoU {best:.1f} (best {best:.1f}), " in second
    assert f", val mIoU {worse:.1f} (best {best:.1f}), " in last and last.endswith("images/s")


def test_a_resumed_training_says_where_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    world, train = World(kill=("step", 5)), Train(epochs=4, batch_size=4, lr=0.1, checkpoints=2)
    with pytest.raises(KilledError):
        run(tiny(), Noise(10), train, world, step=world.step)
    before = capsys.readouterr().out.splitlines()
    run(tiny(), Noise(10), train, World(), state=world.read("state"))
    assert len(before) == 2
    resumed, *lines = capsys.readouterr().out.splitlines()
    assert resumed == "teacher: resumed at epoch 2/4"
    assert [line.split(",")[0] for line in lines] == ["teacher: epoch 3/4", "teacher: epoch 4/4"]


@pytest.mark.parametrize(("length", "points"), [(95, None), (95, 3), (95, 40), (31, 2), (30, 30)])
@pytest.mark.parametrize("unit", ["epochs", "iterations"])
def test_a_training_prints_at_most_30_lines_with_few_val_points_and_its_end_among_them(
    length: int, points: int | None, unit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train = Train.model_validate({unit: length, "batch_size": 4, "checkpoints": 2, "val_points": points})
    world = World(quality=iter([5] * length))
    run(tiny(), Noise(5), train, world)
    lines = capsys.readouterr().out.splitlines()
    at = [int(re.search(r"(\d+)/", line)[1]) for line in lines]  # type: ignore[index]
    assert at[-1] == length and sorted({*at}) == at
    assert len(lines) <= 30 and max(b - a for a, b in pairwise([0, *at])) <= length / 15 + 2
    measured = [step for _, step in world.logged]
    assert len(measured) > 30 or set(measured) <= {*at}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=2, max_size=8))
def test_the_best_checkpoint_is_written_exactly_when_the_score_is_above_all_before(
    quality: list[int],
) -> None:
    world = World(quality=iter(quality))
    run(tiny(), Noise(2), Train(epochs=len(quality), batch_size=2, checkpoints=2), world)
    ended = [epoch.split() for epoch in " ".join(world.calls).split("validate")[1:]]
    assert ["best" in calls for calls in ended] == [q > max(quality[:i], default=-1) for i, q in enumerate(quality)]


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 4), st.integers(0, 4))
def test_k_checkpoints_hold_the_weights_of_their_epochs_and_the_last_one_the_final_weights(k: int, more: int) -> None:
    world, network = World(), tiny()
    epochs = k + more
    at_end: list[dict[str, Tensor]] = []

    def validate(net: nn.Module) -> Scores:
        at_end.append(copy.deepcopy(net.state_dict()))
        return scores(5)

    world.validate_with = validate
    run(network, Noise(2), Train(epochs=epochs, batch_size=2, checkpoints=k), world)
    for j in range(1, k + 1):
        assert equal(world.read(str(j)), at_end[j * epochs // k - 1])
    assert equal(world.read(str(k)), network.state_dict())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_error_that_names_the_learning_rate(bad: float) -> None:
    world = World()

    def step(network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
        world.pass_("step")
        return supervised(network, x, y, whole) * (bad if world.seen["step"] == 4 else 1.0)

    said = r"teacher: the loss is (nan|inf) in epoch 2, after iteration 6 of 9 at lr \S+: .*train\.lr"
    with pytest.raises(StppError, match=said):
        run(tiny(), Noise(6), Train(epochs=3, batch_size=2, checkpoints=2), world, step=step)
    assert len(world.logged) == 1
    assert world.read("state")["iteration"] == 3  # no state of the diverged epoch is kept


@pytest.mark.parametrize("diverges", ["loss", "weights"])
def test_a_diverged_training_replaces_neither_the_saved_state_nor_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, diverges: str
) -> None:
    """State is saved after every iteration, until the loss is NaN, or the loss is finite and the gradient is not."""
    monkeypatch.setattr(fit_module, "SAVE_EVERY_S", -1.0)
    world = World()

    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * math.inf

    def step(network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
        world.pass_("step")
        loss = supervised(network, x, y, whole)
        if world.seen["step"] < 3:
            return loss
        out: Tensor = loss * math.nan if diverges == "loss" else Infinite.apply(loss)
        return out

    said = "the loss is nan" if diverges == "loss" else r"[\w.]+ has NaN or infinite values"
    with pytest.raises(StppError, match=f"{said} in epoch 1, after iteration 3 of 12"):
        run(tiny(), Noise(8), Train(epochs=3, batch_size=2, checkpoints=2), world, step=step)
    state = world.read("state")
    assert state["iteration"] == 2 and all(v.isfinite().all() for v in state["network"].values())
    assert not [call for call in world.calls if call.startswith(("checkpoint", "validate"))]


def test_a_learning_rate_that_is_far_too_high_is_an_error() -> None:
    with pytest.raises(StppError, match=r"train\.lr"):
        run(tiny(), Noise(8), Train(epochs=9, batch_size=2, lr=1e6, checkpoints=2), World())


def test_a_small_set_is_learned() -> None:
    """Every class has its own colour, so the loss falls to less than a tenth."""
    data = Noise(4)
    data.x = F.one_hot(data.y % 255, CLASSES).permute(0, 3, 1, 2).float()
    network = tiny()
    network.dropout.p = 0.0
    curve = run(network, data, Train(epochs=40, batch_size=4, lr=1.0, head_lr_factor=1.0, checkpoints=2), World())
    assert curve[-1]["train/loss"] < 0.1 * curve[0]["train/loss"]


# -- resuming ---------------------------------------------------------------------------------------------------------

TRAIN = Train(epochs=3, batch_size=2, lr=0.3, checkpoints=2)
AUGMENT = Augment(weak=Weak(base=32, crop=24), strong=Strong())


@dataclass
class Undisturbed:
    data: SelfTrainingDataset
    validate: Callable[[nn.Module], Scores]
    weights: dict[str, Tensor]
    curve: list[dict[str, float]]
    disk: dict[str, bytes]


@pytest.fixture(scope="module")
def undisturbed(make_photos: Callable[..., ImageReader]) -> Undisturbed:
    """Run three epochs of three iterations on weakly and strongly augmented photographs, without a stop."""
    torch.set_num_threads(1)
    photos = make_photos([(32, 32)] * 6, CLASSES)
    ids = list(photos.dataset.records)
    data = SelfTrainingDataset(
        ImageMaskPairs(photos, ids[:2]), 2, [ImageMaskPairs(photos, ids[2:4])], AUGMENT, TRAIN.seed, "teacher"
    )
    images = ImageMaskDataset(photos, ids[4:])
    val = prediction_loader(images, batches_of_equal_size(images, 2, 2**22), RUNTIME, CPU)

    def validate(network: nn.Module) -> Scores:
        return evaluate(network, val, CLASSES, MODEL, CPU, mask_predictor(single_pass, 2**22))

    network, world = tiny(), World(validate_with=validate)
    curve = run(network, data, TRAIN, world)
    return Undisturbed(data, validate, network.state_dict(), curve, world.disk)


def killed_and_resumed(undisturbed: Undisturbed, kills: list[tuple[str, int]]) -> tuple[nn.Module, World, list[Any]]:
    """Start a training, end it at each kill and resume it from disk with other random state, then run it to the end."""
    disk: dict[str, bytes] = {}
    for attempt, kill in enumerate([*kills, None]):
        world = World(validate_with=undisturbed.validate, disk=disk, kill=kill)
        network = tiny()
        torch.manual_seed(1000 + attempt)
        try:
            curve = run(network, undisturbed.data, TRAIN, world, state=world.read("state"), step=world.step)
        except KilledError:
            continue
        return network, world, curve
    raise AssertionError("the last attempt is not killed")


def assert_same(undisturbed: Undisturbed, network: nn.Module, world: World, curve: list[Any]) -> None:
    assert equal(network.state_dict(), undisturbed.weights)
    assert curve == undisturbed.curve
    for name in ("1", "2", "best"):
        assert equal(world.read(name), torch.load(io.BytesIO(undisturbed.disk[name]), weights_only=True)), name


@pytest.mark.parametrize("save_every", [math.inf, -1.0], ids=["saved_by_epoch", "saved_by_iteration"])
@pytest.mark.parametrize("iteration", range(9))
def test_a_run_stopped_in_any_iteration_ends_with_the_same_weights_and_curve(
    undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch, iteration: int, save_every: float
) -> None:
    monkeypatch.setattr(fit_module, "SAVE_EVERY_S", save_every)
    network, world, curve = killed_and_resumed(undisturbed, [("step", iteration)])
    assert_same(undisturbed, network, world, curve)
    left = 9 - (iteration if save_every < 0 else iteration // 3 * 3)
    assert world.seen["step"] == left  # saved iterations are not repeated


KILLS = st.tuples(st.sampled_from(["step", "validate", "checkpoint", "save", "log"]), st.integers(0, 4))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(KILLS, min_size=1, max_size=4), save_every=st.sampled_from([math.inf, -1.0]))
def test_a_run_stopped_several_times_in_any_hook_ends_with_the_same_weights_and_curve(
    undisturbed: Undisturbed, kills: list[tuple[str, int]], save_every: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "SAVE_EVERY_S", save_every)
        network, world, curve = killed_and_resumed(undisturbed, kills)
    assert_same(undisturbed, network, world, curve)


def test_another_order_of_random_numbers_changes_the_weights(undisturbed: Undisturbed) -> None:
    """Dropout, augmentation and batch order all affect the weights that the tests above compare."""
    for role in ("teacher", "student"):
        network = tiny()
        run(network, undisturbed.data, TRAIN, World(validate_with=undisturbed.validate), role=role)
        assert equal(network.state_dict(), undisturbed.weights) == (role == "teacher")


def test_a_resumed_run_logs_its_earlier_epochs_again(undisturbed: Undisturbed) -> None:
    _, world, curve = killed_and_resumed(undisturbed, [("step", 7)])
    assert world.calls[:2] == ["log", "log"]
    assert [epoch for _, epoch in world.logged] == [1, 2, 3]
    assert [row for row, _ in world.logged[:2]] == curve[:2]


def test_resuming_a_finished_run_only_logs(undisturbed: Undisturbed) -> None:
    world, network = World(disk=dict(undisturbed.disk)), tiny(5)
    curve = run(network, undisturbed.data, TRAIN, world, state=world.read("state"))
    assert world.calls == ["log"] * 3
    assert curve == undisturbed.curve
    assert equal(network.state_dict(), undisturbed.weights)


@pytest.mark.parametrize(("a_save", "saves"), [(0.0, 8), (0.4, 8), (1.0, 4), (1000.0, 1)])
def test_saving_takes_no_more_than_its_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch, a_save: float, saves: int
) -> None:
    now = 0.0

    class Slow(World):
        def step(self, network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
            nonlocal now
            now += 5.0  # an epoch has two iterations
            return super().step(network, x, y, whole)

        def save(self, state: State) -> None:
            nonlocal now
            now += a_save
            super().save(state)

    monkeypatch.setattr(fit_module.time, "monotonic", lambda: now)
    monkeypatch.setattr(fit_module, "SAVING", 0.05)
    world = Slow()
    run(tiny(), Noise(4), Train(epochs=8, batch_size=2, checkpoints=2), world, step=world.step)
    assert world.calls.count("save") == saves


def test_the_state_within_an_epoch_is_saved_about_once_per_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 50))  # every call of the clock is 50 s later
    monkeypatch.setattr(fit_module.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(fit_module, "SAVE_EVERY_S", 120.0)
    world = World()
    run(tiny(), Noise(40), Train(epochs=2, batch_size=2, checkpoints=2), world)
    before_the_first_epochs_end = world.calls[: world.calls.index("validate")]
    assert 19 * 50 / 200 - 1 <= before_the_first_epochs_end.count("save") <= 19 * 50 / 120


class MeanTeacher:
    """A step that keeps a moving average of the network and learns from it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.teacher = MovingAverage(tiny(), 0.7)

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
        label = self.teacher.network(x).argmax(1).masked_fill(y == 255, 255)
        return self.world.step(network, x, y, whole) + supervised(network, x, label, whole)

    def after(self, network: nn.Module) -> None:
        self.teacher.update(network)

    def state_dict(self) -> State:
        return self.teacher.state_dict()

    def load_state_dict(self, state: State) -> None:
        self.teacher.load_state_dict(state)


@pytest.mark.parametrize("iteration", [0, 4, 8])
def test_the_state_of_a_step_of_adamw_and_of_averaged_weights_is_saved_and_restored(
    monkeypatch: pytest.MonkeyPatch, iteration: int
) -> None:
    monkeypatch.setattr(fit_module, "SAVE_EVERY_S", -1.0)
    train = Train(epochs=3, batch_size=4, accumulate=2, optimizer="adamw", lr=0.1, warmup=0.5, ema=0.8, checkpoints=2)
    ends, disk = list[tuple[nn.Module, MeanTeacher, World]](), dict[str, bytes]()
    for kill, kept in ((None, dict[str, bytes]()), (("step", 2 * iteration + 1), disk), (None, disk)):
        world, network = World(disk=kept, kill=kill), tiny()
        step = MeanTeacher(world)
        try:
            run(network, Noise(12), train, world, state=world.read("state"), step=step)
        except KilledError:
            continue
        ends.append((network, step, world))
    (network, step, world), (again, step_again, world_again) = ends
    assert equal(network.state_dict(), again.state_dict())
    assert equal(step.state_dict()["network"], step_again.state_dict()["network"])
    assert not equal(step.state_dict()["network"], tiny().state_dict())
    for name in ("1", "2", "best"):
        assert equal(world.read(name), world_again.read(name)), name
    assert not equal(world.read("2"), network.state_dict())
