"""Tests of the losses against formulas in NumPy, on ignored pixels, and on parts of a batch."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from stpp.engine.losses import by_frequency, cross_entropy, loss_of
from stpp.engine.predict import levels_of
from stpp.params.models import Loss

CLASSES = 4
WEIGHTS = (0.5, 2.0, 0.0, 3.0)
LOSSES = {
    "weights": Loss(class_weights=WEIGHTS),
    "ohem": Loss(ohem=0.3),
    "dice": Loss(dice=1.5),
    "all": Loss(class_weights=WEIGHTS, ohem=0.3, dice=1.5),
}
FEW = settings(max_examples=30, deadline=None)


def numpy_soft_loss(chosen: Loss, logits: NDArray[Any], levels: NDArray[Any]) -> float:
    """Compute the loss against levels, pixel by pixel. The Dice loss is that of the most likely class."""
    weights = chosen.class_weights if isinstance(chosen.class_weights, tuple) else (1.0,) * CLASSES
    log_p, of_pixels = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True)), list[float]()
    y = np.where(levels.sum(1) == 0, 255, levels.argmax(1))
    for b in range(len(y)):
        terms = list[float]()
        for v, u in np.argwhere(y[b] != 255):
            terms.append(-sum(weights[c] * levels[b, c, v, u] / 255 * log_p[b, c, v, u] for c in range(CLASSES)))
        of_pixels += sorted(terms, reverse=True)[: math.ceil((chosen.ohem or 1) * len(terms))]
    mean = sum(of_pixels) / max(1, len(of_pixels))
    return mean + numpy_loss(chosen, logits, y) - numpy_loss(chosen.model_copy(update={"dice": 0.0}), logits, y)


def numpy_loss(chosen: Loss, logits: NDArray[Any], y: NDArray[Any]) -> float:
    """Compute the loss image by image and pixel by pixel, as the parameters describe it."""
    weights = chosen.class_weights if isinstance(chosen.class_weights, tuple) else (1.0,) * CLASSES
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    of_pixels, of_classes = list[float](), list[float]()
    for b in range(len(y)):
        valid = [(v, u) for v, u in np.ndindex(*y.shape[1:]) if y[b, v, u] != 255]
        terms = sorted((-weights[y[b, v, u]] * math.log(p[b, y[b, v, u], v, u]) for v, u in valid), reverse=True)
        of_pixels += terms[: math.ceil((chosen.ohem or 1) * len(valid))]
        for c in {y[b, v, u] for v, u in valid}:
            inside = [p[b, c, v, u] for v, u in valid if y[b, v, u] == c]
            total = sum(p[b, c, v, u] for v, u in valid) + len(inside)
            of_classes.append(1 - 2 * sum(inside) / total)
    mean = sum(of_pixels) / max(1, len(of_pixels))
    return float(mean + chosen.dice * sum(of_classes) / max(1, len(of_classes)))


@st.composite
def logits_and_masks(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Draw logits (B, 4, H, W) that require a gradient, and masks (B, H, W), any pixel of which may be 255."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    y = torch.randint(CLASSES, shape, generator=generator)
    y[torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))] = 255
    y[0][torch.rand(shape[1:], generator=generator) < draw(st.sampled_from([0.0, 1.0]))] = 255
    return (3 * torch.randn(shape[0], CLASSES, *shape[1:], generator=generator)).requires_grad_(), y


@FEW
@given(logits_and_masks(), st.sampled_from(sorted(LOSSES)))
def test_a_loss_equals_its_formula_and_ignored_pixels_have_no_gradient(drawn: tuple[Tensor, Tensor], name: str) -> None:
    x, y = drawn
    loss = loss_of(LOSSES[name], LOSSES[name].class_weights)(x, y, y)
    loss.backward()
    assert loss.item() == pytest.approx(numpy_loss(LOSSES[name], x.detach().double().numpy(), y.numpy()), rel=1e-4)
    assert x.grad is not None and x.grad.isfinite().all()
    assert not x.grad[(y == 255)[:, None].expand_as(x)].any()


@FEW
@given(logits_and_masks(), st.sampled_from([*sorted(LOSSES), "plain"]))
def test_the_loss_against_soft_masks_equals_its_formula_and_that_of_sure_ones_is_the_loss_of_their_classes(
    drawn: tuple[Tensor, Tensor], name: str
) -> None:
    x, y = drawn
    chosen = LOSSES.get(name, Loss())
    loss = loss_of(chosen, chosen.class_weights)
    sure = (255 * (y[:, None] == torch.arange(CLASSES)[:, None, None])).to(torch.uint8)
    torch.testing.assert_close(loss(x, sure, sure), loss(x, y, y))
    soft = levels_of(torch.rand_like(x).detach().softmax(1)).permute(0, 3, 1, 2) * (y != 255)[:, None]
    found = loss(x, soft, soft)
    found.backward()
    assert found.item() == pytest.approx(numpy_soft_loss(chosen, x.detach().double().numpy(), soft.numpy()), rel=1e-4)
    assert x.grad is not None and not x.grad[(y == 255)[:, None].expand_as(x)].any()
    parts = [loss(*part, soft) for part in zip(x.split(1), soft.split(1), strict=True)]
    torch.testing.assert_close(sum(parts), found)


@FEW
@given(logits_and_masks(), st.sampled_from([*sorted(LOSSES), "plain"]))
def test_the_losses_of_the_parts_add_up_to_the_loss_of_the_batch(drawn: tuple[Tensor, Tensor], name: str) -> None:
    x, y = drawn
    chosen = LOSSES.get(name, Loss())
    loss = loss_of(chosen, chosen.class_weights)
    parts = [loss(*part, y) for part in zip(x.split(1), y.split(1), strict=True)]
    torch.testing.assert_close(sum(parts), loss(x, y, y))


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_valid_pixels_has_loss_0_and_gradient_0(name: str) -> None:
    x, y = (1e4 * torch.randn(2, CLASSES, 4, 4)).requires_grad_(), torch.full((2, 4, 4), 255)
    loss = loss_of(LOSSES[name], LOSSES[name].class_weights)(x, y, y)
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_computed_in_float32_for_logits_of_any_type(name: str) -> None:
    x, y = torch.randn(2, CLASSES, 5, 5).bfloat16(), torch.randint(CLASSES, (2, 5, 5))
    loss = loss_of(LOSSES[name], LOSSES[name].class_weights)
    assert torch.equal(loss(x, y, y), loss(x.float(), y, y))


def test_with_everything_off_the_loss_is_the_cross_entropy_itself() -> None:
    assert loss_of(Loss()) is cross_entropy


@FEW
@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=30).filter(any))
def test_weights_by_frequency_fall_with_the_frequency_and_are_1_in_the_mean(pixels: list[int]) -> None:
    weights = by_frequency(pixels)
    shares = np.array(pixels) / sum(pixels)
    assert (shares * weights).sum() == pytest.approx(1)
    order = np.argsort(shares, kind="stable")
    assert (np.diff(np.array(weights)[order]) <= 0).all()
    assert max(weights) / min(weights) <= math.log(2.02) / math.log(1.02) + 1e-6
    ratio = math.log(1.02 + shares[0]) / math.log(1.02 + shares[1])
    assert weights[1] / weights[0] == pytest.approx(ratio)
