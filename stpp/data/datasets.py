"""Map-style PyTorch data sets for training on D_l, and on D_u with pseudo masks or with online labelling.

As in the paper, D_l is the set of labelled images and D_u the set of unlabelled images. A_w is the weak augmentation
and A_s the strong one.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from stpp.data.normalization import IMAGENET, Normalization
from stpp.data.reader import ImageReader
from stpp.data.seeds import seed_of
from stpp.data.transforms import cutmix_box, normalize, reseed, strong, weak
from stpp.params.models import Augment, Strong
from stpp.store.masks import IGNORE, Levels, Mask, MaskSet
from stpp.store.packed import PackedStrings

Draw = tuple[int, int]
"""The index of one training sample, as a sampler yields it: (epoch, position in the over-sampled list)."""
View = dict[str, Any]
"""An augmented "image", uint8 (crop, crop, channels), with its "mask", uint8 (crop, crop)."""


class ImageMaskPairs:
    """Pairs of image x and mask y: of D_l or, if `masks` holds pseudo masks, of D_u with these as y."""

    def __init__(self, photos: ImageReader, ids: Iterable[str], masks: MaskSet | None = None) -> None:
        self.photos = photos
        self.ids = PackedStrings(ids)
        self.masks = masks

    @property
    def soft(self) -> bool:
        """Whether y is a soft mask."""
        return self.masks is not None and self.masks.soft

    def read(self, index: int) -> tuple[NDArray[np.uint8], Mask | Levels]:
        """Return the image, uint8 (H, W, channels), and the mask: class ids uint8 (H, W), or levels if it is soft."""
        name = self.ids[index]
        if self.masks is None:
            return self.photos.image(name), self.photos.mask(name)
        return self.photos.image(name), self.masks.read_levels(name) if self.soft else self.masks.read(name)


class SelfTrainingDataset(TorchDataset[tuple[Tensor, Tensor]]):
    """The training set: D_l, over-sampled, and pseudo-labelled D_u, indexed by (epoch, position).

    D_l comes first, repeated `copies` times and augmented by A_w. Then comes D_u, augmented by A_w and after it A_s.
    `augment.strong_labeled`, an ablation, applies an A_s after A_w to D_l as well.

    A sample's augmentation depends only on the training seed, the model's role, the epoch and the position. So the
    copies of a labelled image differ, and loader workers, their number and restarts do not change any sample.
    """

    images = 1
    """Images in one sample. `train.batch_size` counts images, so a batch has batch_size / images samples."""

    def __init__(
        self,
        labeled: ImageMaskPairs,
        copies: int,
        pseudo: list[ImageMaskPairs],
        augment: Augment,
        seed: int,
        role: str,
        normalization: Normalization = IMAGENET,
    ) -> None:
        self.parts = [labeled] * copies + pseudo
        self.ends = [*accumulate(len(part.ids) for part in self.parts)]
        self.labeled = copies * len(labeled.ids)
        self.soft = len(labeled.photos.dataset.classes) if any(part.soft for part in pseudo) else 0
        """The number of classes if there are soft masks, else 0."""
        self.made_of = f"{len(labeled.ids)} labelled x {copies}, {len(self) - self.labeled} pseudo-labelled"
        self.made_of += " (soft)" if self.soft else ""
        weakly = ("weak", weak(augment.weak))
        self.of_pseudo = [weakly, ("strong", strong(augment.strong, len(normalization.mean)))]
        self.of_labeled = [weakly]
        if augment.strong_labeled is not None:
            self.of_labeled.append(("strong", strong(augment.strong_labeled, len(normalization.mean))))
        self.seed = (seed, role)
        self.normalization = normalization

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def source(self, position: int) -> tuple[ImageMaskPairs, int]:
        """Return the part that holds a position of the over-sampled list, and the index within that part.

        The list is D_l, `copies` times, and then D_u.
        """
        which = bisect_right(self.ends, position)
        return self.parts[which], position - (self.ends[which - 1] if which else 0)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the normalised image, float32 (3, crop, crop), and the mask, int64 (crop, crop).

        If there are soft masks, every mask is of levels, uint8 (classes, crop, crop); see `as_levels`.
        """
        epoch, position = draw
        source, index = self.source(position)
        image, mask = source.read(index)
        for name, view in self.of_labeled if position < self.labeled else self.of_pseudo:
            reseed(view, seed_of(*self.seed, epoch, position, name))
            out = view(image=image, mask=mask)
            image, mask = out["image"], out["mask"]
        y = as_levels(mask, self.soft) if self.soft else mask.astype(np.int64)
        return torch.from_numpy(normalize(image, self.normalization)), torch.from_numpy(y)


