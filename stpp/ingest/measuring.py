"""Measurements on the images with masks, from which `prepare` completes how images are read."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpp.data.bands import Stored, read_photo, read_stored
from stpp.params.data import Data, spans_of
from stpp.run.parallel import ordered_map
from stpp.store.files import StppError
from stpp.store.reading import Reading, Span

LOWER, UPPER = 0.02, 0.98
"""The shares of values below the two ends of the range that `data.range: percentile` measures."""
BINS = 2**16
Numbers = NDArray[Any]


def reading_of(data: Data, images: Iterable[Path], workers: int) -> tuple[Reading | None, list[str]]:
    """Return how the images of a data set are read, and notes on what was measured; None for ordinary pictures.

    images: those with masks. Images that cannot be read are left out, because the inspection reports them. workers:
    threads that read files. Raises StppError if there is nothing to measure.
    """
    if data.bands is None and data.range is None and data.nodata is None:
        return None, []
    files, notes = [*images], list[str]()
    reading = Reading(data.bands or (), (), data.nodata)
    if isinstance(data.range, str):
        ranges = _ranges(files, reading, data.range, workers)
        shown = ", ".join(f"{low:g} to {high:g}" for low, high in ranges)
        notes.append(f"data.range {data.range}, measured over {len(files)} image(s): {shown}")
        reading = replace(reading, ranges=ranges)
    elif data.range is not None:
        reading = replace(reading, ranges=spans_of(data.range))
    if reading.channels != 3:
        counts = _total(lambda file: _levels(file, reading), files, workers, "mean and deviation")
        mean, std = _moments(counts)
        shown = ", ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, std, strict=True))
        notes.append(
            f"normalised by mean and deviation of {reading.channels} bands over {len(files)} image(s): {shown}"
        )
        notes.append(
            "A_s leaves out saturation, hue and greyscale: the images have other bands than red, green and blue"
        )
        reading = replace(reading, mean=mean, std=std)
    return reading, notes


def _ranges(files: list[Path], reading: Reading, way: str, workers: int) -> tuple[Span, ...]:
    """Return the range of every band over some images: lowest and highest value, or two percentiles."""

    def ends(file: Path) -> NDArray[np.float64]:
        there = _there(file, reading)
        return np.stack([-there.min(0), there.max(0)]).astype(np.float64)

    low, high = _joined(ends, files, workers, np.maximum, "data.range") * [[-1], [1]]
    if way == "percentile":
        whole = all(float(value).is_integer() for value in (*low, *high))
        step = np.maximum((high - low) / (BINS - 1), 1 if whole else 1e-300)

        def counts(file: Path) -> Numbers:
            at = np.floor((_there(file, reading) - low) / step).astype(np.int64)
            return np.stack([np.bincount(band, minlength=BINS) for band in at.T])

        shares = _total(counts, files, workers, "data.range").cumsum(1)
        shares = shares / shares[:, -1:]
        ends_at = [[int((share >= end).argmax()) for share in shares] for end in (LOWER, UPPER)]
        low, high = low + step * ends_at[0], low + step * ends_at[1]
    if constant := [at for at, (a, b) in enumerate(zip(low, high, strict=True), 1) if not a < b]:
        raise StppError(f"data.range {way}: band {constant[0]} of those read has one value only; give its range")
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def _there(file: Path, reading: Reading) -> NDArray[np.float64]:
    """Return the values of the pixels with data, (pixels, bands). Raises StppError if there are none."""
    values: Stored = read_stored(file, reading)
    there = values.reshape(-1, values.shape[2])
    if reading.nodata is not None:
        there = there[(there != reading.nodata).any(1)]
    if not len(there):
        raise StppError(f"{file}: has no data")
    return there.astype(np.float64)


def _levels(file: Path, reading: Reading) -> Numbers:
    """Return the number of pixels of each level in each channel, (channels, 256)."""
    photo = read_photo(file, reading)
    pixels = photo.pixels.reshape(-1, reading.channels) if photo.nodata is None else photo.pixels[~photo.nodata]
    return np.stack([np.bincount(band, minlength=256) for band in pixels.T])


def _moments(counts: Numbers) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of every channel, in pixels / 255. counts: (channels, 256)."""
    levels, total = np.arange(256) / 255, counts.sum(1)
    mean = counts @ levels / total
    std = np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 1e-6))
    return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())


def _total(count: Callable[[Path], Numbers], files: list[Path], workers: int, what: str) -> Numbers:
    return _joined(count, files, workers, np.add, what)


def _joined(
    measure: Callable[[Path], Numbers], files: list[Path], workers: int, join: Callable[..., Numbers], what: str
) -> Numbers:
    """Return the measurements of all images that can be read, joined. Raises StppError if there are none."""
    problems: list[str] = []

    def one(file: Path) -> Numbers | None:
        try:
            return measure(file)
        except StppError as error:
            problems.append(str(error))
            return None

    found = (each for each in ordered_map(one, files, workers) if each is not None)
    first = next(found, None)
    if first is None:
        raise StppError(min(problems, default=f"no image has a mask, so {what} cannot be measured"))
    return reduce(join, found, first)
