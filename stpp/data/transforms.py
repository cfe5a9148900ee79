"""The weak augmentation A_w and the strong augmentation A_s (paper, 3.3 and 4.1).

Probabilities and ranges that the paper leaves open are those of the authors' code. A "view" is a pipeline of transforms
(`A.Compose`). Its transforms draw one after the other, and only from the view's own random generators. `reseed` sets
these generators for one sample.
"""

import os
import random
import warnings
from functools import cache
from pkgutil import resolve_name
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations would look online for a newer version at import

import albumentations as A
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from albumentations.core.transforms_interface import DualTransform, ImageOnlyTransform
from numpy.typing import NDArray

from stpp.data.augmentations import AUGMENTATIONS
from stpp.data.normalization import IMAGENET, Normalization
from stpp.params.models import Strong, Weak
from stpp.store.files import StppError
from stpp.store.masks import IGNORE, Mask

Image = NDArray[np.uint8]

OFF = 1 / 512
"""How far a crop may be sampled from its place in the wholly resized image, in pixels of the source image."""

CUTOUT_DRAWS = 10_000
"""After this many rectangles that do not fit, none is taken; with the published ranges every third one fits."""


class RandomResizedCrop(DualTransform):
    """Random resize, padding at the right and bottom, random crop and random flip (paper, 4.1).

    The values are drawn in this order, but everything is computed in one step. The long side after the resize is an
    integer drawn uniformly from base * scale; the aspect ratio is kept. The crop starts anywhere in the resized and
    padded image.

    Only the part of the source that the crop shows is resampled. The result equals the crop of the wholly resized
    image: within 1 of 255 of Pillow's bilinear resize (in noise, one pixel in thousands is off by 2), and for masks
    exactly Pillow's nearest. Unlike OpenCV's, Pillow's bilinear resize does not alias when it shrinks an image.
    """

    def __init__(self, base: int, scale: tuple[float, float], crop: int, flip: float, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.base = base
        self.scale = scale
        self.crop = crop
        self.flip = flip

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        long = self.py_random.randint(int(self.base * self.scale[0]), int(self.base * self.scale[1]))
        if height > width:
            size = long, max(1, int(width * long / height + 0.5))
        else:
            size = max(1, int(height * long / width + 0.5)), long
        spare = [max(side - self.crop, 0) for side in size]  # a side padded to the crop has only one place
        top, left = (int((most + 1) * self.py_random.random()) for most in spare)
        flip = self.flip > 0 and (self.flip >= 1 or self.py_random.random() < self.flip)
        return {"size": size, "origin": (top, left), "flip": flip}

    def apply(self, img: Image, size: tuple[int, int], origin: tuple[int, int], flip: bool, **_: Any) -> Image:
        shown = self._shown(size, origin)
        return self._placed(_resized(img, size, origin, shown), flip, 0)

    def apply_to_mask(self, mask: Mask, size: tuple[int, int], origin: tuple[int, int], flip: bool, **_: Any) -> Mask:
        (height, width), (top, left) = self._shown(size, origin), origin
        rows = _nearest(mask.shape[0], size[0])[top : top + height]
        columns = _nearest(mask.shape[1], size[1])[left : left + width]
        return self._placed(mask[rows].take(columns, axis=1), flip, IGNORE)

    def _shown(self, size: tuple[int, int], origin: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the part of the crop that shows the resized image; the rest is padding."""
        return min(self.crop, size[0] - origin[0]), min(self.crop, size[1] - origin[1])

    def _placed(self, shown: Image, flip: bool, fill: int) -> Image:
        if shown.shape[:2] != (self.crop, self.crop):
            padded = np.full((self.crop, self.crop, *shown.shape[2:]), fill, shown.dtype)
            padded[: shown.shape[0], : shown.shape[1]] = shown
            shown = padded
        return cv2.flip(shown, 1) if flip else shown  # type: ignore[return-value]


def _resized(img: Image, size: tuple[int, int], origin: tuple[int, int], shown: tuple[int, int]) -> Image:
    """Resize `img` to `size`, but compute only the part that starts at `origin` and has the size `shown`.

    Where the image shrinks, the resize is antialiased as in Pillow.
    """
    (rows, top, fy), (columns, left, fx) = (_side(*side) for side in zip(img.shape, size, origin, shown, strict=False))
    part = img[rows, columns]
    if size[0] < img.shape[0] or size[1] < img.shape[1]:
        # OpenCV does not antialias. Pillow's kernel could start anywhere, but Pillow takes four times as long as this.
        pixels = torch.from_numpy(np.require(part, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
        out = F.interpolate(
            pixels, scale_factor=(fy, fx), mode="bilinear", antialias=True, recompute_scale_factor=False
        )
        resized = out[0].permute(1, 2, 0).numpy()
    else:
        resized = cv2.resize(part, None, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized[top : top + shown[0], left : left + shown[1]], dtype=np.uint8)


def _side(before: int, after: int, start: int, length: int) -> tuple[slice, int, float]:
    """Return how to compute `length` pixels from `start` on, of a side resized from `before` pixels to `after`.

    Returns the slice of the source that has to be resized, how many pixels of its result come before `start`, and the
    scale factor. A resize begins at the edge of a pixel. So the source is cut where an edge of a source pixel and an
    edge of a result pixel coincide, or nearly so (OFF).
    """
    step, factor = before / after, (1 + 1e-9) * after / before  # slightly larger: sizes are rounded down
    reach = max(1.0, step)  # how far from its centre a result pixel samples the source
    edges = ((back, (start - back) * step) for back in range(int(reach / step) + 2, start))
    # How many result pixels before `start` the resize begins. If no edges coincide: at the source's own edge.
    nearest = next((back for back, edge in edges if abs(edge - round(edge)) < OFF), start)
    first = round((start - nearest) * step)
    needed = min(before, int((start + length) * step + step + reach) + 2)
    # A part that would keep its length would not be resampled. The whole side changes its length, so take it all.
    if after > before and int((needed - first) * factor) == needed - first:
        first, needed, nearest = 0, before, start
    return slice(first, needed), nearest, factor


def _nearest(before: int, after: int) -> NDArray[np.intp]:
    """Return the nearest source pixel of every pixel along a side resized from `before` to `after` pixels.

    The centres are a running sum, as in Pillow, so that they round in the same way.
    """
    centres = np.full(after, before / after)
    centres[0] /= 2
    return np.minimum(centres.cumsum().astype(np.intp), before - 1)


def rectangle(
    draw: random.Random, size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[slice, slice]:
    """Return the rows and columns of a random rectangle in a crop of `size` (height, width).

    Its area, as a fraction of the crop, its height / width and its place are drawn together, each uniformly, again and
    again until the rectangle fits. It is empty if none of CUTOUT_DRAWS fits.
    """
    height, width = size
    for _ in range(CUTOUT_DRAWS):
        pixels, ratio = draw.uniform(*area) * height * width, draw.uniform(*aspect)
        h, w = int((pixels * ratio) ** 0.5), int((pixels / ratio) ** 0.5)
        top, left = draw.randrange(height), draw.randrange(width)
        if top + h <= height and left + w <= width:
            return slice(top, top + h), slice(left, left + w)
    return slice(0, 0), slice(0, 0)


def cutmix_box(params: Strong, size: tuple[int, int], seed: int) -> Mask:
    """Return a mask of `size` (height, width) that is 1 in a random box, else 0; the box of CutMix.

    The box has the probability, area and aspect of CutOut, whose place it takes. As in the code of UniMatch, its area
    is drawn once, and not again if the box does not fit. So areas are uniform.
    """
    draw, box = random.Random(seed), np.zeros(size, dtype=np.uint8)
    if draw.random() < params.cutout:
        area = draw.uniform(*params.cutout_area)
        box[rectangle(draw, size, (area, area), params.cutout_aspect)] = 1
    return box


class CutOut(DualTransform):
    """CutOut: one random rectangle is filled with random values, and ignored (255) in the mask.

    area: range of the rectangle's area as a fraction of the crop. aspect: range of its height / width. Size and place
    are drawn by `rectangle`, as in the authors' code. So large rectangles are rarer than the uniform draw suggests.
    """

    def __init__(self, area: tuple[float, float], aspect: tuple[float, float], p: float) -> None:
        super().__init__(p=p)
        self.area = area
        self.aspect = aspect

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        box = rows, columns = rectangle(self.py_random, params["shape"][:2], self.area, self.aspect)
        size = rows.stop - rows.start, columns.stop - columns.start, *params["shape"][2:]
        return {"box": box, "noise": self.random_generator.integers(0, 256, size, dtype=np.uint8)}

    def apply(self, img: Image, box: tuple[slice, slice], noise: Image, **_: Any) -> Image:
        img = img.copy()
        img[box] = noise
        return img

    def apply_to_mask(self, mask: Mask, box: tuple[slice, slice], **_: Any) -> Mask:
        mask = mask.copy()
        mask[box] = IGNORE
        return mask


class BandJitter(ImageOnlyTransform):
    """Random brightness and contrast of an image of any bands, with one factor each for all bands.

    They are applied in random order. The contrast changes the distance to the mean of all values.
    """

    def __init__(self, brightness: float, contrast: float, p: float) -> None:
        super().__init__(p=p)
        self.brightness = brightness
        self.contrast = contrast

    def get_params(self) -> dict[str, Any]:
        factors = [self.py_random.uniform(1 - by, 1 + by) for by in (self.brightness, self.contrast)]
        return {"factors": factors, "contrast_first": self.py_random.random() < 0.5}

    def apply(self, img: Image, factors: list[float], contrast_first: bool, **_: Any) -> Image:
        brightness, contrast = factors
        levels = np.arange(256, dtype=np.float64)
        table, first = levels, (contrast, brightness) if contrast_first else (brightness, contrast)
        mean = float(img.mean())
        for factor in first:
            if factor is contrast:
                table = np.clip(mean + factor * (table - mean), 0, 255)
            else:
                table, mean = np.clip(factor * table, 0, 255), min(255.0, factor * mean)
        return np.asarray(cv2.LUT(img, np.round(table).astype(np.uint8)), dtype=np.uint8)


def weak(params: Weak) -> A.Compose:
    """Return A_w: random resize, padding right and bottom (image 0, mask ignored), random crop, horizontal flip."""
    return A.Compose([RandomResizedCrop(params.base, params.scale, params.crop, params.flip)])


def strong(params: Strong, channels: int = 3) -> A.Compose:
    """Return A_s: colour jitter, greyscale, Gaussian blur, the transforms of `augment.strong.more`, CutOut.

    A_s is applied after A_w; in the paper's method, to unlabelled images only. Saturation, hue and greyscale are left
    out if the images have another number of channels than three.
    """
    colours: list[A.BasicTransform] = [BandJitter(params.brightness, params.contrast, p=params.jitter)]
    if channels == 3:
        jitter = A.ColorJitter(
            brightness=(1 - params.brightness, 1 + params.brightness),
            contrast=(1 - params.contrast, 1 + params.contrast),
            saturation=(1 - params.saturation, 1 + params.saturation),
            hue=(-params.hue, params.hue),
            p=params.jitter,
        )
        colours = [jitter, A.ToGray(p=params.grayscale)]
    return A.Compose(
        [
            *colours,
            A.GaussianBlur(blur_limit=0, sigma_limit=params.blur_sigma, p=params.blur),
            *(_more(name, arguments) for one in params.more for name, arguments in one.items()),
            CutOut(params.cutout_area, params.cutout_aspect, p=params.cutout),
        ]
    )


def _more(name: str, arguments: dict[str, Any]) -> A.BasicTransform:
    """Return one transform of `augment.strong.more`.

    Raises StppError if there is no transform of this name, or if it does not accept these arguments.
    """
    own = AUGMENTATIONS.get(name)
    kind = resolve_name(own) if own else getattr(A, name, None)
    if not (isinstance(kind, type) and issubclass(kind, A.BasicTransform)):
        raise StppError(f"augment.strong.more: {name}: neither a transform of albumentations nor one of your own")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # for an unknown argument, albumentations only warns
            transform: A.BasicTransform = kind(**arguments)
    except (TypeError, ValueError, UserWarning) as error:
        raise StppError(f"augment.strong.more: {name}: {' '.join(str(error).split())}") from None
    return transform


def reseed(view: A.Compose, seed: int) -> None:
    """Seed the one stream of random numbers from which all transforms of a view draw.

    `Compose.set_random_seed` would give every transform an equal stream. All of them would then decide by the same
    number: blur and CutOut would always occur together, and a large resize always with a crop at the bottom.
    """
    view.set_random_state(np.random.default_rng(seed), random.Random(seed))


def normalize(image: Image, by: Normalization = IMAGENET) -> NDArray[np.float32]:
    """Normalise an image: uint8 (H, W, channels), 0..255 -> float32 (channels, H, W)."""
    levels = _levels(by)
    out = np.empty((len(levels), *image.shape[:2]), dtype=np.float32)
    for channel, plane in enumerate(cv2.split(image)):
        cv2.LUT(plane, levels[channel], out[channel])
    return out


@cache
def _levels(by: Normalization) -> NDArray[np.float32]:
    """Return the normalised value of every grey level (0..255) by channel, float32 (channels, 256)."""
    mean, std = (np.array(values, dtype=np.float32) for values in by)
    return ((np.arange(256, dtype=np.float32)[:, None] / np.float32(255) - mean) / std).T.copy()