def as_levels(mask: Mask | Levels, classes: int) -> NDArray[np.uint8]:
    """Return an augmented mask as levels of all classes, uint8 (classes, H, W), which are all 0 at ignored pixels.

    A mask of class ids has the level 255 at its class.
    """
    if mask.ndim == 2:
        return np.where(mask == np.arange(classes)[:, None, None], np.uint8(255), np.uint8(0))
    levels = np.where((mask == IGNORE).all(2, keepdims=True), np.uint8(0), mask)
    return np.ascontiguousarray(levels.transpose(2, 0, 1))


class OnlineDataset(TorchDataset[tuple[Tensor, Tensor]]):
    """The training set for online labelling (paper, Appendix C): a labelled image and two views of an unlabelled one.

    Every unlabelled image occurs once per epoch. Its partner from D_l is drawn with a seed that depends on the epoch
    and the position.
    """

    images = 2

    def __init__(
        self,
        labeled: ImageMaskPairs,
        unlabeled: Iterable[str],
        augment: Augment,
        seed: int,
        role: str,
        normalization: Normalization = IMAGENET,
    ) -> None:
        self.labeled = labeled
        self.unlabeled = PackedStrings(unlabeled)
        self.made_of = f"{len(self.unlabeled)} unlabelled, each with one of {len(labeled.ids)} labelled"
        self.weak = weak(augment.weak)
        self.strong = strong(self._strong_parts(augment.strong), len(normalization.mean))
        self.seed = (seed, role)
        self.normalization = normalization

    def _strong_parts(self, params: Strong) -> Strong:
        """Return the parts of A_s that the strong views get."""
        return params

    def __len__(self) -> int:
        return len(self.unlabeled)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return three images x, float32 (3, 3, crop, crop), and two masks y, int64 (2, crop, crop).

        x: the normalised images A_w(x_i), A_w(u_i) and A_s(A_w(u_i)).
        y: the mask y_i after A_w, and a mask that is 255 where the strong view shows nothing of u_i (padding, CutOut)
        and 0 elsewhere.
        """
        x, u = self._weak_views(draw)
        v = self._strong_view(u, draw, "strong")
        return self._tensors([x, u, v], [x["mask"], v["mask"]])

    def _weak_views(self, draw: Draw) -> tuple[View, View]:
        """Return A_w(x_i) with the mask y_i, and A_w(u_i) with a mask of 0, and 255 where it shows nothing of u_i."""
        seed = (*self.seed, *draw)
        image, mask = self.labeled.read(seed_of(*seed, "labeled") % len(self.labeled.ids))
        reseed(self.weak, seed_of(*seed, "weak labeled"))
        x = self.weak(image=image, mask=mask)
        name = self.unlabeled[draw[1]]
        photo = self.labeled.photos.image(name)
        reseed(self.weak, seed_of(*seed, "weak"))
        u = self.weak(image=photo, mask=self.labeled.photos.without_nodata(name, np.zeros(photo.shape[:2], np.uint8)))
        return x, u

    def _strong_view(self, u: View, draw: Draw, name: str) -> View:
        reseed(self.strong, seed_of(*self.seed, *draw, name))
        view: View = self.strong(image=u["image"], mask=u["mask"])
        return view

    def _tensors(self, views: list[View], masks: list[Mask]) -> tuple[Tensor, Tensor]:
        images = np.stack([normalize(view["image"], self.normalization) for view in views])
        return torch.from_numpy(images), torch.from_numpy(np.stack(masks).astype(np.int64))


class CutMixDataset(OnlineDataset):
    """The training set of UniMatch: a labelled image, and a weak and two strong views of an unlabelled one.

    Each strong view has a box, which CutMix fills from another image of the batch. It takes the place of CutOut, with
    the same probability, area and aspect.
    """

    def _strong_parts(self, params: Strong) -> Strong:
        self.boxes = params
        return params.model_copy(update={"cutout": 0.0})

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return four images x, float32 (4, 3, crop, crop), and six masks y, int64 (6, crop, crop).

        x: the normalised images A_w(x_i), A_w(u_i) and the two strong views of u_i, before CutMix.
        y: the mask y_i after A_w; for each of the three views of u_i, a mask that is 255 where it shows nothing of u_i
        and 0 elsewhere; for each strong view, a mask that is 1 in its box and 0 elsewhere.
        """
        x, u = self._weak_views(draw)
        strong_views = [self._strong_view(u, draw, name) for name in ("strong", "strong 2")]
        seeds = [seed_of(*self.seed, *draw, name) for name in ("box", "box 2")]
        boxes = [cutmix_box(self.boxes, u["mask"].shape, seed) for seed in seeds]
        views = [x, u, *strong_views]
        return self._tensors(views, [*(view["mask"] for view in views), *boxes])
