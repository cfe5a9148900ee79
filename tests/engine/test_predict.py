"""Tests of test-time augmentation and sliding windows against plain loops."""

import copy
import operator
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from stpp.data.normalization import IMAGENET, Normalization
from stpp.data.transforms import normalize
from stpp.engine.predict import (
    VECTOR,
    Predict,
    describe,
    evaluation_predictor,
    fold_batch_norms,
    levels_of,
    mask_predictor,
    normalized,
    single_pass,
    starts,
    window_of,
    with_tta,
    with_windows,
)
from stpp.models.build import build, set_normalization
from stpp.params.models import Evaluate, Label, Model

Array = NDArray[np.float64]
SCALES = Label().scales


class Constant(nn.Module):
    """A network that gives the same scores at every pixel of any image."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores[None, :, None, None].expand(len(x), -1, *x.shape[2:])


def convolution(seed: int, classes: int = 4) -> nn.Module:
    """Return a convolution with large weights, so that two classes rarely have similar scores."""
    torch.manual_seed(seed)
    network = nn.Conv2d(3, classes, 3, padding=1).double()
    network.weight.data *= 4
    return network.requires_grad_(False)


def image(seed: int, height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def resized(x: Array, height: int, width: int) -> Array:
    """Resize bilinearly with aligned corners, pixel by pixel. x (C, h, w)."""
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
    """Return the sum of the softmax scores of all views of one image (3, H, W), as in the authors' code."""
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
def test_a_constant_prediction_stays_the_same_with_augmentation(
    scores: list[float], flip: bool, height: int, width: int
) -> None:
    network, x = Constant(scores), torch.zeros(2, 3, height, width)
    got = with_tta(single_pass, SCALES, flip)(network, x)
    torch.testing.assert_close(got, single_pass(network, x))
    torch.testing.assert_close(got.sum(1), torch.ones(2, height, width))


def test_plain_prediction_is_the_softmax_over_classes_in_float32() -> None:
    network, x = convolution(0), image(0, 5, 6)
    logits = network(x).float().numpy()
    got = single_pass(network, x)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(("height", "width"), [(7, 9), (10, 6)])
def test_augmentation_is_the_published_sum_divided_by_the_number_of_views(height: int, width: int, flip: bool) -> None:
    network, x = convolution(1), image(1, height, width)
    expected = published_sum(network, x[0].numpy(), SCALES, flip) / (10 if flip else 5)
    got = with_tta(single_pass, SCALES, flip)(network, x)[0]
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(3, 8), width=st.integers(3, 8))
def test_the_mask_equals_that_of_the_published_sum(seed: int, height: int, width: int) -> None:
    network, x = convolution(seed), image(seed, height, width)
    expected = published_sum(network, x[0].numpy(), SCALES, True)
    first, second = np.sort(expected, axis=0)[:-3:-1]
    clear = first - second > 1e-4  # for closer scores, rounding decides
    got = with_tta(single_pass, SCALES, True)(network, x)[0].argmax(0).numpy()
    assert (got == expected.argmax(0))[clear].all()


def test_the_network_sees_the_published_sizes_each_with_its_mirror_image() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    with_tta(single_pass, SCALES, True)(network, image(2, 33, 50))  # type: ignore[arg-type]
    assert [tuple(x.shape[2:]) for x in seen[::2]] == [(16, 25), (24, 37), (33, 50), (49, 75), (66, 100)]
    assert all(torch.equal(x.flip(3), mirror) for x, mirror in zip(seen[::2], seen[1::2], strict=True))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(2, 12), width=st.integers(4, 12))
def test_with_flips_a_mirrored_image_gets_the_mirrored_prediction(seed: int, height: int, width: int) -> None:
    """The width is at least 4. Below that, the smallest scale has one column, which comes from the left edge."""
    network, x = convolution(seed), image(seed, height, width, batch=2)
    predict = with_tta(single_pass, SCALES, True)
    torch.testing.assert_close(predict(network, x.flip(3)), predict(network, x).flip(3), rtol=0, atol=1e-6)


def test_without_flips_a_mirrored_image_may_get_another_prediction() -> None:
    network, x = convolution(3), image(3, 8, 8)
    predict = with_tta(single_pass, SCALES, False)
    assert not torch.allclose(predict(network, x.flip(3)), predict(network, x).flip(3), atol=1e-2)


def test_an_image_of_one_row_is_not_scaled_to_nothing() -> None:
    got = with_tta(single_pass, SCALES, True)(convolution(4), image(4, 1, 3))
    assert got.shape == (1, 4, 1, 3)
    torch.testing.assert_close(got.sum(1), torch.ones(1, 1, 3))


def test_images_of_a_batch_do_not_affect_each_other() -> None:
    network, x = convolution(5), image(5, 8, 9, batch=3)
    together = with_tta(single_pass, SCALES, True)(network, x)
    for i in range(3):
        torch.testing.assert_close(
            together[i], with_tta(single_pass, SCALES, True)(network, x[i : i + 1])[0], rtol=0, atol=1e-6
        )


