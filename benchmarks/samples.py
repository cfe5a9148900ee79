"""Measures training samples per second on one core: `python benchmarks/samples.py`.

Half of the samples are labelled (A_w), half are pseudo-labelled (A_s after A_w), as in ST. The reference and this
project use the same images and random draws, and run in turn. CPU time is measured, because other processes hardly
affect it. The images are generated: noise with the spectrum of photographs, in files as large as those of Pascal VOC
and Cityscapes.
"""

import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import reference
import torch
from measure import Row, row, seconds
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torchvision.transforms import functional as TF

from stpp.data.datasets import ImageMaskPairs, SelfTrainingDataset
from stpp.data.pixel_cache import PixelCache
from stpp.data.reader import ImageReader
from stpp.data.seeds import seed_of
from stpp.data.transforms import normalize, reseed, strong, weak
from stpp.params.models import Augment, Strong, Weak
from stpp.store.files import sha256
from stpp.store.manifest import Dataset, Record
from stpp.store.masks import MaskSet, ShardWriter

Pixels = NDArray[np.uint8]
Sample = tuple[torch.Tensor, torch.Tensor]
Way = Callable[[int, int], Sample]
"""(epoch, position) -> sample."""
SEED, ROLE = 0, "student"


@dataclass(frozen=True)
class Kind:
    """A kind of data set: its files, the published parameters for it, and the targets."""

    name: str
    width: int
    height: int
    suffix: str
    smooth: float
    """Exponent with which the amplitude falls with the frequency."""
    classes: int
    weak: Weak
    images: int
    rounds: int
    """Rounds of timing."""
    target: float
    target_decoded: float
    """Target with decoded files cached on disk (`runtime.cache_gb`)."""


KINDS = (
    Kind("Pascal-like", 500, 375, "jpg", 1.2, 21, Weak(base=400, crop=321), 16, 30, 3.0, 3.0),
    Kind("Cityscapes-like", 2048, 1024, "png", 1.6, 19, Weak(base=2048, crop=721), 4, 15, 2.5, 8.0),
)


def run() -> list[Row]:
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        return [line for kind in KINDS for line in _measured(kind)]
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _measured(kind: Kind) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        augment = Augment(weak=kind.weak)
        files, dataset, masks = _drawn(kind, Path(folder))
        half = len(files) // 2
        ids = list(files)

        def training(photos: ImageReader) -> SelfTrainingDataset:
            return SelfTrainingDataset(
                ImageMaskPairs(photos, ids[:half]), 1, [ImageMaskPairs(photos, ids[half:], masks)], augment, SEED, ROLE
            )

        def plainly(epoch: int, position: int) -> Sample:
            draw = random.Random(seed_of(SEED, ROLE, epoch, position, "weak"))
            draw.random()  # albumentations first draws whether to apply the transform
            return reference.sample(*files[ids[position]], augment, position >= half, draw)

        photos = ImageReader(dataset, Path(folder))
        direct = training(photos)
        decoded = training(ImageReader(dataset, Path(folder), PixelCache(Path(folder) / "decoded", 10**9)))
        ways: dict[str, Way] = {
            "reference": plainly,
            "direct": lambda epoch, position: direct[epoch, position],
            "decoded": lambda epoch, position: decoded[epoch, position],
        }
        _check(files, photos, augment, half, ways)
        epochs = {name: _epochs(way, len(ids)) for name, way in ways.items()}
        times = seconds(epochs, kind.rounds, time.process_time)
        reading = _reading(photos, masks, ids, half) / times["direct"]
        size = sum(file.stat().st_size for file in (Path(folder) / "decoded").rglob("*.npy")) / len(ids) / 1e6
        part, unit = f"training samples, {kind.name}", "samples/s on one core"
        note = f"{size:.1f} MB a sample on disk; the rest is resampling, A_s, and reading pseudo masks"
        return [
            row(part + how, unit, len(ids), times["reference"], times[way], target, f"{kind.name}{how}: {said}")
            for way, how, target, said in (
                ("direct", "", kind.target, f"{reading:.0%} is decoding"),
                ("decoded", ", decoded", kind.target_decoded, note),
            )
        ]


def _epochs(way: Way, positions: int) -> Callable[[], None]:
    """Return a function that reads all samples of an epoch; every call reads the next epoch."""
    epochs = itertools.count()

    def one() -> None:
        epoch = next(epochs)
        for position in range(positions):
            way(epoch, position)

    return one


# -- data -------------------------------------------------------------------------------------------------------------


