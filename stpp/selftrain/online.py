"""Online labelling, the one-stage alternative that the paper compares with (Appendix C, Table 5)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpp.engine.fit import Step, cross_entropy, mean_over
from stpp.params.models import Online
from stpp.store.masks import IGNORE


def online(params: Online) -> Step:
    """L = L_s + lambda L_u (paper, Eq. 1): the weak view's confident classes teach the strong view of the same image.

    Labelled and weak views go through the network together, and no gradient through the weak ones. L_u is a sum over
    the pixels of confidence >= threshold, divided by all that are shown, so that it grows as the model gets sure.
    """

    def step(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """x (B, 3, 3, H, W): A_w(x_i), A_w(u_i), A_s(A_w(u_i)); y int64 (B, 2, H, W): y_i, and 255 where not shown."""
        labeled, weak, strong = x.unbind(1)
        y_i, shown = y.unbind(1)
        both = torch.cat([labeled, weak]).contiguous(memory_format=torch.channels_last)
        logits, of_weak = network(both).float().chunk(2)
        L_s = cross_entropy(logits, y_i)

        confidence, label = F.softmax(of_weak.detach(), dim=1).max(1)
        visible = shown != IGNORE
        label[~visible | (confidence < params.threshold)] = IGNORE
        of_strong = network(strong.contiguous(memory_format=torch.channels_last)).float()
        L_u = mean_over(F.cross_entropy(of_strong, label, ignore_index=IGNORE, reduction="sum"), visible)
        return L_s + params.weight * L_u

    return step
