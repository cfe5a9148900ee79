"""UniMatch (Yang et al., CVPR 2023) and UniMatch V2 (Yang et al., TPAMI 2025); not in the paper.

The classes of the weak view of an unlabelled image are the labels of two strong views, which CutMix mixes with those of
another image, and of features with dropped channels. The defaults of parameters are those of the authors' code.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpp.data.datasets import CutMixDataset
from stpp.engine.fit import own
from stpp.engine.losses import Loss, cross_entropy
from stpp.params.models import Online
from stpp.selftrain.online.fixmatch import FixMatch
from stpp.selftrain.online.labelling import channels_last, confident, consistency

Features = Sequence[Tensor]
"""The feature maps of a batch, each (B, C, h, w), in which B, C, h and w may differ."""


class UniMatch:
    """The training step of UniMatch, whose loss is L = (L_x + lambda L_u) / 2.

    L_u = (L_fp + (L_s1 + L_s2) / 2) / 2, where L_s1 and L_s2 are the losses of the two strong views, and L_fp is that
    of the weak view's features, half of whose channels are dropped; each as in `consistency`. The network itself labels
    the weak view. Labelled images and weak views go through the network in one batch, strong views in another. loss:
    gives L_x.
    """

    samples, eager = CutMixDataset, True

    def __init__(self, params: Online, loss: Loss = cross_entropy) -> None:
        self.params, self.loss = params, loss

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
        """Return the loss of a batch of `stpp.data.datasets.CutMixDataset`. whole: y of the whole batch."""
        with perturbed(network, add_dropped):
            logits = network(channels_last(x[:, 0], x[:, 1])).float()
        of_labeled, of_weak, of_dropped = logits.chunk(3)
        L_x = self.loss(of_labeled, y[:, 0], whole[:, 0])
        label = confident(of_weak, self.params.threshold)
        L_fp = consistency(of_dropped, label, y[:, 1], whole[:, 1])
        L_s = strong_loss(network(channels_last(*strong_views(x, y))).float(), label, y, whole)
        return (L_x + self.params.weight * (L_fp + L_s) / 2) / 2


class UniMatchV2(FixMatch):
    """The training step of UniMatch V2, whose loss is L = (L_x + lambda (L_s1 + L_s2) / 2) / 2.

    The teacher of FixMatch labels the weak view. The two strong views go through the network with the labelled images.
    Each sees the channels that the other does not (`complement`). There is no L_fp. loss: gives L_x.
    """

    samples, eager = CutMixDataset, True

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
        """Return the loss of a batch, which is that of `UniMatch`."""
        label = self.labels(network, x[:, 1])
        with perturbed(network, complement):
            logits = network(channels_last(x[:, 0], *strong_views(x, y))).float()
        of_labeled, of_strong = logits.split([len(x), 2 * len(x)])
        L_x = self.loss(of_labeled, y[:, 0], whole[:, 0])
        return (L_x + self.params.weight * strong_loss(of_strong, label, y, whole)) / 2


def cutmix(values: Tensor, y: Tensor) -> Tensor:
    """Return what the two strong views hold after CutMix: inside a box, the values of the partner.

    The partner is the image at the same place in the reversed batch, as in V2. values (B, 1 or 2, H, W) or (B, 2, C, H,
    W). y: its last two masks are 1 inside the boxes of the two views.
    """
    boxes = y[:, -2:] == 1
    return torch.where(boxes if values.ndim == 4 else boxes[:, :, None], values.flip(0), values)


def strong_views(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Return the two strong views of all unlabelled images after CutMix, each (B, C, H, W)."""
    return cutmix(x[:, 2:], y).unbind(1)


def strong_loss(logits: Tensor, label: Tensor, y: Tensor, whole: Tensor) -> Tensor:
    """Return (L_s1 + L_s2) / 2, the mean loss of the two strong views.

    CutMix mixes their labels and what they show, too. logits (2B, classes, H, W): of the first views, then of the
    second. label (B, H, W): of the weak views.
    """
    labels, shown = cutmix(label[:, None], y), _shown(y)
    parts = whole.chunk(len(whole) // len(y))  # CutMix takes partners from the same part of the batch
    whole_shown = torch.cat([_shown(part) for part in parts])
    first, second = (
        consistency(of_view, labels[:, k], shown[:, k], whole_shown[:, k]) for k, of_view in enumerate(logits.chunk(2))
    )
    return (first + second) / 2


def _shown(y: Tensor) -> Tensor:
    """Return masks (B, 2, H, W) that are 255 where a strong view shows nothing after CutMix."""
    return cutmix(y[:, 2:4], y)


@contextmanager
def perturbed(network: nn.Module, perturb: Callable[[Features], Features]) -> Iterator[None]:
    """Let a network's head decode perturb(features) in place of the features of its backbone, in this context."""
    backbone = own(network).get_submodule("backbone")
    hook = backbone.register_forward_hook(lambda module, images, features: perturb(features))
    try:
        yield
    finally:
        hook.remove()


def add_dropped(features: Features) -> Features:
    """Add a copy of the weak views' features, with channels dropped, to those of labelled images and weak views.

    Every channel of an image is 0 with probability 1/2, else doubled (CVPR 2023, 3.2). Each feature map (2B, C, h, w)
    becomes (3B, C, h, w).
    """
    return [torch.cat([level, F.dropout2d(level.chunk(2)[1], 0.5)]) for level in features]


def complement(features: Features) -> Features:
    """Multiply the channels of the two strong views by d and 2 - d: the complementary dropout of V2.

    d is 0 or 2 with probability 1/2 each, by image and channel. It is the same on all feature maps of equal width. Half
    of the images, rounded down, keep all channels (d = 1). Feature maps (3B, C, h, w): of the labelled images, which
    stay as they are, and of the first and the second strong views.
    """
    images = len(features[0]) // 3
    kept = torch.randperm(images)[: images // 2]
    factors = dict[int, Tensor]()
    for width in dict.fromkeys(level.shape[1] for level in features):
        d = 2.0 * torch.randint(2, (images, width))
        d[kept] = 1
        factors[width] = torch.cat([torch.ones_like(d), d, 2 - d])[:, :, None, None]
    return [level * factors[level.shape[1]].to(level) for level in features]
