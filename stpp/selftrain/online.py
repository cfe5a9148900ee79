"""Online labelling, the one-stage alternative to which the paper compares its method (Appendix C, Table 5)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpp.engine.fit import Step
from stpp.engine.losses import Loss, cross_entropy, mean_over
from stpp.params.models import Online
from stpp.store.masks import IGNORE


def online(params: Online, loss: Loss = cross_entropy) -> Step:
    """Return the training step of online labelling, whose loss is L = L_s + lambda L_u (paper, Eq. 1).

    The confident classes of the weak view are the labels of the strong view of the same image. Labelled images and weak
    views go through the network in one batch; no gradient flows through the weak views. L_u is a sum over the pixels of
    confidence >= threshold, divided by the number of all pixels that the strong view shows. So it grows as the model
    becomes confident. loss: gives L_s.
    """

    def step(network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
        """Return the loss of a batch of `stpp.data.datasets.OnlineDataset`.

        x (B, 3, 3, H, W): A_w(x_i), A_w(u_i), A_s(A_w(u_i)). y int64 (B, 2, H, W): y_i, and a mask that is 255 where
        the strong view shows nothing of u_i. whole: y of the whole batch.
        """
        labeled, weak, strong = x.unbind(1)
        y_i, shown = y.unbind(1)
        whole_y_i, whole_shown = whole.unbind(1)
        both = torch.cat([labeled, weak]).contiguous(memory_format=torch.channels_last)
        logits, of_weak = network(both).float().chunk(2)
        L_s = loss(logits, y_i, whole_y_i)

        confidence, label = F.softmax(of_weak.detach(), dim=1).max(1)
        label[(shown == IGNORE) | (confidence < params.threshold)] = IGNORE
        of_strong = network(strong.contiguous(memory_format=torch.channels_last)).float()
        L_u = mean_over(F.cross_entropy(of_strong, label, ignore_index=IGNORE, reduction="sum"), whole_shown != IGNORE)
        return L_s + params.weight * L_u

    return step
