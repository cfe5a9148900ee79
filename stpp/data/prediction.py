"""The images that a network predicts: plain, without augmentation, in batches of equal image size."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from stpp.data.reader import ImageReader
from stpp.params.models import Runtime
from stpp.store.masks import IGNORE
from stpp.store.packed import PackedStrings

Batch = tuple[list[str], *tuple[Tensor, ...]]
"""Image ids, images uint8 (B, H, W, 3) and, if the data set has them, true masks uint8 (B, H, W)."""


class ImageDataset(TorchDataset[tuple[Any, ...]]):
    """The data set for prediction: (id, uint8 (H, W, channels)) for every image, at its original resolution."""

    def __init__(self, photos: ImageReader, ids: Iterable[str]) -> None:
        self.photos = photos
        self.ids = PackedStrings(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        name = self.ids[index]
        return name, _tensor(self.photos.image(name))


class ImageMaskDataset(ImageDataset):
    """As `ImageDataset`, with the true mask as third item: uint8 (H, W), 255 everywhere if the image has no mask."""

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        name, image = super().__getitem__(index)
        known = self.photos.dataset.records[name].mask
        truth = _tensor(self.photos.mask(name)) if known else torch.full(image.shape[:2], IGNORE, dtype=torch.uint8)
        return name, image, truth


def batches_of_equal_size(data: ImageDataset, batch_size: int, max_pixels: int) -> list[list[int]]:
    """Return batches of indices for prediction; a batch holds neighbours in the list that have equal size.

    So a batch never depends on anything outside its list of ids. A batch has at most `batch_size` images, and at most
    `max_pixels` pixels unless it is a single image.
    """
    records = data.photos.dataset.records
    sizes = [(records[name].width, records[name].height) for name in data.ids]
    batches: list[list[int]] = []
    for (width, height), same in groupby(range(len(sizes)), key=sizes.__getitem__):
        run, images = list(same), max(1, min(batch_size, max_pixels // (width * height)))
        batches += [run[i : i + images] for i in range(0, len(run), images)]
    return batches


def prediction_loader(
    data: ImageDataset, batches: list[list[int]], runtime: Runtime, device: torch.device
) -> Iterable[Batch]:
    loader: Iterable[Batch] = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=min(runtime.workers, len(batches)),
        collate_fn=_stack,
        pin_memory=device.type == "cuda",
    )
    return loader


def nodata_of(photos: ImageReader, names: Sequence[str], device: torch.device) -> Tensor | None:
    """Return where images of equal size have no data, (B, H, W); None if `data.nodata` is not set."""
    found = [one for name in names if (one := photos.nodata(name)) is not None]
    return torch.from_numpy(np.stack(found)).to(device) if found else None


def _stack(samples: list[tuple[Any, ...]]) -> Batch:
    ids, *tensors = zip(*samples, strict=True)
    return list(ids), *(torch.stack(several) for several in tensors)


def _tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.require(pixels, requirements=["W", "C"]))
