"""Statistics that tell whether models differ beyond chance: over seeds, and over the images they were measured on."""

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from stpp.store.files import StppError, atomic_write, open_regular

LEVEL = 0.95
"""Confidence level of all intervals."""
RESAMPLES = 2000
"""Number of resamples in a bootstrap."""

Counts = NDArray[np.int64]
"""Pixel counts (n, 3, C) of n images and C classes: true and predicted (intersection), true, predicted."""

FOREGROUND = 1
"""The class that is the foreground if there are two classes."""
BINS = 15
"""Number of bins of equal width that pixels are put into by their confidence."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 if the whole interval lies above 0, -1 if it lies below 0, otherwise 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def in_points(interval: Interval) -> str:
    """Return a difference of mIoU in percentage points as text: `+2.1 (-0.4 to +4.6)`."""
    return f"{interval.mean:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})"


def paired_t(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return the mean of second - first over seeds, with its interval by the paired Student's t.

    first, second: one value per seed, in the same order of seeds. There must be at least two seeds.
    """
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    n, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / n**0.5
    reach = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * error
    return Interval(mean, mean - reach, mean + reach)


def iou(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Return the IoU (%) of every class from summed Counts: (..., 3, C) -> (..., C). NaN for an empty union."""
    right, true, predicted = np.moveaxis(counts.astype(np.float64), -2, 0)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = 100 * right / (true + predicted - right)
    return found


def miou(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Return the mean IoU (%) over the classes whose union is not empty, from summed Counts: (..., 3, C) -> (...)."""
    return over_classes(iou(counts))


def over_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the classes without those of NaN, (..., C) -> (...). NaN if there is no other class."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(known, values, 0).sum(-1) / known.sum(-1)
    return mean


def dice(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Return the Dice score (%) of every class from summed Counts: (..., 3, C) -> (..., C).

    It is twice the intersection by the sum of true and predicted pixels; NaN if there are none.
    """
    right, true, predicted = np.moveaxis(counts.astype(np.float64), -2, 0)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = 200 * right / (true + predicted)
    return found


def precision(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Return how many of a class's predicted pixels are true (%), (..., 3, C) -> (..., C). NaN if there are none."""
    right, _, predicted = np.moveaxis(counts.astype(np.float64), -2, 0)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = 100 * right / predicted
    return found


def recall(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Return how many of a class's true pixels are predicted (%), (..., 3, C) -> (..., C). NaN if there are none."""
    right, true, _ = np.moveaxis(counts.astype(np.float64), -2, 0)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = 100 * right / true
    return found


def pixel_accuracy(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Return how many of the valid pixels are right (%), (..., 3, C) -> (...). NaN if no pixel is valid."""
    right, true, _ = np.moveaxis(counts.astype(np.float64), -2, 0)
    with np.errstate(invalid="ignore"):
        accuracy: NDArray[np.float64] = 100 * right.sum(-1) / true.sum(-1)
    return accuracy


def worst_first(counts: Counts) -> list[int]:
    """Return the rows of the images by their mIoU, the lowest first; those without a valid pixel last."""
    order: list[int] = miou(counts).argsort(kind="stable").tolist()
    return order


def constant_class(matrix: NDArray[np.int64]) -> int | None:
    """Return the class that is predicted for every pixel although the true masks show several; None if there is none.

    matrix: pixels by (target, predicted) class.
    """
    predicted, true = matrix.sum(0).nonzero()[0], matrix.sum(1).nonzero()[0]
    return int(predicted[0]) if len(predicted) == 1 < len(true) else None


def calibration(levels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return by bin of confidence the pixels, the right ones, and the sum of their confidence, (BINS, 3).

    levels: wrong and right pixels by confidence in equal steps from 0 to 1, (steps + 1, 2). Bins are open below.
    """
    steps = len(levels) - 1
    at = np.arange(steps + 1)
    pixels = levels.sum(1)
    bins = np.zeros((BINS, 3), dtype=np.int64)
    np.add.at(bins, np.maximum(0, -(-at * BINS // steps) - 1), np.stack([pixels, levels[:, 1], at * pixels], axis=1))
    return bins / (1, 1, steps)


def reliability(bins: NDArray[np.float64]) -> list[tuple[float, float, int, float, float]]:
    """Return a row for each bin of `calibration`: its bounds, its pixels, their accuracy and their mean confidence.

    All but the pixels are in percent. Accuracy and confidence are NaN in a bin without pixels.
    """
    with np.errstate(invalid="ignore"):
        means = (100 * bins[:, 1:] / bins[:, :1]).tolist()
    return [(100 * at / BINS, 100 * (at + 1) / BINS, int(bins[at, 0]), *means[at]) for at in range(BINS)]


def calibration_error(bins: NDArray[np.float64]) -> float:
    """Return the expected calibration error (%) of `calibration`; NaN without pixels.

    It is the mean over pixels of the distance between accuracy and mean confidence of their bin.
    """
    pixels, right, confidence = bins.sum(0)[0], bins[:, 1], bins[:, 2]
    return float(100 * np.abs(right - confidence).sum() / pixels) if pixels else math.nan


def bootstrap_gain(first: Counts, second: Counts) -> Interval:
    """Return how far the second model's mIoU is above the first model's, with its interval by a bootstrap over images.

    Both models were measured on the same n images. Each resample draws n images with replacement, the same images for
    both models.
    """
    n = len(second)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)

    def values(counts: Counts) -> NDArray[np.float64]:
        """Return the mIoU over all images, then over each resample."""
        sums = np.concatenate([np.ones((1, n)), drawn]) @ counts.reshape(n, -1).astype(np.float64)
        return miou(sums.reshape(-1, *counts.shape[1:]))

    found, *again = values(second) - values(first)
    low, high = np.quantile(again, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(found), float(low), float(high))


def gains(counts: Mapping[str, Counts]) -> dict[str, Interval]:
    """Return by model how far its mIoU is above SupOnly's on the images of one set.

    counts: by model, all of the same images. The result leaves out SupOnly, and is empty if SupOnly is missing.
    """
    base = counts.get("suponly")
    return (
        {} if base is None else {name: bootstrap_gain(base, one) for name, one in counts.items() if name != "suponly"}
    )


def write_counts(path: Path, lists: Mapping[str, Sequence[str]], counts: Mapping[tuple[str, str], Counts]) -> None:
    """Write images.npz: for every set its ids and the counts of its images.

    lists: ids by set; the file has them under `SET/`. counts: by set and model; the file has them under `SET/MODEL`.
    """
    arrays: dict[str, Any] = {f"{subset}/": np.array(ids, dtype=np.str_) for subset, ids in lists.items()}
    arrays |= {f"{subset}/{model}": of_images for (subset, model), of_images in counts.items()}
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_counts(path: Path, subset: str) -> dict[str, Counts]:
    """Return the counts of a set's images by model, as `read_images` does."""
    return read_images(path, subset)[1]


def read_images(path: Path, subset: str) -> tuple[list[str], dict[str, Counts]]:
    """Return the ids of a set's images, and their counts by model, from images.npz; empty if the set is not in it.

    Raises StppError if the file is not what `stpp evaluate` writes.
    """
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            if f"{subset}/" not in arrays.files:
                return [], {}
            found = {name.partition("/")[2]: arrays[name] for name in arrays.files if name.startswith(f"{subset}/")}
            ids = [str(i) for i in found.pop("")]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StppError(f"{path}: not what `stpp evaluate` writes ({error}); run that stage again") from None
    for model, counts in found.items():
        if counts.dtype != np.int64 or counts.ndim != 3 or counts.shape[:2] != (len(ids), 3):
            raise StppError(f"{path}: {subset}/{model} is not what `stpp evaluate` writes; run that stage again")
    return ids, found


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation of pairs, in [-1, 1].

    NaN if there are fewer than 3 pairs, if one side is constant, or if a value is NaN.
    """
    if len(a) < 3 or np.isnan([*a, *b]).any() or len(set(a)) == 1 or len(set(b)) == 1:
        return math.nan
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the rank of every value; equal values share their mean rank. (Importing `scipy.stats` takes seconds.)"""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[place]
