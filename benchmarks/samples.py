"""Training samples a second on one core: `python benchmarks/samples.py [--seconds N]`.

Half of the samples are labelled (A_w), half pseudo-labelled (A_s after A_w), as in ST. Draws and images are the same
for the reference and for this project, which take turns; time is that of the processor, so that little of what else
runs on the machine is in it. The images are made here: noise of the spectrum of photographs, in files as large as
those of Pascal VOC and Cityscapes.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torchvision.transforms import functional as TF

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import reference
from stpp.data.datasets import Labeled, Photos, Training
from stpp.data.decoded import Decoded
from stpp.data.transforms import normalize, reseed, strong, weak
from stpp.files import sha256, write_csv
from stpp.manifest import Dataset, Record
from stpp.masks import COLUMNS, MaskSet, encode_mask, mask_sha256, write_shard
from stpp.params import Augment, Strong, Weak
from stpp.seeds import seed_of

Pixels = NDArray[np.uint8]
SEED, ROLE = 0, "student"


@dataclass(frozen=True)
class Kind:
    """A kind of data set: files, and the published parameters for it."""

    name: str
    width: int
    height: int
    suffix: str
    smooth: float
    """Exponent of the spectrum's fall."""
    classes: int
    weak: Weak
    images: int
    target: float
    target_decoded: float
    """With decoded files kept on disk."""


KINDS = (
    Kind("Pascal-like", 500, 375, "jpg", 1.2, 21, Weak(base=400, crop=321), 16, 3.0, 3.0),
    Kind("Cityscapes-like", 2048, 1024, "png", 1.6, 19, Weak(base=2048, crop=721), 4, 2.5, 8.0),
)


