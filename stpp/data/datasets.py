"""Map-style data sets: D_l for training, D_u with pseudo masks for training, and plain images for prediction."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable
from io import BufferedReader
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from stpp.data.images import decode_image, decode_mask, open_image, to_classes
from stpp.data.normalization import IMAGENET, Normalization
from stpp.data.pixel_cache import PixelCache
from stpp.data.seeds import seed_of
from stpp.data.transforms import normalize, reseed, strong, weak
from stpp.params.models import Augment
from stpp.store import manifest
from stpp.store.files import StppError
from stpp.store.masks import IGNORE, Mask, MaskSet
from stpp.store.packed import Strings

Draw = tuple[int, int]
"""(epoch, position in the over-sampled list): what a training sampler yields."""


class Photos:
    """Images and masks of the data set by id; holds paths only. `cache` keeps them for the next time."""

    def __init__(self, dataset: manifest.Dataset, root: Path, cache: PixelCache | None = None) -> None:
        self.dataset = dataset
        self.root = root
        self.cache = cache
        self.meaning = "-" + hashlib.sha256(repr(sorted(dataset.values.items())).encode()).hexdigest()[:8]

    def image(self, name: str) -> NDArray[np.uint8]:
        """RGB (H, W, 3), not to be written to."""
        record = self.dataset.records[name]
        return self._read(record.image, record.image_sha256, lambda file, path: decode_image(file, path)[0])

    def mask(self, name: str) -> Mask:
        """Class ids (H, W), 255 ignored; not to be written to. Raises StppError if a value has no meaning."""
        record = self.dataset.records[name]
        return self._read(record.mask, record.mask_sha256, self._classes, self.meaning)

    def _classes(self, file: BufferedReader, path: Path) -> Mask:
        try:
            return to_classes(decode_mask(file, path), self.dataset.values)
        except KeyError as value:
            raise StppError(f"{path}: value {value} is no class; run `dvc repro` again, the data has changed") from None

    def _read(self, name: str, digest: str, decode: Callable[[BufferedReader, Path], Mask], kind: str = "") -> Mask:
        path = self.root / name
        if self.cache is not None:
            return self.cache.read(path, digest, lambda file: decode(file, path), kind)
        with open_image(path) as file:
            return decode(file, path)


class Labeled:
    """(x, y) of D_l or, with their pseudo masks in place of y, of D_u."""

    def __init__(self, photos: Photos, ids: Iterable[str], masks: MaskSet | None = None) -> None:
        self.photos = photos
        self.ids = Strings(ids)
        self.masks = masks

    def read(self, index: int) -> tuple[NDArray[np.uint8], Mask]:
        name = self.ids[index]
        mask = self.masks.read(name) if self.masks else self.photos.mask(name)
        return self.photos.image(name), mask


class Training(TorchDataset[tuple[Tensor, Tensor]]):
    """The over-sampled union of D_l (A_w) and pseudo-labelled D_u (A_s after A_w), indexed by (epoch, position).

    `augment.strong_labeled`, an ablation, puts an A_s after A_w on D_l as well.

    A sample's augmentation depends on the training seed, the model's role, the epoch and the position alone:
    copies of a labelled image differ, and workers, their number and restarts change nothing.
    """

    images = 1
    """Images of a sample, by which a batch of `train.batch_size` images is counted."""

    def __init__(
        self,
        labeled: Labeled,
        copies: int,
        pseudo: list[Labeled],
        augment: Augment,
        seed: int,
        role: str,
        normalization: Normalization = IMAGENET,
    ) -> None:
        self.parts = [labeled] * copies + pseudo
        self.ends = [*accumulate(len(part.ids) for part in self.parts)]
        self.labeled = copies * len(labeled.ids)
        self.made_of = f"{len(labeled.ids)} labelled x {copies}, {len(self) - self.labeled} pseudo-labelled"
        weakly = ("weak", weak(augment.weak))
        self.of_pseudo = [weakly, ("strong", strong(augment.strong))]
        self.of_labeled = [weakly]
        if augment.strong_labeled is not None:
            self.of_labeled.append(("strong", strong(augment.strong_labeled)))
        self.seed = (seed, role)
        self.normalization = normalization

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def source(self, position: int) -> tuple[Labeled, int]:
        """The part, and the place in it, of a position in the over-sampled list: D_l `copies` times, then D_u."""
        which = bisect_right(self.ends, position)
        return self.parts[which], position - (self.ends[which - 1] if which else 0)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Normalised image float32 (3, crop, crop) and mask int64 (crop, crop)."""
        epoch, position = draw
        source, index = self.source(position)
        image, mask = source.read(index)
        for name, view in self.of_labeled if position < self.labeled else self.of_pseudo:
            reseed(view, seed_of(*self.seed, epoch, position, name))
            out = view(image=image, mask=mask)
            image, mask = out["image"], out["mask"]
        return torch.from_numpy(normalize(image, self.normalization)), torch.from_numpy(mask.astype(np.int64))