def test_one_scale_of_one_without_flips_is_the_plain_prediction() -> None:
    network, x = convolution(6), image(6, 9, 8)
    assert torch.equal(with_tta(single_pass, (1.0,), False)(network, x), F.softmax(network(x).float(), dim=1))


# -- sliding windows --------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(side=st.integers(1, 60), window=st.integers(1, 40), data=st.data())
def test_windows_cover_every_pixel_stay_inside_and_step_no_further_than_the_stride(
    side: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window))
    begins = starts(side, window, stride)
    assert {p for b in begins for p in range(b, min(b + window, side))} == set(range(side))
    assert begins == sorted(set(begins))
    assert all(b + window <= side for b in begins) or begins == [0]
    assert all(later - earlier <= stride for earlier, later in pairwise(begins))


@pytest.mark.parametrize(("height", "width"), [(7, 9), (16, 5), (4, 4), (3, 12)])
def test_a_pixel_gets_the_mean_of_all_windows_that_show_it(height: int, width: int) -> None:
    network, x = convolution(7), image(7, height, width, batch=2)
    window, stride = 5, 3
    total, times = np.zeros((2, 4, height, width)), np.zeros((height, width))
    for top in starts(height, window, stride):
        for left in starts(width, window, stride):
            part = x[:, :, top : top + window, left : left + window]
            scores = F.softmax(network(part).float(), 1).numpy()
            for v in range(part.shape[2]):
                for u in range(part.shape[3]):
                    total[:, :, top + v, left + u] += scores[:, :, v, u]
                    times[top + v, left + u] += 1
    got = with_windows(window, stride)(network, x)
    np.testing.assert_allclose(got.numpy(), total / times, atol=1e-6)
    assert torch.allclose(got.sum(1), torch.ones(2, height, width))


def test_a_window_as_large_as_the_image_is_the_plain_prediction() -> None:
    network, x = convolution(8), image(8, 6, 9)
    assert torch.equal(with_windows(9, 4)(network, x), single_pass(network, x))


def pixels(seed: int, height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (2, height, width, 3), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@pytest.mark.parametrize("by", [IMAGENET, Normalization((0.5, 0.5, 0.5), (0.5, 0.25, 0.125))])
def test_pixels_are_normalised_as_for_training(by: Normalization) -> None:
    x = pixels(0, 5, 7)
    found = normalized(x.permute(0, 3, 1, 2), set_normalization(nn.Module(), by))
    assert (found.numpy() == np.stack([normalize(one.numpy(), by) for one in x])).all()
    exact = (x.double().numpy() / 255 - by.mean) / by.std
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), exact, atol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (Evaluate(), single_pass),
        (Evaluate(window=32, stride=8), single_pass),
        (Evaluate(window=16, stride=5), with_windows(16, 5)),
        (Evaluate(flip=True), with_tta(single_pass, [1.0], flip=True)),
        (Evaluate(window=16, stride=5, scales=(1.0, 1.5)), with_tta(with_windows(16, 5), [1.0, 1.5], flip=False)),
    ],
)
def test_evaluation_is_one_plain_pass_unless_its_parameters_say_otherwise(
    parameters: Evaluate, expected: Predict
) -> None:
    network, x = set_normalization(convolution(9).float(), IMAGENET), pixels(9, 27, 20)
    confidence, mask = expected(network, normalized(x.permute(0, 3, 1, 2), network)).max(1)
    found, sure, _ = evaluation_predictor(parameters)(network, x)
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), mask)
    torch.testing.assert_close(sure, confidence, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(50, 90), (90, 50), (40, 40), (33, 200), (41, 25)])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
def test_an_image_above_max_pixels_is_predicted_in_windows_each_at_all_scales(
    height: int, width: int, scales: tuple[float, ...]
) -> None:
    """The expected result is computed here: windows are added up over the whole image."""
    network, x, side, step = set_normalization(convolution(3).float(), IMAGENET), pixels(3, height, width), 32, 21
    way = with_tta(single_pass, scales, flip=True)
    assert window_of(height, width, 1024) == side
    total, times = torch.zeros(2, 4, height, width), torch.zeros(height, width)
    for top in starts(height, side, step):
        for left in starts(width, side, step):
            box = (slice(top, top + side), slice(left, left + side))
            part = normalized(x[:, *box].permute(0, 3, 1, 2), network)
            total[:, :, *box] += way(network, part)
            times[box] += 1
    confidence, mask = (total / times).max(1)
    found, sure, _ = mask_predictor(way, 1024)(network, x)
    torch.testing.assert_close(sure, confidence, rtol=0, atol=1e-6)
    assert (found == mask).float().mean() > 0.99  # equal except for ties within rounding


