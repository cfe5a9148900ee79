"""FixMatch with an averaged teacher, as in UniMatch V2 (Yang et al., 2025); not in the paper."""

import torch
from torch import Tensor, nn

from stpp.data.datasets import OnlineDataset
from stpp.engine.fit import State, broadcast_buffers, own
from stpp.engine.losses import Loss, cross_entropy
from stpp.engine.optim import MovingAverage
from stpp.params.models import Online
from stpp.selftrain.online.labelling import channels_last, confident, consistency


class FixMatch:
    """The training step of FixMatch, whose loss is L = (L_s + lambda L_u) / 2.

    The teacher is the moving average of the network, in evaluation mode. Its confident classes of the weak view are the
    labels of the strong view of the same image (`consistency`). Labelled images and strong views go through the network
    in one batch. loss: gives L_s.
    """

    samples: type[OnlineDataset] = OnlineDataset
    eager = False

    def __init__(self, params: Online, loss: Loss = cross_entropy) -> None:
        self.params, self.loss = params, loss
        self.teacher: MovingAverage | None = None  # it starts as a copy of the network, which the first batch shows
        self.saved: State | None = None

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor, whole: Tensor) -> Tensor:
        """Return the loss of a batch; x, y and whole as in `OnlineLabelling`."""
        labeled, weak, strong = x.unbind(1)
        y_i, shown = y.unbind(1)
        whole_y_i, whole_shown = whole.unbind(1)
        label = self.labels(network, weak)
        logits, of_strong = network(channels_last(labeled, strong)).float().chunk(2)
        L_s = self.loss(logits, y_i, whole_y_i)
        L_u = consistency(of_strong, label, shown, whole_shown)
        return (L_s + self.params.weight * L_u) / 2

    def labels(self, network: nn.Module, weak: Tensor) -> Tensor:
        """Return the teacher's confident classes of the weak views, int64 (B, H, W), 255 elsewhere."""
        with torch.no_grad():
            return confident(self._teacher(network).eval()(channels_last(weak)).float(), self.params.threshold)

    def _teacher(self, network: nn.Module) -> nn.Module:
        if self.teacher is None:
            self.teacher = MovingAverage(own(network), self.params.decay)
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
