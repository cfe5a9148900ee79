"""Suspected errors in the masks of D_l: `stpp suggest --errors MODEL`."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stpp.data.reader import ImageReader
from stpp.deploy.predictor import Predictor
from stpp.engine import device as devices
from stpp.params.models import Runtime
from stpp.report.labels import one_line
from stpp.report.panels import Cell, panel
from stpp.run.progress import progress
from stpp.selftrain.label_errors import label_quality, of_mask, suspected
from stpp.store.files import StppError, atomic_folder, write_csv, write_ids
from stpp.store.masks import IGNORE, Mask

LIST, TABLE, SHEET = "errors.txt", "errors.csv", "errors.png"
SHOWN = 50
"""The most images on the sheet."""
LEAST = 32
"""Least margin around the largest region of an image, in pixels."""


def suggest_errors(photos: ImageReader, labeled: list[str], model: Path, n: int, out: Path, runtime: Runtime) -> None:
    """Write the masks that a model is most confidently against: a list, a table with classes and pixels, and a sheet.

    Every image is predicted once to rank it, and the first ones once more for their pixels. Raises StppError if the
    model has other classes than the data set.
    """
    dataset, predictor = photos.dataset, Predictor(model, devices.setup_device(runtime))
    if predictor.about.classes != dataset.classes:
        theirs = ", ".join(predictor.about.classes)
        raise StppError(f"{model}: has other classes ({theirs}) than the data set {dataset.name}; name a model of it")

    def probabilities(name: str) -> NDArray[np.float64]:
        try:
            return predictor.probabilities(photos.image(name)).numpy().astype(np.float64)
        except StppError as error:
            raise StppError(f"{name}: {error}") from None

    size = len(dataset.classes)
    sums, pixels, quality = np.zeros(size), np.zeros(size), dict[str, float]()
    for name in progress(labeled, "suspected label errors", len(labeled)):
        p, given = of_mask(probabilities(name), photos.mask(name))
        sums += np.bincount(given, p, size)
        pixels += np.bincount(given, minlength=size)
        if len(p):
            quality[name] = label_quality(p)
    with np.errstate(invalid="ignore"):
        thresholds = sums / pixels
    found: dict[str, Mask] = {}
    for name in sorted(quality, key=lambda i: (quality[i], i)):
        against = suspected(probabilities(name), photos.mask(name), thresholds)
        if len(found) < n and (against != IGNORE).any():
            found[name] = against
        if len(found) == n:
            break
    with atomic_folder(out) as partial:
        write_ids(partial / LIST, found)
        rows = [row for name, against in found.items() for row in _rows(photos, name, quality[name], against)]
        write_csv(partial / TABLE, ("id", "image", "quality", "in_mask", "by_model", "pixels"), rows)
        _draw(photos, found, quality, partial / SHEET)
    if unlabelled := len(labeled) - len(quality):
        print(f"{unlabelled} images are left out: all of their pixels are ignored")
    print(f"{out}: {len(found)} of {len(labeled)} masks; {out / SHEET} shows their largest suspected regions")


def _rows(photos: ImageReader, name: str, quality: float, against: Mask) -> list[tuple[str, str, str, str, str, int]]:
    """Return the rows of the table for an image: pixels by class in the mask and class of the model, most first."""
    classes, there = photos.dataset.classes, against != IGNORE
    pairs = np.stack([photos.mask(name)[there], against[there]], axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    image = photos.dataset.records[name].image
    return [
        (name, image, f"{quality:.4f}", classes[kinds[k][0]], classes[kinds[k][1]], int(counts[k]))
        for k in (-counts).argsort(kind="stable")
    ]


def _draw(photos: ImageReader, found: dict[str, Mask], quality: dict[str, float], path: Path) -> None:
    """Draw the first images with the largest suspected region of each, in the image, in the mask and by the model."""
    rows: list[tuple[str, list[Cell]]] = []
    for name in list(found)[:SHOWN]:
        image, mask, against = photos.picture(name), photos.mask(name), found[name]
        region = _largest(against != IGNORE)
        model = np.where(against == IGNORE, mask, against)
        rows.append((f"{name} ({quality[name]:.2f})", [image, image[region], mask[region], model[region]]))
    shown = f"the first {len(rows)} of {len(found)} masks" if len(rows) < len(found) else f"{len(rows)} masks"
    heading = f"{one_line(photos.dataset.name)}: {shown} that may have errors, by label quality (in brackets)"
    titles = ["image", "largest region", "mask", "the model, where it is confident"]
    panel(
        rows, titles, photos.dataset.palette, photos.dataset.classes, path, heading, truth=2, marked="against the mask"
    )


def _largest(there: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the rows and columns around the largest connected region of pixels (H, W), with a margin of its size."""
    regions, _ = ndimage.label(there)
    largest = int(np.bincount(regions.ravel())[1:].argmax()) + 1
    place = ndimage.find_objects(regions)[largest - 1]
    margin = max(LEAST, *(side.stop - side.start for side in place))
    rows, columns = (slice(max(0, side.start - margin), side.stop + margin) for side in place)
    return rows, columns
