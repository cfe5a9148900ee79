"""Online labelling, the one-stage alternative to which the paper compares its method (Appendix C, Table 5)."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpp.data.datasets import OnlineDataset
from stpp.engine.losses import Loss, cross_entropy, mean_over
from stpp.params.models import Online
from stpp.store.masks import IGNORE


class Method(Protocol):
    """The interface of a class in `methods.METHODS`; its objects are training steps (see `stpp.engine.fit.Step`)."""

    samples: type[OnlineDataset]
    """The data set whose batches the step takes."""
    eager: bool = False
    """Whether the network is never compiled: compiled code does not see hooks on its modules."""

    def __init__(self, params: Online, loss: Loss = cross_entropy) -> None: ...

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor: ...


class OnlineLabelling:
    """The training step of online labelling, whose loss is L = L_s + lambda L_u (paper, Eq. 1).

    The confident classes of the weak view are the labels of the strong view of the same image (`consistency`). Labelled
    images and weak views go through the network in one batch; no gradient flows through the weak views. loss: gives
    L_s.
    """

    samples, eager = OnlineDataset, False

    def __init__(self, params: Online, loss: Loss = cross_entropy) -> None:
        self.params, self.loss = params, loss

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
        """Return the loss of a batch of `stpp.data.datasets.OnlineDataset`.

        x (B, 3, 3, H, W): A_w(x_i), A_w(u_i), A_s(A_w(u_i)). y int64 (B, 2, H, W): y_i, and a mask that is 255 where
        the strong view shows nothing of u_i. whole: y of the whole batch.
        """
        labeled, weak, strong = x.unbind(1)
        y_i, shown = y.unbind(1)
        whole_y_i, whole_shown = whole.unbind(1)
        logits, of_weak = network(channels_last(labeled, weak)).float().chunk(2)
        L_s = self.loss(logits, y_i, whole_y_i)
        label = confident(of_weak, self.params.threshold)
        L_u = consistency(network(channels_last(strong)).float(), label, shown, whole_shown)
        return L_s + self.params.weight * L_u


def channels_last(*images: Tensor) -> Tensor:
    """Return images (B, C, H, W) as one batch, in channels-last memory."""
    return torch.cat(images).contiguous(memory_format=torch.channels_last)


def confident(logits: Tensor, threshold: float) -> Tensor:
    """Return the most likely class of every pixel, and 255 where its probability is below the threshold.

    logits (B, classes, H, W) -> int64 (B, H, W). No gradient flows through the labels.
    """
    confidence, label = logits.detach().softmax(1).max(1)
    return label.masked_fill(confidence < threshold, IGNORE)


def consistency(logits: Tensor, label: Tensor, shown: Tensor, whole_shown: Tensor) -> Tensor:
    """Return L_u, the cross entropy of a view with labels that were predicted on another view.

    It is the sum over all pixels that have a label and are shown, divided by the number of all pixels that are shown
    in the whole batch. So it grows as the model becomes confident. logits (B, classes, H, W); label and shown (B, H,
    W), 255 where there is no label, or where the view shows nothing of the image.
    """
    label = label.masked_fill(shown == IGNORE, IGNORE)
    return mean_over(F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum"), whole_shown != IGNORE)
