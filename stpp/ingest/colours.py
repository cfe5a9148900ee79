"""The colours of classes that have none of their own: easy to tell apart, for colour-blind readers, too."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stpp.store.manifest import Rgb

OKABE_ITO: tuple[Rgb, ...] = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Colours of Okabe and Ito, which colour-blind people can tell apart: black first."""
IGNORED: tuple[Rgb, ...] = ((255, 255, 255), (214, 214, 214))
"""Colours of ignored pixels in mask files and in figures. No class gets a colour close to them."""
LEVELS = np.arange(0, 256, 17)
"""Levels of red, green and blue in the colours to choose from."""


def background(classes: Sequence[str]) -> int | None:
    """Return the id of the background class, which is 0 if that class is named so; otherwise None."""
    return 0 if classes and classes[0].strip("_ ").lower() in ("background", "bg", "void") else None


def class_palette(classes: Sequence[str]) -> tuple[Rgb, ...]:
    """Return a colour for every class: first those of Okabe and Ito, then each the most unlike all before it.

    The background is black. Without a background, black is the last of the first eight. There may be up to 255 classes.
    """
    first = OKABE_ITO if background(classes) == 0 else (*OKABE_ITO[1:], OKABE_ITO[0])
    chosen = [*IGNORED, *first]
    grid = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS), axis=-1).reshape(-1, 3)
    places = _lab(grid)
    near = np.min([np.linalg.norm(places - one, axis=1) for one in _lab(np.array(chosen))], axis=0)
    while len(chosen) < len(IGNORED) + len(classes):
        best = int(near.argmax())
        chosen.append((int(grid[best, 0]), int(grid[best, 1]), int(grid[best, 2])))
        near = np.minimum(near, np.linalg.norm(places - places[best], axis=1))
    return tuple(chosen[len(IGNORED) :][: len(classes)])


def _lab(rgb: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return sRGB colours (n, 3) of 0 to 255 in CIELAB (white D65), where distances are differences to the eye."""
    linear = np.where(rgb <= 10, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4339, 0.2126, 0.0178], [0.3763, 0.7152, 0.1095], [0.1898, 0.0722, 0.8727]])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
