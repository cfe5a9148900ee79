"""FixMatch with an averaged teacher, as in UniMatch V2 (Yang et al., 2025); not in the paper."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stpp.engine.fit import State, broadcast_buffers
from stpp.engine.losses import Loss, cross_entropy, mean_over
from stpp.engine.optim import MovingAverage
from stpp.params.models import Online
from stpp.store.masks import IGNORE


class FixMatch:
    """The training step of FixMatch, whose loss is L = (L_s + lambda L_u) / 2.

    The teacher is the moving average of the network, in evaluation mode. Its confident classes of the weak view are the
    labels of the strong view of the same image. Labelled images and strong views go through the network in one batch.
    L_u is a sum over the pixels of confidence >= threshold, divided by the number of all pixels that the strong view
    shows. loss: gives L_s.
    """

    def __init__(self, params: Online, loss: Loss = cross_entropy) -> None:
        self.params, self.loss = params, loss
        self.teacher: MovingAverage | None = None  # it starts as a copy of the network, which the first batch shows
        self.saved: State | None = None

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
        """Return the loss of a batch of `stpp.data.datasets.OnlineDataset`; x, y and whole as in `online`."""
        labeled, weak, strong = x.unbind(1)
        y_i, shown = y.unbind(1)
        whole_y_i, whole_shown = whole.unbind(1)
        with torch.no_grad():
            of_weak = self._teacher(network).eval()(weak.contiguous(memory_format=torch.channels_last)).float()
        confidence, label = of_weak.softmax(1).max(1)
        label[(shown == IGNORE) | (confidence < self.params.threshold)] = IGNORE

        both = torch.cat([labeled, strong]).contiguous(memory_format=torch.channels_last)
        logits, of_strong = network(both).float().chunk(2)
        L_s = self.loss(logits, y_i, whole_y_i)
        L_u = mean_over(F.cross_entropy(of_strong, label, ignore_index=IGNORE, reduction="sum"), whole_shown != IGNORE)
        return (L_s + self.params.weight * L_u) / 2

    def _teacher(self, network: nn.Module) -> nn.Module:
        if self.teacher is None:
            own = network.module if isinstance(network, DistributedDataParallel) else network
            self.teacher = MovingAverage(own, self.params.decay)
            if self.saved:
                self.teacher.load_state_dict(self.saved)
        return self.teacher.network

    def after(self, network: nn.Module) -> None:
        assert self.teacher is not None
        broadcast_buffers(network)  # the labels, and so the weights, depend on running statistics, unlike elsewhere
        self.teacher.update(network)

    def state_dict(self) -> State:
        return self.teacher.state_dict() if self.teacher else self.saved or {}

    def load_state_dict(self, state: State) -> None:
        self.saved, self.teacher = state, None