class WeakStrong(TorchDataset[tuple[Tensor, Tensor]]):
    """Pairs for online labelling (paper, Appendix C): a labelled image, and two views of an unlabelled one.

    Every unlabelled image comes once an epoch; its partner from D_l is drawn by (epoch, position).
    """

    images = 2

    def __init__(
        self,
        labeled: Labeled,
        unlabeled: Iterable[str],
        augment: Augment,
        seed: int,
        role: str,
        normalization: Normalization = IMAGENET,
    ) -> None:
        self.labeled = labeled
        self.unlabeled = Strings(unlabeled)
        self.made_of = f"{len(self.unlabeled)} unlabelled, each with one of {len(labeled.ids)} labelled"
        self.weak = weak(augment.weak)
        self.strong = strong(augment.strong)
        self.seed = (seed, role)
        self.normalization = normalization

    def __len__(self) -> int:
        return len(self.unlabeled)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """x float32 (3, 3, crop, crop): A_w(x_i), A_w(u_i), A_s(A_w(u_i)), normalised.

        y int64 (2, crop, crop): y_i, and 255 where the strong view shows nothing of u_i (padding, CutOut), 0 elsewhere.
        """
        epoch, position = draw
        seed = (*self.seed, epoch, position)
        image, mask = self.labeled.read(seed_of(*seed, "labeled") % len(self.labeled.ids))
        reseed(self.weak, seed_of(*seed, "weak labeled"))
        x = self.weak(image=image, mask=mask)
        photo = self.labeled.photos.image(self.unlabeled[position])
        reseed(self.weak, seed_of(*seed, "weak"))
        u = self.weak(image=photo, mask=np.zeros(photo.shape[:2], dtype=np.uint8))
        reseed(self.strong, seed_of(*seed, "strong"))
        v = self.strong(image=u["image"], mask=u["mask"])
        images = np.stack([normalize(view["image"], self.normalization) for view in (x, u, v)])
        masks = np.stack([x["mask"], v["mask"]]).astype(np.int64)
        return torch.from_numpy(images), torch.from_numpy(masks)


class Plain(TorchDataset[tuple[Any, ...]]):
    """Images at their original resolution for prediction: (id, RGB uint8 (H, W, 3))."""

    def __init__(self, photos: Photos, ids: Iterable[str]) -> None:
        self.photos = photos
        self.ids = Strings(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        name = self.ids[index]
        return name, _tensor(self.photos.image(name))


class WithTruth(Plain):
    """As `Plain`, and the true mask, uint8 (H, W); 255 everywhere where there is none."""

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        name, image = super().__getitem__(index)
        known = self.photos.dataset.records[name].mask
        truth = _tensor(self.photos.mask(name)) if known else torch.full(image.shape[:2], IGNORE, dtype=torch.uint8)
        return name, image, truth


def _tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.require(pixels, requirements=["W", "C"]))