def run(seconds: float = 30.0) -> list[dict[str, Any]]:
    """Rows of part, unit, reference, ours, ratio, target, note; about `seconds` are spent on measuring."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        return [row for kind in KINDS for row in _measured(kind, seconds / len(KINDS))]
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _measured(kind: Kind, seconds: float) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        augment = Augment(weak=kind.weak)
        files, dataset, masks = _drawn(kind, Path(folder))
        half = len(files) // 2
        ids = list(files)

        def training(photos: Photos) -> Training:
            return Training(Labeled(photos, ids[:half]), 1, [Labeled(photos, ids[half:], masks)], augment, SEED, ROLE)

        def plainly(epoch: int, position: int) -> tuple[torch.Tensor, torch.Tensor]:
            draw = random.Random(seed_of(SEED, ROLE, epoch, position, "weak"))
            draw.random()  # albumentations asks first whether to do anything
            return reference.sample(*map(str, files[ids[position]]), augment, position >= half, draw)

        photos = Photos(dataset, Path(folder))
        ways: dict[str, Callable[[int, int], Any]] = {"reference": plainly}
        direct = training(photos)
        ways["direct"] = lambda epoch, position: direct[epoch, position]
        decoded = training(Photos(dataset, Path(folder), Decoded(Path(folder) / "decoded", 10**9)))
        ways["decoded"] = lambda epoch, position: decoded[epoch, position]
        _check(kind, files, photos, augment, half, ways)
        rates = _rates(ways, len(ids), seconds)
        reading = _reading(photos, masks, ids, half)
        size = sum(file.stat().st_size for file in (Path(folder) / "decoded").rglob("*.npy")) / len(ids) / 1e6
        note = f"{size:.1f} MB a sample on disk; resampling, A_s, pseudo masks from zip"
        return [
            _row(kind.name, rates, "direct", kind.target, f"{reading * rates['direct']:.0%} is decoding"),
            _row(f"{kind.name}, decoded", rates, "decoded", kind.target_decoded, note),
        ]


def _row(part: str, rates: dict[str, float], way: str, target: float, note: str) -> dict[str, Any]:
    return {
        "part": f"training samples, {part}",
        "unit": "samples/s on one core",
        "reference": round(rates["reference"], 1),
        "ours": round(rates[way], 1),
        "ratio": round(rates[way] / rates["reference"], 2),
        "target": target,
        "note": note,
    }


# -- data -------------------------------------------------------------------------------------------------------------


def _drawn(kind: Kind, root: Path) -> tuple[dict[str, tuple[Path, Path]], Dataset, MaskSet]:
    """Image and mask files by id, their manifest, and the masks of the second half as a mask set as well."""
    rng = np.random.default_rng(0)
    palette = tuple((int(r), int(g), int(b)) for r, g, b in rng.integers(0, 256, (kind.classes, 3)))
    files, records, pseudo = {}, {}, {}
    for i in range(kind.images):
        name = str(i)
        image, mask = root / f"{i}.{kind.suffix}", root / f"{i}-mask.png"
        Image.fromarray(_photo(kind, rng)).save(image, quality=92)
        labels = _regions(kind, rng)
        image_of_mask = Image.fromarray(labels)
        if kind.suffix == "jpg":  # Pascal's masks have a palette, those of Cityscapes have none
            image_of_mask.putpalette([c for colour in palette for c in colour] + [255] * 3 * (256 - len(palette)))
        image_of_mask.save(mask)
        files[name] = image, mask
        hashes = sha256(image), sha256(mask)
        records[name] = Record(name, image.name, mask.name, kind.width, kind.height, *hashes, ())
        if i >= kind.images // 2:
            pseudo[name] = labels
    folder = root / "pseudo"
    write_shard(folder / "s.zip", {name: encode_mask(mask, palette) for name, mask in pseudo.items()})
    write_csv(folder / "manifest.csv", COLUMNS, [(n, "s.zip", mask_sha256(m), "", "") for n, m in pseudo.items()])
    values = {c: c for c in range(kind.classes)} | {255: 255}
    names = tuple(str(c) for c in range(kind.classes))
    return files, Dataset("samples", names, palette, values, records), MaskSet(folder)


def _photo(kind: Kind, rng: np.random.Generator) -> Pixels:
    """Noise whose amplitude falls with the frequency, as that of photographs does: light, and a little colour."""
    shape = kind.height, kind.width
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = 1

    def noise(exponent: float) -> NDArray[np.float64]:
        plane: NDArray[np.float64] = np.fft.irfft2(
            np.fft.rfft2(rng.standard_normal(shape)) / frequency**exponent, shape
        )
        return plane / plane.std()

    light = noise(kind.smooth)
    colours = [115 + 45 * light + 18 * noise(kind.smooth + 0.2) for _ in range(3)]
    return np.clip(np.stack(colours, axis=2), 0, 255).astype(np.uint8)


def _regions(kind: Kind, rng: np.random.Generator) -> Pixels:
    """A mask of a few large regions, with a thin border that is ignored."""
    cells = 6 * np.array([kind.height, kind.width]) // kind.height
    coarse = rng.standard_normal((kind.classes, *cells)).astype(np.float32)
    size = kind.width, kind.height
    labels = np.argmax([cv2.resize(c, size, interpolation=cv2.INTER_CUBIC) for c in coarse], axis=0).astype(np.uint8)
    edges = cv2.dilate(labels, np.ones((3, 3), np.uint8)) != labels
    labels[edges] = 255
    return labels


# -- the same, then how fast ------------------------------------------------------------------------------------------


def _check(
    kind: Kind,
    files: dict[str, tuple[Path, Path]],
    photos: Photos,
    augment: Augment,
    half: int,
    ways: dict[str, Callable[[int, int], Any]],
) -> None:
    """Both ways give the same for equal draws: pixels and masks equally, crops within 1 of 255, colours within 2."""
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
    for part, adjust in {
        "brightness": TF.adjust_brightness,
        "contrast": TF.adjust_contrast,
        "saturation": TF.adjust_saturation,
    }.items():
        ranges = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": (0.0, 0.0)}
        ours = A.ColorJitter(**(ranges | {part: (1.3, 1.3)}), p=1.0)(image=pixels)["image"]
        assert np.abs(ours.astype(int) - np.asarray(adjust(pil, 1.3))).max() <= 2, part
    off = {"jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "cutout": 0.0}
    for part, there in {
        "grayscale": TF.to_grayscale(pil, 3),
        "blur": pil.filter(ImageFilter.GaussianBlur(2.0)),
    }.items():
        view = strong(Strong(**(off | {part: 1.0}), blur_sigma=(2.0, 2.0)))
        reseed(view, 0)
        ours = view(image=pixels, mask=crop["mask"])["image"].astype(int)
        # Pillow's Gaussian is a stack of boxes: near in the mean, not everywhere.
        difference = np.abs(ours - np.asarray(there))
        assert (difference.mean() if part == "blur" else difference.max()) <= 1, part


def _rates(ways: dict[str, Callable[[int, int], Any]], positions: int, seconds: float) -> dict[str, float]:
    """Samples a second of each way: the median over epochs, in which they take turns."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    until = time.monotonic() + seconds
    epoch = 0
    while time.monotonic() < until or epoch < 3:
        for name, way in ways.items():
            start = time.process_time()
            for position in range(positions):
                way(epoch, position)
            rates[name].append(positions / (time.process_time() - start))
        epoch += 1
    return {name: median(found) for name, found in rates.items()}


def _reading(photos: Photos, masks: MaskSet, ids: list[str], half: int) -> float:
    """Seconds that it takes to read what one sample is made of, in the mean."""
    times = []
    for _ in range(3):
        start = time.process_time()
        for position, name in enumerate(ids):
            photos.image(name)
            photos.mask(name) if position < half else masks.read(name)
        times.append((time.process_time() - start) / len(ids))
    return median(times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Training samples a second on one core, against a plain reference.")
    parser.add_argument("--seconds", type=float, default=30.0, help="spent on measuring")
    rows = run(parser.parse_args().seconds)
    print(f"{'part':46}{'reference':>10}{'ours':>10}{'ratio':>8}{'target':>8}  samples/s on one core")
    for row in rows:
        print(f"{row['part']:46}{row['reference']:10}{row['ours']:10}{row['ratio']:8}{row['target']:8}  {row['note']}")