def _drawn(kind: Kind, root: Path) -> tuple[dict[str, tuple[Path, Path]], Dataset, MaskSet]:
    """Write images and masks. Return files by id, the data set, and a mask set with the masks of the second half."""
    rng = np.random.default_rng(0)
    palette = tuple((int(r), int(g), int(b)) for r, g, b in rng.integers(0, 256, (kind.classes, 3)))
    files, records, pseudo = {}, {}, {}
    for i in range(kind.images):
        name = str(i)
        image, mask = root / f"{i}.{kind.suffix}", root / f"{i}-mask.png"
        Image.fromarray(_photo(kind, rng)).save(image, quality=92)
        labels = _regions(kind, rng)
        image_of_mask = Image.fromarray(labels)
        if kind.suffix == "jpg":  # masks of Pascal have a palette, masks of Cityscapes have none
            image_of_mask.putpalette([c for colour in palette for c in colour] + [255] * 3 * (256 - len(palette)))
        image_of_mask.save(mask)
        files[name] = image, mask
        hashes = sha256(image), sha256(mask)
        records[name] = Record(name, image.name, mask.name, kind.width, kind.height, *hashes, ())
        if i >= kind.images // 2:
            pseudo[name] = labels
    folder = root / "pseudo"
    with ShardWriter(folder / "s.zip", folder / "manifest.csv", palette) as writer:
        for name, labels in sorted(pseudo.items()):
            writer.add(name, labels, 1.0)
    values = {c: c for c in range(kind.classes)} | {255: 255}
    names = tuple(str(c) for c in range(kind.classes))
    return files, Dataset("samples", names, palette, values, records), MaskSet(folder)


def _photo(kind: Kind, rng: np.random.Generator) -> Pixels:
    """Return noise whose amplitude falls with the frequency, as in photographs: brightness and a little colour."""
    shape = kind.height, kind.width
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = 1

    def noise(exponent: float) -> NDArray[np.float64]:
        plane: NDArray[np.float64] = np.fft.irfft2(
            np.fft.rfft2(rng.standard_normal(shape)) / frequency**exponent, shape
        )
        plane /= plane.std()
        return plane

    light = noise(kind.smooth)
    colours = [115 + 45 * light + 18 * noise(kind.smooth + 0.2) for _ in range(3)]
    return np.clip(np.stack(colours, axis=2), 0, 255).astype(np.uint8)


def _regions(kind: Kind, rng: np.random.Generator) -> Pixels:
    """Return a mask of a few large regions with thin ignored borders."""
    cells = 6 * np.array([kind.height, kind.width]) // kind.height
    coarse = rng.standard_normal((kind.classes, *cells)).astype(np.float32)
    size = kind.width, kind.height
    resized = [cv2.resize(c, size, interpolation=cv2.INTER_CUBIC) for c in coarse]
    labels: Pixels = np.argmax(resized, axis=0).astype(np.uint8)
    edges = cv2.dilate(labels, np.ones((3, 3), np.uint8)) != labels
    labels[edges] = 255
    return labels


# -- equal results, then speed ----------------------------------------------------------------------------------------


def _check(
    files: dict[str, tuple[Path, Path]],
    photos: ImageReader,
    augment: Augment,
    half: int,
    ways: dict[str, Way],
) -> None:
    """Check that all ways agree for equal draws: pixels and masks exactly, crops within 1 of 255, colours within 2."""
    for position, (image, mask) in enumerate(files.values()):
        name = str(position)
        assert np.array_equal(photos.image(name), np.asarray(Image.open(image).convert("RGB"))), "pixels"
        assert np.array_equal(photos.mask(name), np.asarray(Image.open(mask))), "mask"
        if position < half:
            for epoch in range(2):
                (x, y), (x_ref, y_ref) = ways["direct"](epoch, position), ways["reference"](epoch, position)
                assert torch.equal(y, y_ref), "mask of a crop"
                assert (x - x_ref).abs().max() < 1.01 / 255 / 0.224, "crop"
        for _ in ("made", "read"):
            pairs = zip(ways["decoded"](0, position), ways["direct"](0, position), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs), "decoded"
    crop = weak(augment.weak)(image=photos.image("0"), mask=photos.mask("0"))
    pixels, pil = crop["image"], Image.fromarray(crop["image"])
    assert np.abs(normalize(pixels) - reference.NORMALIZE(pil).numpy()).max() < 1e-5, "normalisation"
    adjustments: dict[str, Callable[[Any, float], Any]] = {
        "brightness": TF.adjust_brightness,
        "contrast": TF.adjust_contrast,
        "saturation": TF.adjust_saturation,
    }
    for part, adjust in adjustments.items():
        ranges = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": (0.0, 0.0)}
        ours = A.ColorJitter(**(ranges | {part: (1.3, 1.3)}), p=1.0)(image=pixels)["image"]
        assert np.abs(ours.astype(int) - np.asarray(adjust(pil, 1.3))).max() <= 2, part
    off: dict[str, Any] = {"jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "cutout": 0.0}
    for part, there in {
        "grayscale": TF.to_grayscale(pil, 3),
        "blur": pil.filter(ImageFilter.GaussianBlur(2.0)),
    }.items():
        view = strong(Strong(**(off | {part: 1.0}), blur_sigma=(2.0, 2.0)))
        reseed(view, 0)
        ours = view(image=pixels, mask=crop["mask"])["image"].astype(int)
        # Pillow approximates the Gaussian by box filters, so only the mean difference is small.
        difference = np.abs(ours - np.asarray(there))
        assert (difference.mean() if part == "blur" else difference.max()) <= 1, part


def _reading(photos: ImageReader, masks: MaskSet, ids: list[str], half: int) -> float:
    """Return the seconds that it takes to read all images and masks of an epoch."""

    def read() -> None:
        for position, name in enumerate(ids):
            photos.image(name)
            photos.mask(name) if position < half else masks.read(name)

    return seconds({"read": read}, 3, time.process_time)["read"]


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
