"""A_w and A_s (paper, 3.3 and 4.1; probabilities and ranges that the paper leaves open as in the authors' code).

The parts of a view draw one after the other from the view's own generators only, which `reseed` sets for one sample.
"""

import os
import random
import warnings
from functools import cache
from pkgutil import resolve_name
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network at import

import albumentations as A
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from albumentations.core.transforms_interface import DualTransform
from numpy.typing import NDArray

from stpp.data.augmentations import AUGMENTATIONS
from stpp.data.normalization import IMAGENET, Normalization
from stpp.params.models import Strong, Weak
from stpp.store.files import StppError
from stpp.store.masks import IGNORE, Mask

Image = NDArray[np.uint8]

OFF = 1 / 512
"""Of a pixel of the source: how far from their places in the wholly resized image those of a crop may be sampled."""

CUTOUT_DRAWS = 10_000
"""After so many rectangles that do not fit, none is cut out; with the published ranges every third fits."""


class RandomResizedCrop(DualTransform):
    """Resize, pad right and bottom, crop, flip: drawn in this order (paper, 4.1), computed in one.

    The long side after the resize is an integer drawn uniformly from base * scale, the aspect is kept; the crop starts
    anywhere in what is resized and padded. Only the part of the source that the crop shows is then resampled: what
    comes out is the crop of the wholly resized image, within 1 of 255 of Pillow's bilinear (which, unlike OpenCV's,
    does not alias when it shrinks; a pixel in thousands of noise is off by 2), and for masks exactly Pillow's nearest.
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
        spare = [max(side - self.crop, 0) for side in size]  # padded to the crop, a side has one place for it
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
        """Height and width of what the crop shows of the resized image; the rest of it is padding."""
        return min(self.crop, size[0] - origin[0]), min(self.crop, size[1] - origin[1])

    def _placed(self, shown: Image, flip: bool, fill: int) -> Image:
        bottom, right = (self.crop - side for side in shown.shape[:2])
        if bottom or right:
            shown = cv2.copyMakeBorder(shown, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(fill,) * 3)  # type: ignore[assignment]
        return cv2.flip(shown, 1) if flip else shown  # type: ignore[return-value]


def _resized(img: Image, size: tuple[int, int], origin: tuple[int, int], shown: tuple[int, int]) -> Image:
    """The part `shown` from `origin` on of `img` resized to `size`; antialiased as Pillow does it where it shrinks."""
    (rows, top, fy), (columns, left, fx) = (_side(*side) for side in zip(img.shape, size, origin, shown, strict=False))
    part = img[rows, columns]
    if size[0] < img.shape[0] or size[1] < img.shape[1]:
        # OpenCV does not antialias; Pillow, whose kernel could start anywhere, takes four times as long as this.
        pixels = torch.from_numpy(np.require(part, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
        out = F.interpolate(
            pixels, scale_factor=(fy, fx), mode="bilinear", antialias=True, recompute_scale_factor=False
        )
        resized = out[0].permute(1, 2, 0).numpy()
    else:
        resized = cv2.resize(part, None, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized[top : top + shown[0], left : left + shown[1]], dtype=np.uint8)


def _side(before: int, after: int, start: int, length: int) -> tuple[slice, int, float]:
    """How to get `length` pixels from `start` on of a side resized from `before` pixels to `after`.

    Returns the pixels of the source that have to be resized, how many of the result come before `start`, and the
    factor. A resize begins at the edge of a pixel: the source is cut where edges of both lie on each other, or nearly.
    """
    step, factor = before / after, (1 + 1e-9) * after / before  # sizes are rounded down
    reach = max(1.0, step)  # how far from its centre a pixel of the result looks
    edges = ((back, (start - back) * step) for back in range(int(reach / step) + 2, start))
    # How many pixels before `start` the resize begins: with all of them, at the source's own edge.
    nearest = next((back for back, edge in edges if abs(edge - round(edge)) < OFF), start)
    first = round((start - nearest) * step)
    needed = min(before, int((start + length) * step + step + reach) + 2)
    # A side that would keep its length is not resampled at all; as a whole it has another.
    if after > before and int((needed - first) * factor) == needed - first:
        first, needed, nearest = 0, before, start
    return slice(first, needed), nearest, factor


def _nearest(before: int, after: int) -> NDArray[np.intp]:
    """The source pixel of every pixel along a side resized from `before` to `after`; summed up as Pillow does it."""
    centres = np.full(after, before / after)
    centres[0] /= 2
    return np.minimum(centres.cumsum().astype(np.intp), before - 1)


class CutOut(DualTransform):
    """Fill one rectangle with random values and ignore it in the mask.

    Area (a part of the crop) and aspect (height / width) are uniform; size and place are drawn together, both again
    until they fit, as in the authors' code: large rectangles are rarer than their draw.
    """

    def __init__(self, area: tuple[float, float], aspect: tuple[float, float], p: float) -> None:
        super().__init__(p=p)
        self.area = area
        self.aspect = aspect

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        for _ in range(CUTOUT_DRAWS):
            area = self.py_random.uniform(*self.area) * height * width
            aspect = self.py_random.uniform(*self.aspect)
            h, w = int((area * aspect) ** 0.5), int((area / aspect) ** 0.5)
            top, left = self.py_random.randrange(height), self.py_random.randrange(width)
            if top + h <= height and left + w <= width:
                noise = self.random_generator.integers(0, 256, (h, w, 3), dtype=np.uint8)
                return {"box": (slice(top, top + h), slice(left, left + w)), "noise": noise}
        return {"box": (slice(0), slice(0)), "noise": np.zeros((0, 0, 3), dtype=np.uint8)}

    def apply(self, img: Image, box: tuple[slice, slice], noise: Image, **_: Any) -> Image:
        img = img.copy()
        img[box] = noise
        return img

    def apply_to_mask(self, mask: Mask, box: tuple[slice, slice], **_: Any) -> Mask:
        mask = mask.copy()
        mask[box] = IGNORE
        return mask


def weak(params: Weak) -> A.Compose:
    """A_w: random resize, padding right and bottom (image 0, mask ignored), random crop, horizontal flip."""
    return A.Compose([RandomResizedCrop(params.base, params.scale, params.crop, params.flip)])


def strong(params: Strong) -> A.Compose:
    """A_s: colour jitter, greyscale, Gaussian blur, CutOut; applied after A_w to unlabelled images only."""
    jitter = A.ColorJitter(
        brightness=(1 - params.brightness, 1 + params.brightness),
        contrast=(1 - params.contrast, 1 + params.contrast),
        saturation=(1 - params.saturation, 1 + params.saturation),
        hue=(-params.hue, params.hue),
        p=params.jitter,
    )
    return A.Compose(
        [
            jitter,
            A.ToGray(p=params.grayscale),
            A.GaussianBlur(blur_limit=0, sigma_limit=params.blur_sigma, p=params.blur),
            *(_more(name, arguments) for one in params.more for name, arguments in one.items()),
            CutOut(params.cutout_area, params.cutout_aspect, p=params.cutout),
        ]
    )


def _more(name: str, arguments: dict[str, Any]) -> A.BasicTransform:
    """A transform of `augment.strong.more`. Raises StppError if there is none of this name or with these arguments."""
    own = AUGMENTATIONS.get(name)
    kind = resolve_name(own) if own else getattr(A, name, None)
    if not (isinstance(kind, type) and issubclass(kind, A.BasicTransform)):
        raise StppError(f"augment.strong.more: {name}: neither a transform of albumentations nor one of your own")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of an argument that it does not know, it only warns
            transform: A.BasicTransform = kind(**arguments)
    except (TypeError, ValueError, UserWarning) as error:
        raise StppError(f"augment.strong.more: {name}: {' '.join(str(error).split())}") from None
    return transform


def reseed(view: A.Compose, seed: int) -> None:
    """Start the one stream of numbers that all parts of a view draw from.

    `Compose.set_random_seed` starts an equal stream for each part, so that all would decide by the same number:
    blur and CutOut always together, a large resize always with a crop at the bottom.
    """
    view.set_random_state(np.random.default_rng(seed), random.Random(seed))


def normalize(image: Image, by: Normalization = IMAGENET) -> NDArray[np.float32]:
    """RGB (H, W, 3) 0..255 -> float32 (3, H, W)."""
    out, levels = np.empty((3, *image.shape[:2]), dtype=np.float32), _levels(by)
    for channel, plane in enumerate(cv2.split(image)):
        cv2.LUT(plane, levels[channel], out[channel])
    return out


@cache
def _levels(by: Normalization) -> NDArray[np.float32]:
    """The normalised value of every channel and grey level, (3, 256)."""
    mean, std = (np.array(values, dtype=np.float32) for values in by)
    return ((np.arange(256, dtype=np.float32)[:, None] / np.float32(255) - mean) / std).T.copy()
