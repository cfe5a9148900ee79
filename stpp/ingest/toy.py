"""The embedded data set `toy`: textured shapes over clutter, under uneven light, drawn from a seed.

The shape decides the class. Texture and colour are only hints: two classes share each texture, and most textures also
occur on the background; a class's bright colour is the mean of a random colour and a colour of the class.

Arrays hold integers only, so that floating point cannot differ between machines: the pixels are a function of
(seed, index). Lengths are in 1/16 px, angles in degrees.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from stpp.params.models import Toy
from stpp.store.files import atomic_folder
from stpp.store.manifest import Rgb
from stpp.store.masks import Mask, encode_mask

Grid = NDArray[np.int32]
Inside = NDArray[np.bool_]
Shape = Callable[[Grid, Grid, int], Inside]
"""(u, v, r) -> True for the points (u, v) inside the shape of radius r around the origin."""
Texture = Callable[[Grid, Grid, int], Grid]
"""(u, v, p) -> 0 or 1: which of two colours the point (u, v) has. p: half the period of the pattern."""

UNIT = 16
"""Units of length in a pixel."""
COS = tuple(round(1024 * math.cos(math.radians(degree))) for degree in range(360))
"""1024 times the cosine, by degree."""

# -- shapes -----------------------------------------------------------------------------------------------------------


def disk(u: Grid, v: Grid, r: int) -> Inside:
    return u * u + v * v <= r * r


def triangle(u: Grid, v: Grid, r: int) -> Inside:
    return (3 * v <= 2 * r) & (7 * abs(u) <= 4 * v + 5 * r)


def box(u: Grid, v: Grid, r: int) -> Inside:
    return (8 * abs(u) <= 7 * r) & (8 * abs(v) <= 5 * r)


def cross(u: Grid, v: Grid, r: int) -> Inside:
    return (10 * np.minimum(abs(u), abs(v)) <= 3 * r) & (np.maximum(abs(u), abs(v)) <= r)


def ring(u: Grid, v: Grid, r: int) -> Inside:
    return disk(u, v, r) & ~disk(u, v, r // 2)


def ground(u: Grid, v: Grid, r: int) -> Inside:
    return np.ones(u.shape, dtype=np.bool_)


def line(u: Grid, v: Grid, r: int) -> Inside:
    return 16 * abs(v) <= r


def bar(u: Grid, v: Grid, r: int) -> Inside:
    return (abs(u) <= 2 * r) & (5 * abs(v) <= r)


def blob(u: Grid, v: Grid, r: int) -> Inside:
    return disk(u + r // 3, v, r // 2) | disk(u - r // 2, v, r // 3) | disk(u - r // 8, v - r // 2, r // 3)


# -- textures ---------------------------------------------------------------------------------------------------------


def plain(u: Grid, v: Grid, p: int) -> Grid:
    return np.zeros_like(u)


def stripes(u: Grid, v: Grid, p: int) -> Grid:
    return u // p & 1


def checks(u: Grid, v: Grid, p: int) -> Grid:
    return (u // p + v // p) & 1


def dots(u: Grid, v: Grid, p: int) -> Grid:
    return disk(u % (2 * p) - p, v % (2 * p) - p, 2 * p // 3).astype(np.int32)


def zigzag(u: Grid, v: Grid, p: int) -> Grid:
    return stripes(u + abs(v % (4 * p) - 2 * p), v, p)


def grid(u: Grid, v: Grid, p: int) -> Grid:
    return ((u % (2 * p) < p // 2) | (v % (2 * p) < p // 2)).astype(np.int32)


# -- classes ----------------------------------------------------------------------------------------------------------

OBJECTS: dict[str, Shape] = {"disk": disk, "triangle": triangle, "box": box, "cross": cross, "ring": ring}
WEAR: dict[str, tuple[Texture, ...]] = {
    "disk": (dots, dots, dots, checks),
    "triangle": (stripes, stripes, stripes, dots),
    "box": (checks, checks, checks, zigzag),
    "cross": (zigzag, zigzag, zigzag, grid),
    "ring": (grid, grid, grid, stripes),
}
LEAN: dict[str, tuple[int, int, int]] = {
    "disk": (255, 160, 110),
    "triangle": (130, 180, 255),
    "box": (120, 255, 160),
    "cross": (255, 240, 110),
    "ring": (240, 130, 230),
}
"""Class -> red, green and blue: the bright colour of an object is the mean of this and a random colour."""
CLUTTER: tuple[Shape, ...] = (line, bar, blob)
TEXTURES: tuple[Texture, ...] = (plain, stripes, checks, dots, zigzag)

CLASSES = ("background", *OBJECTS)
PALETTE = ((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167))
"""Colours that colour-blind people can tell apart (Okabe and Ito)."""

# -- scenes -----------------------------------------------------------------------------------------------------------


def draw(out: Path, toy: Toy) -> None:
    """Write the data set atomically: out/images/toy_00000.png (RGB), out/masks/toy_00000.png (class ids) and so on."""
    with atomic_folder(out) as partial:
        images, masks = partial / "images", partial / "masks"
        images.mkdir()
        masks.mkdir()
        for index in range(toy.images):
            image, mask = scene(toy, index)
            Image.fromarray(image).save(images / f"toy_{index:05d}.png", compress_level=1)
            (masks / f"toy_{index:05d}.png").write_bytes(encode_mask(mask, PALETTE))


def scene(toy: Toy, index: int) -> tuple[NDArray[np.uint8], Mask]:
    """Draw one scene: return its image (size, size, 3) and its mask (size, size), both uint8.

    The mask holds positions in CLASSES. The result depends only on seed, size and index.
    """
    rng = np.random.default_rng([toy.seed, index])
    image = np.zeros((toy.size, toy.size, 3), dtype=np.int32)
    mask = np.zeros((toy.size, toy.size), dtype=np.uint8)
    _lay(rng, image, ground, TEXTURES, 180)
    image[:] = (image + 3 * image[0, 0]) >> 2  # a faint texture on the ground, so that objects stand out
    for _ in range(rng.integers(1, 4)):
        _lay(rng, image, CLUTTER[rng.integers(len(CLUTTER))], (plain,), 180)
    for _ in range(rng.integers(2, 5)):
        name = CLASSES[rng.integers(1, len(CLASSES))]
        mask[_lay(rng, image, OBJECTS[name], WEAR[name], 25, LEAN[name])] = CLASSES.index(name)
    for _ in range(rng.integers(0, 2)):
        mask[_lay(rng, image, CLUTTER[rng.integers(len(CLUTTER))], (plain,), 180)] = 0
    return _photograph(rng, image), mask


def _lay(
    rng: Generator, image: Grid, shape: Shape, textures: tuple[Texture, ...], tilt: int, lean: Rgb | None = None
) -> Inside:
    """Draw one object over image (size, size, 3) in place; return True for its pixels (size, size).

    Its place, radius, rotation, stretch, period, texture and two colours come from `rng`. tilt: the largest rotation in
    degrees to either side. lean: a colour with which the bright colour is averaged.
    """
    size = len(image)
    r, p = (UNIT * size * int(rng.integers(*span)) // 96 for span in ((18, 31), (3, 6)))
    x, y = (np.arange(size, dtype=np.int32) - size * int(rng.integers(10, 91)) // 100 for _ in "xy")
    turn = int(rng.integers(-tilt, tilt + 1))
    cos, sin = COS[turn % 360], COS[(turn - 90) % 360]
    u = (x * cos + y[:, None] * sin) * UNIT >> 10
    v = (y[:, None] * cos - x * sin) * int(rng.integers(UNIT, UNIT + 7)) >> 10  # narrower than long, down to 16/22
    dark, bright = rng.integers(10, 110, size=3), rng.integers(130, 256, size=3)
    if lean:
        bright = (bright + lean) >> 1
    inside = shape(u, v, r)
    texture = textures[rng.integers(len(textures))](u[inside], v[inside], p)
    image[inside] = np.stack((bright, dark))[texture]
    return inside


def _photograph(rng: Generator, image: Grid) -> NDArray[np.uint8]:
    """Imitate light, lens and sensor: a brightness gradient, edges blurred by one pixel, and noise.

    image: (H, W, 3), 0 to 255. Returns uint8 of the same shape.
    """
    size = len(image)
    x = np.arange(size, dtype=np.int32)
    slope_x, slope_y = (int(s) for s in rng.integers(-120, 121, size=2))
    light = int(rng.integers(170, 260)) + ((x - size // 2) * slope_x + (x - size // 2)[:, None] * slope_y) // size
    lit = np.pad(image * light[:, :, None] >> 8, ((1, 1), (1, 1), (0, 0)), mode="edge")
    soft = (4 * lit[1:-1, 1:-1] + lit[:-2, 1:-1] + lit[2:, 1:-1] + lit[1:-1, :-2] + lit[1:-1, 2:]) >> 3
    grain = int(rng.integers(2, 15))
    noise = rng.integers(-grain, grain + 1, size=(2, *image.shape), dtype=np.int32).sum(axis=0, dtype=np.int32)
    photo: NDArray[np.uint8] = np.clip(soft + noise, 0, 255).astype(np.uint8)
    return photo
