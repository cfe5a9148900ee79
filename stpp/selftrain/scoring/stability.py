"""Stability of an image's pseudo masks over the teacher's checkpoints (paper, 3.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stpp.engine.metrics import confusions, iou
from stpp.store.masks import IGNORE


def stabilities(masks: Tensor, classes: int, nodata: Tensor | None = None) -> Tensor:
    """Return the stability s_i / (K - 1) of every image of a batch, float64 (B,) in [0, 1]; 1 for equal masks.

    s_i = sum over j < K of meanIOU(M_ij, M_iK) (paper, Eq. in 3.4). masks: M_i1 .. M_iK, class ids (K, B, H, W) from
    checkpoints in the order of training; M_iK is the reference. The mean IoU is over the classes whose union is not
    empty in the two masks compared. The paper only sums; dividing by K - 1, as the authors' code does, does not change
    the order of the images. nodata: pixels (B, H, W) without data in the image, which do not count; an image without
    any other pixel has stability 0. Raises ValueError for fewer than two checkpoints.
    """
    *earlier, M_iK = masks
    if not earlier:
        raise ValueError("stability compares at least two checkpoints")
    if nodata is not None:
        M_iK = M_iK.masked_fill(nodata, IGNORE)
    s_i = sum(iou(confusions(M_ij, M_iK, classes)).nanmean(-1) for M_ij in earlier)
    assert isinstance(s_i, Tensor)
    return (s_i / len(earlier)).nan_to_num(0)


def stability(masks: Sequence[Tensor], classes: int) -> float:
    """Return the stability of one image (see `stabilities`). masks: M_i1 .. M_iK, each (H, W)."""
    return float(stabilities(torch.stack([*masks]).unsqueeze(1), classes)[0])
