"""Test-time augmentation against the published procedure in plain loops."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from stpp.engine.predict import augmented, plain
from stpp.params import Label

Array = NDArray[np.float64]
PAPER = Label()


class Constant(nn.Module):
    """The same scores at every place, whatever the image."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores[None, :, None, None].expand(len(x), -1, *x.shape[2:])


def convolution(seed: int, classes: int = 4) -> nn.Module:
    """Sharp enough that no two classes are near each other in most places."""
    torch.manual_seed(seed)
    network = nn.Conv2d(3, classes, 3, padding=1).double()
    network.weight.data *= 4
    return network.requires_grad_(False)


def image(seed: int, height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def resized(x: Array, height: int, width: int) -> Array:
    """Bilinear with aligned corners, a pixel at a time. x (C, h, w)."""
    out = np.empty((len(x), height, width))
    for row in range(height):
        for column in range(width):
            v = row * (x.shape[1] - 1) / (height - 1) if height > 1 else 0.0
            u = column * (x.shape[2] - 1) / (width - 1) if width > 1 else 0.0
            top, left = min(int(v), x.shape[1] - 1), min(int(u), x.shape[2] - 1)
            bottom, right = min(top + 1, x.shape[1] - 1), min(left + 1, x.shape[2] - 1)
            dv, du = v - top, u - left
            upper = (1 - du) * x[:, top, left] + du * x[:, top, right]
            lower = (1 - du) * x[:, bottom, left] + du * x[:, bottom, right]
            out[:, row, column] = (1 - dv) * upper + dv * lower
    return out


def published_sum(network: Callable[[Tensor], Tensor], x: Array, scales: tuple[float, ...], flip: bool) -> Array:
    """Softmax scores of one image (3, H, W), resized back and added up as in the authors' code, not averaged."""
    _, height, width = x.shape
    total = np.zeros(())
    for scale in scales:
        scaled = resized(x, int(height * scale), int(width * scale))
        for mirrored in (False, True) if flip else (False,):
            view = scaled[:, :, ::-1].copy() if mirrored else scaled
            scores = np.exp(network(torch.from_numpy(view)[None])[0].numpy())
            scores /= scores.sum(0)
            total = total + resized(scores[:, :, ::-1] if mirrored else scores, height, width)
    return total


@settings(max_examples=25, deadline=None)
@given(
    scores=st.lists(st.floats(-5, 5), min_size=2, max_size=5),
    flip=st.booleans(),
    height=st.integers(2, 12),
    width=st.integers(2, 12),
)
def test_a_network_that_always_says_the_same_says_it_augmented_too(
    scores: list[float], flip: bool, height: int, width: int
) -> None:
    network, x = Constant(scores), torch.zeros(2, 3, height, width)
    got = augmented(Label(flip=flip))(network, x)
    torch.testing.assert_close(got, plain(network, x))
    torch.testing.assert_close(got.sum(1), torch.ones(2, height, width))


def test_plain_prediction_is_the_softmax_over_classes_in_float32() -> None:
    network, x = convolution(0), image(0, 5, 6)
    logits = network(x).float().numpy()
    got = plain(network, x)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(("height", "width"), [(7, 9), (10, 6)])
def test_augmentation_is_the_published_sum_divided_by_the_number_of_views(height: int, width: int, flip: bool) -> None:
    network, x = convolution(1), image(1, height, width)
    expected = published_sum(network, x[0].numpy(), PAPER.scales, flip) / (10 if flip else 5)
    got = augmented(Label(flip=flip))(network, x)[0]
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(3, 8), width=st.integers(3, 8))
def test_the_mask_is_that_of_the_published_sum_without_an_average(seed: int, height: int, width: int) -> None:
    network, x = convolution(seed), image(seed, height, width)
    expected = published_sum(network, x[0].numpy(), PAPER.scales, True)
    first, second = np.sort(expected, axis=0)[:-3:-1]
    clear = first - second > 1e-4  # nearer than that, the order of a sum decides
    got = augmented(PAPER)(network, x)[0].argmax(0).numpy()
    assert (got == expected.argmax(0))[clear].all()


def test_the_network_sees_the_published_sizes_each_with_its_mirror_image() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    augmented(PAPER)(network, image(2, 33, 50))  # type: ignore[arg-type]
    assert [tuple(x.shape[2:]) for x in seen[::2]] == [(16, 25), (24, 37), (33, 50), (49, 75), (66, 100)]
    assert all(torch.equal(x.flip(3), mirror) for x, mirror in zip(seen[::2], seen[1::2], strict=True))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(2, 12), width=st.integers(4, 12))
def test_with_flips_a_mirrored_image_gets_the_mirrored_prediction(seed: int, height: int, width: int) -> None:
    """From 4 pixels on: below, the smallest scale leaves one column, which aligned corners take from the left."""
    network, x = convolution(seed), image(seed, height, width, batch=2)
    predict = augmented(PAPER)
    torch.testing.assert_close(predict(network, x.flip(3)), predict(network, x).flip(3), rtol=0, atol=1e-6)


def test_without_flips_a_mirrored_image_may_get_another_prediction() -> None:
    network, x = convolution(3), image(3, 8, 8)
    predict = augmented(Label(flip=False))
    assert not torch.allclose(predict(network, x.flip(3)), predict(network, x).flip(3), atol=1e-2)


def test_an_image_of_one_pixel_is_not_scaled_to_nothing() -> None:
    got = augmented(PAPER)(convolution(4), image(4, 1, 3))
    assert got.shape == (1, 4, 1, 3)
    torch.testing.assert_close(got.sum(1), torch.ones(1, 1, 3))


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    network, x = convolution(5), image(5, 8, 9, batch=3)
    together = augmented(PAPER)(network, x)
    for i in range(3):
        torch.testing.assert_close(together[i], augmented(PAPER)(network, x[i : i + 1])[0], rtol=0, atol=1e-6)


def test_one_scale_of_one_without_flips_is_the_plain_prediction() -> None:
    network, x = convolution(6), image(6, 9, 8)
    assert torch.equal(augmented(Label(scales=(1.0,), flip=False))(network, x), F.softmax(network(x).float(), dim=1))