@pytest.mark.parametrize("name", ["deeplabv2", "deeplabv3plus", "pspnet"])
def test_a_folded_network_computes_the_same_and_adds_its_residuals_in_place(name: str) -> None:
    model = Model(network=name, backbone="resnet18", output_stride=16)  # type: ignore[arg-type]
    network, x = used(model), torch.randn(2, 3, 65, 97)
    with torch.inference_mode():
        expected = network.eval()(x)
        one = fold_batch_norms(network, model)
        found = one(x)
    in_place = [node for node in one.graph.nodes if node.target is operator.iadd]  # type: ignore[union-attr]
    assert len(in_place) >= 8, "the residuals of ResNet-18's blocks"
    assert not any(isinstance(m, nn.BatchNorm2d) for m in one.modules())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "mobilenetv3_large_100", "resnet50d", "repvgg_a0"])
def test_a_folded_network_of_timm_computes_the_same(backbone: str) -> None:
    model = Model(backbone=backbone, output_stride=16)
    network, x = used(model), torch.randn(2, 3, 65, 97)
    with torch.inference_mode():
        expected = network.eval()(x)
        one = fold_batch_norms(network, model)
        found = one(x)
    assert torch.equal(one.get_buffer("pixel_std"), network.get_buffer("pixel_std"))
    before = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert len(before) > 20, "no batch norm was folded"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_network_folded_in_bfloat16_computes_the_same_as_with_autocast() -> None:
    model = Model(backbone="resnet18", output_stride=16, precision="bfloat16")
    network, x = used(model), torch.randn(1, 3, 65, 65).contiguous(memory_format=torch.channels_last)
    one = fold_batch_norms(copy.deepcopy(network), model)
    assert {m.weight.dtype for m in one.modules() if isinstance(m, nn.Conv2d)} == {torch.bfloat16}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found, expected = one(x), fuse(network.eval())(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("classes", [2, VECTOR - 1, VECTOR, VECTOR + 1, 150])
def test_probabilities_equal_the_softmax_of_every_pixel_for_any_number_of_classes(classes: int) -> None:
    torch.manual_seed(classes)
    network = nn.Conv2d(3, classes, 1)
    x = 3 * torch.randn(2, 3, 5, 7)
    with torch.inference_mode():
        found = single_pass(network, x)
        scores = network.double()(x.double()).numpy()
    for b, row, column in np.ndindex(2, 5, 7):
        powers = np.exp(scores[b, :, row, column])
        np.testing.assert_allclose(found[b, :, row, column].numpy(), powers / powers.sum(), rtol=1e-5)


def used(model: Model) -> nn.Module:
    """Return a network whose batch norms differ from the identity."""
    torch.manual_seed(0)
    network = build(model, 5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
    return network


def test_an_image_at_max_pixels_is_predicted_whole_and_windows_are_at_most_1024() -> None:
    assert window_of(1024, 2048, 2**21) is None
    assert window_of(1024, 2049, 2**21) == 1024
    assert window_of(300, 300, 50_000) == 223


@pytest.mark.parametrize("way", ["labelling", "evaluation"])
def test_windows_have_one_size_and_are_as_few_as_an_overlap_of_a_third_allows(way: str) -> None:
    seen = []
    bound = 2**16

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape[2:]))
            return x.repeat(1, 2, 1, 1)

    predictor = (
        mask_predictor(single_pass, bound) if way == "labelling" else evaluation_predictor(Evaluate(max_pixels=bound))
    )
    mask, *_ = predictor(set_normalization(Spy(), IMAGENET), pixels(1, 800, 300)[:1])
    assert mask.shape == (1, 800, 300)
    assert set(seen) == {(256, 256)}
    assert len(seen) == 5 * 2, "windows at 0, 170, 340, 510, 544 and at 0, 44"


def test_describe_names_resolution_windows_scales_and_flip() -> None:
    assert describe(Evaluate()) == "original resolution, whole images, one scale"
    both = describe(Evaluate(window=769, scales=(0.5, 1.0), flip=True))
    assert both == "original resolution, windows of 769 at 512, scales 0.5, 1 and flip"


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 255), st.sampled_from([1e-3, 1.0, 30.0]), st.integers(0, 2**32 - 1))
def test_levels_add_up_to_255_and_are_within_one_of_the_probabilities(classes: int, spread: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = (spread * torch.randn(2, classes, 3, 4, generator=generator)).softmax(1)
    levels = levels_of(p).numpy()
    assert levels.shape == (2, 3, 4, classes) and levels.dtype == np.uint8
    assert (levels.sum(3, dtype=int) == 255).all()
    assert np.abs(levels - 255 * p.permute(0, 2, 3, 1).double().numpy()).max() < 1.001
    sure = torch.eye(classes)[:, :, None, None]
    assert np.array_equal(levels_of(sure)[:, 0, 0], 255 * np.eye(classes))
