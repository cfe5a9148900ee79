"""Stability of an image's pseudo masks over the teacher's checkpoints (paper, 3.4)."""

from collections.abc import Sequence

from torch import Tensor

from stpp.engine.metrics import confusion, miou


def stability(masks: Sequence[Tensor], classes: int) -> float:
    """s_i / (K - 1), s_i = sum over j < K of meanIOU(M_ij, M_iK) (paper, Eq. in 3.4); in [0, 1], 1 for equal masks.

    masks: M_i1 .. M_iK, class ids (H, W) of one image from checkpoints in the order of training; M_iK is the reference.
    The mean is over the classes whose union is not empty in the two masks compared. The paper sums; dividing by K - 1,
    as the authors' code does, leaves the order as it is.
    """
    *earlier, M_iK = masks
    if not earlier:
        raise ValueError("stability compares at least two checkpoints")
    s_i = sum(miou(confusion(M_ij, M_iK, classes)) for M_ij in earlier)
    return s_i / len(earlier)
