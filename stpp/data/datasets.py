"""Map-style data sets: D_l for training, D_u with pseudo masks for training, and plain images for prediction."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from stpp import files
from stpp.data.images import read_image, read_mask, to_classes
from stpp.data.transforms import normalize, reseed, strong, weak
from stpp.files import StppError
from stpp.masks import Mask, MaskSet
from stpp.params import Augment
from stpp.seeds import seed_of

Draw = tuple[int, int]
"""(epoch, position in the over-sampled list): what a training sampler yields."""


class Photos:
    """Images and masks of the data set by id; holds paths only."""

    def __init__(self, dataset: files.Dataset, root: Path) -> None:
        self.dataset = dataset
        self.root = root

    def image(self, name: str) -> NDArray[np.uint8]:
        """RGB (H, W, 3)."""
        return read_image(self.root / self.dataset.records[name].image)[0]

    def mask(self, name: str) -> Mask:
        """Class ids (H, W), 255 ignored. Raises StppError if a value has no meaning."""
        path = self.root / self.dataset.records[name].mask
        try:
            return to_classes(read_mask(path), self.dataset.values)
        except KeyError as value:
            raise StppError(f"{path}: value {value} is no class; run `dvc repro` again, the data has changed") from None


class Labeled:
    """(x, y) of D_l or, with their pseudo masks in place of y, of D_u."""

    def __init__(self, photos: Photos, ids: list[str], masks: MaskSet | None = None) -> None:
        self.photos = photos
        self.ids = ids
        self.masks = masks

    def read(self, index: int) -> tuple[NDArray[np.uint8], Mask]:
        name = self.ids[index]
        mask = self.masks.read(name) if self.masks else self.photos.mask(name)
        return self.photos.image(name), mask


class Training(TorchDataset[tuple[Tensor, Tensor]]):
    """The over-sampled union of D_l (A_w) and pseudo-labelled D_u (A_s after A_w), indexed by (epoch, position).

    A sample's augmentation depends on the training seed, the model's role, the epoch and the position alone:
    copies of a labelled image differ, and workers, their number and restarts change nothing.
    """

    def __init__(
        self, labeled: Labeled, copies: int, pseudo: list[Labeled], augment: Augment, seed: int, role: str
    ) -> None:
        self.sources = [(labeled, i) for _ in range(copies) for i in range(len(labeled.ids))]
        self.sources += [(part, i) for part in pseudo for i in range(len(part.ids))]
        self.labeled = copies * len(labeled.ids)
        self.weak = weak(augment.weak)
        self.strong = strong(augment.strong)
        self.seed = (seed, role)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Normalised image float32 (3, crop, crop) and mask int64 (crop, crop)."""
        epoch, position = draw
        source, index = self.sources[position]
        image, mask = source.read(index)
        views = [("weak", self.weak)] if position < self.labeled else [("weak", self.weak), ("strong", self.strong)]
        for name, view in views:
            reseed(view, seed_of(*self.seed, epoch, position, name))
            out = view(image=image, mask=mask)
            image, mask = out["image"], out["mask"]
        return torch.from_numpy(normalize(image)), torch.from_numpy(mask.astype(np.int64))


class Plain(TorchDataset[tuple[str, Tensor]]):
    """Images at their original resolution for prediction: (id, normalised float32 (3, H, W))."""

    def __init__(self, photos: Photos, ids: list[str]) -> None:
        self.photos = photos
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        name = self.ids[index]
        return name, torch.from_numpy(normalize(self.photos.image(name)))
