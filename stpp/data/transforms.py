"""A_w and A_s (paper, 3.3 and 4.1; probabilities and ranges that the paper leaves open as in the authors' code).

The parts of a view draw one after the other from the view's own generators only, which `reseed` sets for one sample.
"""

import os
import random
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network at import

import albumentations as A
import cv2
import numpy as np
from albumentations.core.transforms_interface import DualTransform
from numpy.typing import NDArray

from stpp.masks import Mask
from stpp.params import IGNORE, Strong, Weak

Image = NDArray[np.uint8]

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


CUTOUT_DRAWS = 10_000
"""After so many rectangles that do not fit, none is cut out; with the published ranges every third fits."""


class RandomResize(DualTransform):
    """Resize so that the long side is an integer drawn uniformly from base * scale; the aspect is kept."""

    def __init__(self, base: int, scale: tuple[float, float], p: float = 1.0) -> None:
        super().__init__(p=p)
        self.base = base
        self.scale = scale

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        long = self.py_random.randint(int(self.base * self.scale[0]), int(self.base * self.scale[1]))
        height, width = params["shape"][:2]
        if height > width:
            return {"size": (long, max(1, int(width * long / height + 0.5)))}
        return {"size": (max(1, int(height * long / width + 0.5)), long)}

    def apply(self, img: Image, size: tuple[int, int], **_: Any) -> Image:
        # INTER_LINEAR alone would alias when it shrinks; the published Pillow resize does not.
        shrinks = size[0] < img.shape[0]
        out: Image = cv2.resize(img, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)  # type: ignore[assignment]
        return out

    def apply_to_mask(self, mask: Mask, size: tuple[int, int], **_: Any) -> Mask:
        out: Mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[assignment]
        return out


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
    return A.Compose(
        [
            RandomResize(params.base, params.scale),
            A.PadIfNeeded(
                params.crop,
                params.crop,
                position="top_left",
                border_mode=cv2.BORDER_CONSTANT,
                fill=0,
                fill_mask=IGNORE,
            ),
            A.RandomCrop(params.crop, params.crop),
            A.HorizontalFlip(p=params.flip),
        ]
    )


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
            CutOut(params.cutout_area, params.cutout_aspect, p=params.cutout),
        ]
    )


def reseed(view: A.Compose, seed: int) -> None:
    """Start the one stream of numbers that all parts of a view draw from.

    `Compose.set_random_seed` starts an equal stream for each part, so that all would decide by the same number:
    blur and CutOut always together, a large resize always with a crop at the bottom.
    """
    view.set_random_state(np.random.default_rng(seed), random.Random(seed))


def normalize(image: Image) -> NDArray[np.float32]:
    """RGB (H, W, 3) 0..255 -> float32 (3, H, W), with ImageNet's mean and deviation."""
    scaled = (image.astype(np.float32) / np.float32(255) - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
