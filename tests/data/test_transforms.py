"""Tests of A_w and A_s: image and mask stay aligned, every part obeys its parameters, and seeds decide all draws."""

import colorsys
import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageOps

from stpp.data.transforms import CutOut, RandomResizedCrop, cutmix_box, normalize, reseed, strong, weak
from stpp.params.models import Strong, Weak

FEW = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)

Pixels = NDArray[np.uint8]
NO_JITTER = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
OFF = {"jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "cutout": 0.0}
COLOURFUL: Pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
CLASSES: Pixels = np.random.default_rng(1).integers(0, 3, (24, 24)).astype(np.uint8)


def apply(transform: A.Compose, seed: int, image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
    reseed(transform, seed)
    out = transform(image=image, mask=mask)
    return out["image"], out["mask"]


def frequency_is(times: int, draws: int, p: float) -> bool:
    """Return whether `times` out of `draws` is within four standard deviations of probability p."""
    return abs(times - draws * p) <= 4 * (draws * p * (1 - p)) ** 0.5


# -- resize -----------------------------------------------------------------------------------------------------------


def resized(base: int, scale: tuple[float, float], seed: int, image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
    """Return the whole resized image and mask: a crop that shows all of them, without its padding."""
    transform = A.Compose([RandomResizedCrop(base, scale, int(base * scale[1]), 0.0)])
    there = apply(transform, seed, image, np.zeros_like(mask))[1] == 0
    box = slice(there.any(axis=1).sum()), slice(there.any(axis=0).sum())
    assert there[box].all()
    out, classes = apply(transform, seed, image, mask)
    return out[box], classes[box]


@FEW
@given(
    st.integers(3, 60),
    st.integers(3, 60),
    st.integers(8, 80),
    st.sampled_from([(0.5, 2.0), (0.75, 1.5), (1.0, 1.0)]),
    SEEDS,
)
def test_the_long_side_is_drawn_from_the_base_and_the_aspect_is_kept(
    height: int, width: int, base: int, scale: tuple[float, float], seed: int
) -> None:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    h, w = resized(base, scale, seed, image, image[:, :, 0])[0].shape[:2]
    assert int(base * scale[0]) <= max(h, w) <= int(base * scale[1])
    short = min(height, width) * max(h, w) / max(height, width)
    assert min(h, w) == 1 or abs(min(h, w) - short) <= 0.5
    assert height == width or (h >= w) == (height > width) or h == w


def test_every_long_side_between_the_bounds_is_drawn_equally_often() -> None:
    image = np.zeros((10, 7, 3), dtype=np.uint8)
    sides = [resized(8, (0.5, 2.0), seed, image, image[:, :, 0])[0].shape[0] for seed in range(1300)]
    assert sorted(set(sides)) == list(range(4, 17))
    assert all(frequency_is(sides.count(side), 1300, 1 / 13) for side in range(4, 17))


def test_masks_are_resized_to_the_nearest_value_and_images_are_interpolated() -> None:
    mask = np.array([[0, 2], [7, 255]], dtype=np.uint8)
    image = np.repeat(mask[:, :, None], 3, axis=2)
    bigger, classes = resized(8, (1.0, 1.0), 0, image, mask)
    assert np.array_equal(classes, np.repeat(np.repeat(mask, 4, 0), 4, 1))
    assert set(np.unique(bigger)) > {0, 2, 7, 255}


def test_downscaling_does_not_alias() -> None:
    """Stripes that are finer than the new pixels become grey. Sampling single pixels would give stripes again."""
    stripes = np.zeros((60, 60, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    smaller, _ = resized(20, (1.0, 1.0), 0, stripes, stripes[:, :, 0])
    assert np.abs(smaller[:, 1:-1].astype(int) - 100).max() <= 12


# -- the crop, and the crop of the whole resized image ----------------------------------------------------------------


def in_order(image: Pixels, mask: Pixels, params: Weak, seed: int) -> tuple[Pixels, Pixels]:
    """Apply the published steps to the whole image with Pillow: resize, pad, crop, flip. Draw when a step needs it."""
    draw = random.Random(seed)
    draw.random()  # albumentations first draws whether to apply the transform
    height, width = mask.shape
    long = draw.randint(int(params.base * params.scale[0]), int(params.base * params.scale[1]))
    if height > width:
        height, width = long, max(1, int(width * long / height + 0.5))
    else:
        height, width = max(1, int(height * long / width + 0.5)), long
    border = (0, 0, max(0, params.crop - width), max(0, params.crop - height))
    image_, mask_ = Image.fromarray(image), Image.fromarray(mask)
    image_ = ImageOps.expand(image_.resize((width, height), Image.Resampling.BILINEAR), border, 0)
    mask_ = ImageOps.expand(mask_.resize((width, height), Image.Resampling.NEAREST), border, 255)
    top = int((image_.height - params.crop + 1) * draw.random())
    left = int((image_.width - params.crop + 1) * draw.random())
    box = slice(top, top + params.crop), slice(left, left + params.crop)
    out, classes = np.asarray(image_)[box], np.asarray(mask_)[box]
    if params.flip > 0 and (params.flip == 1 or draw.random() < params.flip):
        out, classes = out[:, ::-1], classes[:, ::-1]
    return out, classes


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.sampled_from([8, 24, 100, 260]),
    st.sampled_from([16, 33, 97]),
    st.sampled_from([(0.5, 2.0), (1.0, 1.0), (1.5, 4.0), (0.13, 0.3)]),
    st.sampled_from([0.0, 0.5, 1.0]),
    SEEDS,
    st.booleans(),
)
@example(180, 1, 260, 16, (0.5, 2.0), 0.0, 181, False)  # 180 rows become 183, of which 25 are needed
@example(12, 12, 260, 16, (1.5, 4.0), 0.0, 28, True)  # so enlarged that neighbours are equal, and off by 2 together
def test_a_sample_equals_the_crop_of_the_whole_resized_and_padded_image(
    height: int, width: int, base: int, crop: int, scale: tuple[float, float], flip: float, seed: int, hard: bool
) -> None:
    """Pixels differ by at most one grey level, a few by two, also at hard edges. Masks and padding are equal."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if hard:
        image = np.where(image < 128, np.uint8(0), np.uint8(255))
    mask = rng.integers(0, 255, (height, width)).astype(np.uint8)
    params = Weak(base=base, crop=crop, scale=scale, flip=flip)
    out, classes = apply(weak(params), seed, image, mask)
    expected, expected_classes = in_order(image, mask, params, seed)
    assert np.array_equal(classes, expected_classes)
    assert out.shape == expected.shape
    difference = np.abs(out.astype(int) - expected)
    assert difference.max() <= 2
    assert (difference == 2).mean() < 0.02
    assert (out[classes == 255] == 0).all()


@pytest.mark.parametrize("shape", [(1500, 2400), (2400, 1500)])
@pytest.mark.parametrize("base", [300, 3000])
def test_large_images_are_cropped_like_small_ones(shape: tuple[int, int], base: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    mask = rng.integers(0, 255, shape, dtype=np.uint8)
    for seed in range(3):
        params = Weak(base=base, crop=321)
        out, classes = apply(weak(params), seed, image, mask)
        expected, expected_classes = in_order(image, mask, params, seed)
        assert np.array_equal(classes, expected_classes)
        difference = np.abs(out.astype(int) - expected)
        assert difference.max() <= 2
        assert (difference == 2).mean() < 1e-4


def test_memory_mapped_arrays_give_the_same_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), rng.integers(0, 255, (90, 120), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "mask.npy", mask)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("image", "mask")]
    for seed in range(30):
        for a, b in zip(
            apply(weak(Weak(base=120, crop=64)), seed, image, mask),
            apply(weak(Weak(base=120, crop=64)), seed, *mapped),
            strict=True,
        ):
            assert np.array_equal(a, b)


# -- A_w --------------------------------------------------------------------------------------------------------------


def blocks(height: int, width: int, seed: int) -> tuple[Pixels, Pixels]:
    """Return an image and a mask: blocks of classes 0 to 4, which the image encodes as 50 * class + 20."""
    coarse = np.random.default_rng(seed).integers(0, 5, (height // 16 + 1, width // 16 + 1))
    mask = np.kron(coarse, np.ones((16, 16)))[:height, :width].astype(np.uint8)
    return np.repeat((50 * mask + 20)[:, :, None], 3, axis=2).astype(np.uint8), mask


def flat(mask: Pixels, reach: int) -> NDArray[np.bool_]:
    """Return where all pixels within `reach` are inside the mask and have the same value."""
    windows = np.lib.stride_tricks.sliding_window_view(mask, (2 * reach + 1,) * 2)
    return np.pad(windows.min(axis=(2, 3)) == windows.max(axis=(2, 3)), reach)


@FEW
@given(st.integers(32, 70), st.integers(32, 70), SEEDS, st.sampled_from([0.0, 0.5, 1.0]))
def test_image_and_mask_stay_aligned(height: int, width: int, seed: int, flip: float) -> None:
    image, mask = blocks(height, width, seed % 7)
    out, classes = apply(weak(Weak(base=max(height, width), crop=40, flip=flip)), seed, image, mask)
    assert out.shape == (40, 40, 3)
    assert classes.shape == (40, 40)
    coded = np.where(classes == 255, 0, 50 * classes.astype(int) + 20)
    inside = flat(classes, 3)  # at twice the size, an edge is blurred over two pixels on each side
    assert inside.any()
    assert np.array_equal(out[inside], np.repeat(coded[inside][:, None], 3, axis=1))


def test_edges_of_the_mask_lie_on_the_edges_of_the_image() -> None:
    mask = np.zeros((10, 10), dtype=np.uint8)
    mask[:, 4:] = 1
    image = np.repeat(mask[:, :, None] * np.uint8(250), 3, axis=2)
    shifts = []
    for side in range(11, 60):
        out, classes = resized(side, (1.0, 1.0), 0, image, mask)
        shifts.append(int((out[0, :, 0] >= 125).sum()) - int(classes[0].sum()))
    assert max(map(abs, shifts)) <= 1
    assert abs(np.mean(shifts)) < 0.2


@FEW
@given(st.data(), st.integers(1, 30), st.integers(1, 30), SEEDS)
def test_a_mask_gets_no_new_value_except_255(data: st.DataObject, height: int, width: int, seed: int) -> None:
    mask = data.draw(arrays(np.uint8, (height, width), elements=st.sampled_from([0, 3, 20, 254])))
    image = np.zeros((height, width, 3), dtype=np.uint8)
    _, classes = apply(weak(Weak(base=24, crop=24)), seed, image, mask)
    assert set(np.unique(classes)) <= {*np.unique(mask), 255}


@FEW
@given(st.integers(8, 40), st.integers(8, 40), SEEDS, st.booleans())
def test_small_images_are_padded_right_and_bottom_before_the_flip(
    height: int, width: int, seed: int, flip: bool
) -> None:
    image = np.full((height, width, 3), 200, dtype=np.uint8)
    mask = np.full((height, width), 3, dtype=np.uint8)
    out, classes = apply(weak(Weak(base=24, crop=32, scale=(1.0, 1.0), flip=float(flip))), seed, image, mask)
    long = max(height, width)
    h, w = (int(side * 24 / long + 0.5) for side in (height, width))
    expected = np.full((32, 32), 255)
    expected[:h, :w] = 3
    if flip:
        expected = expected[:, ::-1]
    assert np.array_equal(classes, expected)
    assert np.array_equal(out, np.repeat(np.where(expected == 3, 200, 0)[:, :, None], 3, axis=2))


def test_a_crop_starts_anywhere_and_has_no_padding() -> None:
    mask = np.arange(20 * 20, dtype=np.int32).reshape(20, 20)
    rows, columns = (mask // 20).astype(np.uint8), (mask % 20).astype(np.uint8)
    image = np.stack([rows, columns, rows], axis=2)
    transform = weak(Weak(base=20, crop=16, scale=(1.0, 1.0), flip=0.0))
    starts = []
    for seed in range(500):
        out, classes = apply(transform, seed, image, rows)
        top, left = out[0, 0, :2].tolist()
        starts.append((top, left))
        assert np.array_equal(out, image[top : top + 16, left : left + 16])
        assert np.array_equal(classes, rows[top : top + 16, left : left + 16])
    assert set(starts) == {(r, c) for r in range(5) for c in range(5)}


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_images_are_flipped_with_the_given_probability(p: float) -> None:
    transform = weak(Weak(base=24, crop=24, scale=(1.0, 1.0), flip=p))
    flipped = 0
    for seed in range(400):
        out, classes = apply(transform, seed, COLOURFUL, CLASSES)
        mirrored = np.array_equal(out, COLOURFUL[:, ::-1])
        assert np.array_equal(classes, CLASSES[:, ::-1] if mirrored else CLASSES)
        flipped += mirrored
    assert frequency_is(flipped, 400, p)


# -- CutOut -----------------------------------------------------------------------------------------------------------

AREA, ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)


def cut(seed: int, size: int, area: tuple[float, float] = AREA) -> tuple[Pixels, Pixels]:
    image = np.full((size, size, 3), 7, dtype=np.uint8)
    transform = A.Compose([CutOut(area, ASPECT, p=1.0)])
    return apply(transform, seed, image, np.zeros((size, size), dtype=np.uint8))


def rectangle(mask: Pixels) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero((mask == 255).any(axis=1)), np.flatnonzero((mask == 255).any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


@FEW
@given(SEEDS, st.integers(30, 90), st.sampled_from([AREA, (0.02, 0.05), (0.35, 0.4)]))
def test_cutout_fills_and_ignores_one_rectangle_within_its_ranges(
    seed: int, size: int, area: tuple[float, float]
) -> None:
    image, mask = cut(seed, size, area)
    box = rectangle(mask)
    outside = np.ones((size, size), dtype=bool)
    outside[box] = False
    assert (mask[box] == 255).all()
    assert (mask[outside] == 0).all()
    assert (image[outside] == 7).all()
    h, w = (s.stop - s.start for s in box)
    # Both sides are rounded down to whole pixels, so the drawn sides were less than a pixel longer.
    assert h * w <= area[1] * size**2
    assert (h + 1) * (w + 1) >= area[0] * size**2
    assert h / (w + 1) <= ASPECT[1]
    assert (h + 1) / w >= ASPECT[0]


def test_cutout_fills_with_noise_of_every_value_for_every_pixel_and_channel() -> None:
    image, mask = cut(3, 200, (0.35, 0.4))
    noise = image[rectangle(mask)].reshape(-1, 3).astype(np.float64)
    assert np.abs(noise.mean(axis=0) - 127.5).max() < 5 * 73.9 / len(noise) ** 0.5
    assert len(np.unique(noise)) == 256
    assert np.abs(np.corrcoef(noise.T)[np.triu_indices(3, 1)]).max() < 5 / len(noise) ** 0.5
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 5 / len(noise) ** 0.5


def test_cutout_draws_size_and_place_together_so_that_large_rectangles_are_rare() -> None:
    areas = [(cut(seed, 100)[1] == 255).mean() for seed in range(1500)]
    # A rectangle of area a and aspect r fits at a share (1 - h)(1 - w) of all places. So the exact mean area is:
    a, r = (g.ravel() for g in np.meshgrid(np.linspace(*AREA, 400), np.linspace(*ASPECT, 400)))
    fits = np.clip(1 - np.sqrt(a * r), 0, 1) * np.clip(1 - np.sqrt(a / r), 0, 1)
    law = (a * fits).sum() / fits.sum()
    assert law == pytest.approx(0.14, abs=0.005)
    assert np.mean(areas) == pytest.approx(law, abs=0.01)
    assert np.mean(areas) == pytest.approx(0.14, abs=0.015)


def test_cutout_reaches_every_border() -> None:
    boxes = [rectangle(cut(seed, 24)[1]) for seed in range(400)]
    for axis in (0, 1):
        assert min(box[axis].start for box in boxes) == 0
        assert max(box[axis].stop for box in boxes) == 24


def test_the_boxes_of_cutmix_have_uniform_areas_and_aspects_within_their_ranges() -> None:
    shape, draws, p = (60, 90), 1500, 0.5
    params = Strong(cutout=p, cutout_area=(0.1, 0.3), cutout_aspect=(0.5, 2.0))
    boxes = [cutmix_box(params, shape, seed) for seed in range(draws)]
    assert all(np.array_equal(cutmix_box(params, shape, seed), boxes[seed]) for seed in range(9))
    filled = [box for box in boxes if box.any()]
    assert frequency_is(len(filled), draws, p)
    areas = np.array([box.mean() for box in filled])
    sides = np.array([(box.any(1).sum(), box.any(0).sum()) for box in filled])
    assert np.array_equal(areas, sides.prod(1) / np.prod(shape)), "each is one rectangle of ones"
    assert 0.09 < areas.min() < 0.11
    assert 0.29 < areas.max() <= 0.3
    assert abs(areas.mean() - 0.2) < 4 * 0.2 / 12**0.5 / len(areas) ** 0.5 + 0.004  # sides are rounded down
    assert (sides[:, 0] / sides[:, 1] > 0.47).all() and (sides[:, 0] / sides[:, 1] < 2.1).all()
    assert not cutmix_box(Strong(cutout=0.0), shape, 0).any()


# -- A_s --------------------------------------------------------------------------------------------------------------


@FEW
@given(SEEDS)
def test_strong_at_probability_0_changes_nothing(seed: int) -> None:
    image, mask = apply(strong(Strong(**OFF)), seed, COLOURFUL, CLASSES)
    assert np.array_equal(image, COLOURFUL)
    assert np.array_equal(mask, CLASSES)


@pytest.mark.parametrize("part", ["jitter", "grayscale", "blur", "cutout"])
@pytest.mark.parametrize("p", [None, 0.1, 1.0])
def test_each_part_is_applied_with_the_given_probability(part: str, p: float | None) -> None:
    p = getattr(Strong(), part) if p is None else p
    transform = strong(Strong(**(OFF | {part: p}), blur_sigma=(1.0, 2.0)))
    applied = 0
    for seed in range(400):
        image, mask = apply(transform, seed, COLOURFUL, CLASSES)
        changed = not np.array_equal(image, COLOURFUL)
        applied += changed
        assert np.array_equal(mask, CLASSES) == (part != "cutout" or not changed)
    assert frequency_is(applied, 400, p)


def test_the_parts_of_a_strong_view_are_drawn_independently() -> None:
    """Each of the 16 combinations occurs with the product of the probabilities of its parts."""
    p = {"jitter": 0.8, "grayscale": 0.3, "blur": 0.5, "cutout": 0.5}
    image = np.full((24, 24, 3), (200, 60, 60), dtype=np.uint8)
    image[:, 12:] = (210, 70, 70)
    parts = NO_JITTER | {"brightness": 0.5}
    transform = strong(Strong(**p, **parts, blur_sigma=(2.0, 2.0), cutout_area=(0.02, 0.04)))
    draws = 800
    times: Counter[tuple[bool, ...]] = Counter()
    for seed in range(draws):
        out, mask = apply(transform, seed, image, np.zeros((24, 24), dtype=np.uint8))
        rows = [row for row in range(24) if not (mask[row] == 255).any()]
        line = out[rows[0]].astype(int)
        grey = bool((line[:, 0] == line[:, 1]).all())
        blurred = len(np.unique(line[:, 1])) > 2
        colour = image[0, [0, -1]].astype(float)
        plain = (colour @ [[0.299], [0.587], [0.114]]).repeat(3, axis=1) if grey else colour
        bright = bool(np.abs(line[[0, -1]] - plain).max() > 1)
        times[bright, grey, blurred, bool((mask == 255).any())] += 1
    for combination in product([True, False], repeat=4):
        q = math.prod(p_ if on else 1 - p_ for p_, on in zip(p.values(), combination, strict=True))
        # A brightness factor of almost 1 is not visible: allow 6 more.
        assert abs(times[combination] - draws * q) <= 4 * (draws * q * (1 - q)) ** 0.5 + 6, combination


def test_the_draws_of_a_weak_view_are_independent() -> None:
    """No pair of these is correlated: scale, row of the crop, column of the crop, flip."""
    size, crop, draws = 64, 16, 600
    rows, columns = np.mgrid[:size, :size]
    image = np.stack([rows * 4, columns * 4, rows], axis=2).astype(np.uint8)
    transform = weak(Weak(base=size, crop=crop, scale=(0.5, 2.0)))
    found = []
    for seed in range(draws):
        out = apply(transform, seed, image, rows.astype(np.uint8))[0].astype(float) / 4
        slope = (out[8, -3, 1] - out[8, 2, 1]) / (crop - 5)
        seen = crop * abs(slope)  # pixels of the image
        row, column = (out[7:9, 7:9, axis].mean() + 0.5 - seen / 2 for axis in (0, 1))
        found.append((abs(slope), row / (size - seen), column / (size - seen), slope < 0))
    correlation = np.corrcoef(np.array(found, dtype=float).T)
    assert np.abs(correlation[np.triu_indices(4, 1)]).max() < 4 / draws**0.5


def test_cutout_comes_last() -> None:
    transform = strong(Strong(jitter=0.0, blur=1.0, blur_sigma=(2.0, 2.0), grayscale=1.0, cutout=1.0))
    image, mask = apply(transform, 1, np.zeros((64, 64, 3), dtype=np.uint8), np.zeros((64, 64), dtype=np.uint8))
    noise = image[rectangle(mask)]
    assert (image[mask != 255] == 0).all()
    assert noise.std() > 60
    assert (noise[:, :, 0] != noise[:, :, 1]).any()


def test_grey_is_the_luminance_in_all_channels() -> None:
    image, _ = apply(strong(Strong(**(OFF | {"grayscale": 1.0}))), 0, COLOURFUL, CLASSES)
    luminance = COLOURFUL.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert np.abs(image - luminance[:, :, None]).max() <= 1


def jittered(seeds: int, image: Pixels, **ranges: float) -> NDArray[np.float64]:
    transform = strong(Strong(**(OFF | NO_JITTER | {"jitter": 1.0} | ranges)))
    mask = np.zeros(image.shape[:2], dtype=np.uint8)
    return np.array([apply(transform, seed, image, mask)[0] for seed in range(seeds)], dtype=np.float64)


def test_brightness_multiplies_by_up_to_its_range_either_way() -> None:
    grey = np.full((4, 4, 3), 100, dtype=np.uint8)
    factors = jittered(300, grey, brightness=0.5).mean(axis=(1, 2, 3)) / 100
    assert 0.49 <= factors.min() < 0.55
    assert 1.45 < factors.max() <= 1.51
    assert abs(factors.mean() - 1) < 4 * (1 / 12**0.5) / 300**0.5


def test_contrast_stretches_around_the_mean_by_up_to_its_range() -> None:
    image = np.full((4, 4, 3), 80, dtype=np.uint8)
    image[:2] = 120
    spread = np.ptp(jittered(300, image, contrast=0.5), axis=(1, 2, 3)) / 40
    assert 0.45 <= spread.min() < 0.56
    assert 1.44 < spread.max() <= 1.55


def test_saturation_moves_between_grey_and_colour_by_up_to_its_range() -> None:
    image = np.full((4, 4, 3), (120, 100, 100), dtype=np.uint8)
    distance = np.ptp(jittered(300, image, saturation=0.5)[:, 0, 0], axis=1) / 20
    assert 0.4 <= distance.min() < 0.6
    assert 1.4 < distance.max() <= 1.6


def test_hue_turns_by_up_to_a_quarter_either_way() -> None:
    red = np.full((2, 2, 3), (200, 50, 50), dtype=np.uint8)
    turned = [colorsys.rgb_to_hsv(*(p / 255))[0] for p in jittered(300, red, hue=0.25)[:, 0, 0]]
    turns = np.array([(hue + 0.5) % 1 - 0.5 for hue in turned])
    assert np.abs(turns).max() <= 0.255
    assert turns.min() < -0.22
    assert turns.max() > 0.22


def gaussian(image: Pixels, sigma: float) -> NDArray[np.float64]:
    """Return the Gaussian blur as weighted sums, with a much larger window than needed."""
    reach = int(6 * sigma) + 1
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    out = image.astype(np.float64)
    for axis in (0, 1):
        out = np.apply_along_axis(np.convolve, axis, out, weights, "same")
    return out


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_is_a_gaussian(sigma: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    params = Strong(**(OFF | {"blur": 1.0}), blur_sigma=(sigma, sigma))
    blurred, _ = apply(strong(params), 0, image, image[:, :, 0])
    inner = (slice(13, -13), slice(13, -13))
    assert np.abs(blurred[inner] - gaussian(image, sigma)[inner]).max() <= 2


def test_blurs_are_drawn_between_the_bounds() -> None:
    image = np.zeros((25, 25, 3), dtype=np.uint8)
    image[12, 12] = 255
    transform = strong(Strong(**(OFF | {"blur": 1.0})))
    peaks = [int(apply(transform, seed, image, image[:, :, 0])[0][12, 12, 0]) for seed in range(200)]
    strongest = 255 / (2 * np.pi * 2.0**2)
    assert strongest - 2 <= min(peaks) < 2 * strongest
    assert max(peaks) == 255
    assert len(set(peaks)) > 30


# -- seeds ------------------------------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[], A.Compose]] = {
    "weak": lambda: weak(Weak(base=24, crop=20)),
    "strong": lambda: strong(Strong(jitter=1.0, blur=1.0, cutout=1.0)),
}


@pytest.mark.parametrize("view", VIEWS)
@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(0, 5), SEEDS)
def test_a_view_depends_only_on_its_seed_not_on_earlier_draws(view: str, seed: int, before: int, other: int) -> None:
    first = apply(VIEWS[view](), seed, COLOURFUL, CLASSES)
    random.seed(other)
    np.random.seed(other)
    transform = VIEWS[view]()
    for number in range(before):
        apply(transform, number, COLOURFUL, CLASSES)
    again = apply(transform, seed, COLOURFUL, CLASSES)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


@pytest.mark.parametrize("view", VIEWS)
def test_other_seeds_give_other_views_and_the_input_arrays_are_not_changed(view: str) -> None:
    image, mask = COLOURFUL.copy(), CLASSES.copy()
    views = {apply(VIEWS[view](), seed, image, mask)[0].tobytes() for seed in range(30)}
    assert len(views) >= 24
    assert np.array_equal(image, COLOURFUL)
    assert np.array_equal(mask, CLASSES)


@pytest.mark.parametrize("view", VIEWS)
def test_global_random_generators_are_not_used(view: str) -> None:
    random.seed(0)
    np.random.seed(0)
    expected = (random.random(), np.random.random())
    random.seed(0)
    np.random.seed(0)
    apply(VIEWS[view](), 5, COLOURFUL, CLASSES)
    assert (random.random(), np.random.random()) == expected


# -- normalise --------------------------------------------------------------------------------------------------------


@FEW
@given(st.data())
def test_normalize_uses_the_mean_and_deviation_of_imagenet(data: st.DataObject) -> None:
    shape = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)), 3)
    image = data.draw(arrays(np.uint8, shape))
    out: NDArray[Any] = normalize(image)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    assert out.shape == (3, *shape[:2])
    for channel, (mean, deviation) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        expected = (image[:, :, channel].astype(np.float64) / 255 - mean) / deviation
        assert np.abs(out[channel] - expected).max() < 1e-6


def test_cutout_gives_up_if_rectangles_hardly_ever_fit() -> None:
    """Area 1 with a large range of aspects is valid. CutOut must not draw for ever then."""
    view = strong(Strong(jitter=0, grayscale=0, blur=0, cutout=1, cutout_area=(1, 1), cutout_aspect=(0.3, 900)))
    reseed(view, 0)
    image = np.full((48, 48, 3), 7, dtype=np.uint8)
    out = view(image=image, mask=np.zeros((48, 48), dtype=np.uint8))
    assert np.array_equal(out["image"], image)
    assert not out["mask"].any()
