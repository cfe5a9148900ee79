"""Tests of UniMatch and UniMatch V2 against their formulae in NumPy, pixel by pixel."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stpp.data.loaders import seed_each_batch
from stpp.engine.fit import Hooks, State, Trainer
from stpp.models.build import build
from stpp.models.networks import NETWORKS
from stpp.params.models import Model, Online, Train
from stpp.selftrain.online.unimatch import UniMatch, UniMatchV2, add_dropped, complement, cutmix, perturbed

PARAMS = Online(threshold=0.6, weight=0.5, decay=0.75)
METHODS = (UniMatch, UniMatchV2)
B = 3
Array = NDArray[np.float64]


class Levels(nn.Module):
    """Three feature maps of an image, of two widths."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, width, 1) for width in (8, 16, 8))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in self.layers]


class Small(nn.Module):
    """A linear network. It records what the head sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Levels()
        self.heads = nn.ModuleList(nn.Conv2d(layer.out_channels, 3, 1) for layer in self.backbone.layers)
        self.seen: list[list[Array]] = []

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        self.seen.append([level.detach().double().numpy() for level in features])
        return sum(head(level) for head, level in zip(self.heads, features, strict=True))


def layer(conv: nn.Module, x: Array) -> Array:
    weight, bias = (value.detach().double().numpy() for value in (conv.weight, conv.bias))
    return np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], x) + bias[:, None, None]


def encoded(network: Small, x: Array) -> list[Array]:
    return [layer(one, x) for one in network.backbone.layers]


def probabilities(network: Small, features: list[Array]) -> Array:
    logits = sum(layer(head, level) for head, level in zip(network.heads, features, strict=True))
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    """Return B samples as `CutMixDataset` makes them, with boxes and hidden pixels of any form."""
    draw = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(B, 4, 3, 4, 5, generator=draw)
    y = torch.randint(0, 3, (B, 6, 4, 5), generator=draw)
    y[:, 0, 0] = 255
    y[:, 1:4] = torch.where(torch.rand(B, 3, 4, 5, generator=draw) < 0.3, 255, 0)
    y[:, 4:] = torch.rand(B, 2, 4, 5, generator=draw) < 0.4
    return x, y


def mixed(x: Array, weak: Array, y: NDArray[np.int64]) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.bool_]]:
    """Mix images, confidences, labels and hidden pixels of both strong views, one pixel at a time."""
    images, shape = np.empty_like(x[:, 2:]), (len(x), 2, *x.shape[3:])
    confidence, label, hidden = np.empty(shape), np.empty(shape, np.int64), np.empty(shape, bool)
    for b, k, v, u in np.ndindex(shape):
        source = len(x) - 1 - b if y[b, 4 + k, v, u] else b
        images[b, k, :, v, u] = x[source, 2 + k, :, v, u]
        confidence[b, k, v, u], label[b, k, v, u] = weak[source, :, v, u].max(), weak[source, :, v, u].argmax()
        hidden[b, k, v, u] = y[source, 2 + k, v, u] == 255
    return images, confidence, label, hidden


def summed(p: Array, label: NDArray[np.int64], counts: NDArray[np.bool_]) -> float:
    return -sum(np.log(p[b, label[b, v, u], v, u]) for b, v, u in zip(*np.nonzero(counts), strict=True))


def factors(level: Array, plain: Array) -> Array:
    """Return the factor of every channel. Fails unless each channel is multiplied as a whole."""
    found = (level * plain).sum((2, 3)) / (plain**2).sum((2, 3))
    assert np.allclose(level, found[..., None, None] * plain, atol=1e-5)
    return found


def by_hand(method: type, network: Small, teacher: Small, parts: list[tuple[Tensor, Tensor]]) -> float:
    """Return the loss of a batch that is computed in parts, with the features that the head has seen."""
    total, shown = np.zeros(4), np.zeros(4)  # L_x, L_s1, L_s2, L_fp
    for at, (x, y) in enumerate((x.double().numpy(), y.numpy()) for x, y in parts):
        labels_by = network if method is UniMatch else teacher
        weak = probabilities(labels_by, encoded(labels_by, x[:, 1]))
        images, confidence, label, hidden = mixed(x, weak, y)
        if method is UniMatch:
            first, second = network.seen[2 * at : 2 * at + 2]
            labeled, dropped = [level[:B] for level in first], [level[2 * B :] for level in first]
            for level, plain in zip(dropped, encoded(network, x[:, 1]), strict=True):
                assert set(np.unique(factors(level, plain).round(3))) == {0.0, 2.0}
            both = encoded(network, np.concatenate([images[:, 0], images[:, 1]]))
            assert all(np.allclose(seen, own, atol=1e-5) for seen, own in zip(second, both, strict=True))
            sure = (weak.max(1) >= PARAMS.threshold) & (y[:, 1] != 255)
            total[3] += summed(probabilities(network, dropped), weak.argmax(1), sure)
            shown[3] += (y[:, 1] != 255).sum()
            strong = [[level[k * B : (k + 1) * B] for level in second] for k in range(2)]
        else:
            seen = network.seen[at]
            labeled, *strong = [[level[k * B : (k + 1) * B] for level in seen] for k in range(3)]
            plain = [encoded(network, images[:, k]) for k in range(2)]
            for one, two, first, second in zip(*strong, *plain, strict=True):
                d, rest = factors(one, first), factors(two, second)
                assert np.allclose(d + rest, 2, atol=1e-3), "the masks are complementary"
                assert set(np.unique(d.round(3))) == {0.0, 1.0, 2.0}
                assert sum(bool((np.abs(row - 1) < 1e-3).all()) for row in d) == B // 2
            assert np.array_equal(strong[0][0][..., 0, 0] == 0, strong[0][2][..., 0, 0] == 0), (
                "equal widths, equal masks"
            )
        total[0] += summed(probabilities(network, labeled), y[:, 0], y[:, 0] != 255)
        shown[0] += (y[:, 0] != 255).sum()
        for k in range(2):
            sure = (confidence[:, k] >= PARAMS.threshold) & ~hidden[:, k]
            total[1 + k] += summed(probabilities(network, strong[k]), label[:, k], sure)
            shown[1 + k] += (~hidden[:, k]).sum()
    L_x, L_s1, L_s2, L_fp = total / np.maximum(shown, 1)
    L_u = 0.5 * L_fp + 0.25 * (L_s1 + L_s2) if method is UniMatch else (L_s1 + L_s2) / 2
    return float((L_x + PARAMS.weight * L_u) / 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parts", [1, 2])
def test_the_loss_is_that_of_the_formula(method: type, parts: int) -> None:
    network, step = Small(), method(PARAMS)
    teacher = copy.deepcopy(network)
    for i in range(3):
        batches = [batch(10 * i + part) for part in range(parts)]
        whole = torch.cat([y for _, y in batches])
        network.seen.clear()
        loss = sum(step(network, x, y, whole) for x, y in batches)
        expected = by_hand(method, network, teacher, batches)
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
        with torch.no_grad():
            for one in network.parameters():
                one.add_(0.1 * torch.randn_like(one))
        if method is UniMatchV2:
            step.after(network)
            decay = min(1 - 1 / (i + 1), PARAMS.decay)
            for ours, theirs in zip(teacher.parameters(), network.parameters(), strict=True):
                ours.data.copy_(decay * ours + (1 - decay) * theirs)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_perturbed_weak_view_has_a_gradient_and_hidden_pixels_do_not_count(method: type) -> None:
    x, y = batch(1)
    network, step = Small(), method(Online(threshold=0.0))
    torch.manual_seed(0)
    loss = step(network, x.requires_grad_(), y, y)
    loss.backward()
    assert x.grad is not None
    size = x.grad.abs().sum((0, 2, 3, 4))
    assert (size[[0, 2, 3]] > 0).all() and bool(size[1] > 0) == (method is UniMatch)
    y[:, :4] = 255
    assert float(step(network, x, y, y).detach()) == 0


def test_cutmix_takes_the_box_from_the_partner() -> None:
    values = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 2, 3, 3)
    y = torch.zeros(4, 6, 3, 3, dtype=torch.int64)
    y[0, 4, :2, 1:] = 1
    y[2, 5, 0] = 1
    expected = values.clone()
    expected[0, 0, :2, 1:] = 3
    expected[2, 1, 0] = 1
    assert torch.equal(cutmix(values, y), expected)
    pictures = values[:, :, None].expand(4, 2, 5, 3, 3)
    assert torch.equal(cutmix(pictures, y), expected[:, :, None].expand(4, 2, 5, 3, 3))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_decodes_perturbed_features(name: str) -> None:
    torch.manual_seed(0)
    backbone = "test_vit" if name in ("dpt", "linear") else "test_resnet"
    network, x = build(Model(network=name, backbone=backbone, output_stride=16), 3).eval(), torch.randn(3, 3, 32, 48)

    def seen(images: Tensor, perturb: Callable[..., Sequence[Tensor]]) -> Tensor:
        with torch.no_grad(), perturbed(network, perturb):
            return network(images)

    plain = seen(x, list)
    blank = seen(x, lambda features: [level * 0 for level in features])
    assert torch.allclose(blank[0], blank[1], atol=1e-6) and not torch.allclose(plain[0], plain[1], atol=1e-3)
    two = seen(x[:2], add_dropped)
    assert two.shape == (3, 3, 32, 48)
    assert torch.allclose(two[:2], plain[:2], atol=1e-5) and not torch.allclose(two[2], plain[1], atol=1e-3)
    halves = seen(x[[0, 1, 1]], complement)
    assert torch.allclose(halves[0], plain[0], atol=1e-5)
    assert not torch.allclose(halves[1], halves[2], atol=1e-3)
    with torch.no_grad():
        assert torch.equal(network(x), plain), "only in the context"


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_training_ends_in_the_same_bytes(method: type) -> None:
    batches = [batch(seed) for seed in range(4)]

    def trained(start: int, stop: int, state: State | None = None) -> Trainer:
        train = Train(iterations=4, checkpoints=2, val_points=2, batch_size=2 * B, lr=0.5)
        step = method(PARAMS)
        trainer = Trainer(Small(), train, 4, model=Model(), device=torch.device("cpu"), role="online", step=step)
        if state:
            trainer.load_state_dict(copy.deepcopy(state))
        trainer.fit(seed_each_batch(batches[start:stop], 0, "online", start), Hooks())
        return trainer

    half = copy.deepcopy(trained(0, 2).state_dict())
    torch.manual_seed(99)
    whole, resumed = trained(0, 4).network.state_dict(), trained(2, 4, half).network.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not torch.equal(half["network"]["heads.0.weight"], whole["heads.0.weight"])
