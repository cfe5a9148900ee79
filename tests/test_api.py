"""Tests of stpp.api: `fit` and `predict` on own tensors, and the example in the docs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from stpp.api import Loss, Train, fit, predict

DOCS = Path(__file__).parent.parent / "docs" / "api.md"


class Tiny(nn.Module):
    """A user's own network, without a backbone of stpp."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.one(x)
        return out


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and masks. The class is the sign of the first channel. Some pixels are ignored."""
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] > 0).long()
    y[:, 0] = 255
    return x, y


def test_fit_trains_any_network_and_returns_different_checkpoints() -> None:
    torch.manual_seed(0)
    network, (x, y) = Tiny(), batch()
    kept = fit(network, [(x, y)], Train(epochs=60, batch_size=4, lr=2.0, head_lr_factor=1, checkpoints=3))
    assert len(kept) == 3
    right = [
        float((torch.stack([p.argmax(0) for p in predict(f, x)]) == y)[:, 1:].float().mean()) for f in (*kept, network)
    ]
    assert right[-1] > 0.95 and right[2] == right[3]
    weights = [next(f.parameters()).detach() for f in kept]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def test_with_ema_fit_ends_in_the_averaged_weights_and_the_loss_of_train_counts() -> None:
    weights = []
    for more in ({}, {"ema": 0.9}, {"loss": Loss(class_weights=(0.0, 1.0))}):
        torch.manual_seed(0)
        network = Tiny()
        train = Train(epochs=8, batch_size=4, lr=2.0, checkpoints=2).model_copy(update=more)
        kept = fit(network, [batch()], train)
        assert torch.equal(network.one.weight, kept[-1].one.weight)  # type: ignore[union-attr]
        weights.append(network.one.weight.detach())
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    with pytest.raises(ValueError, match="give a number for every class"):
        fit(Tiny(), [batch()], Train(loss=Loss(class_weights="frequency")))


def test_predict_returns_probabilities_for_images_of_any_size_in_order() -> None:
    network = Tiny()
    images = [torch.randn(3, 5, 9), torch.randn(3, 12, 4)]
    for how in ({}, {"scales": (0.5, 1.0), "flip": True}):
        found = list(predict(network, images, **how))  # type: ignore[arg-type]
        assert [tuple(p.shape) for p in found] == [(2, 5, 9), (2, 12, 4)]
        for p in found:
            torch.testing.assert_close(p.sum(0), torch.ones(p.shape[1:]))


def test_fit_raises_an_error_for_empty_data_and_for_divergence() -> None:
    train = Train(epochs=3, batch_size=4)
    with pytest.raises(ValueError, match="empty"):
        fit(Tiny(), [], train)
    x, y = batch()
    with pytest.raises(ValueError, match="diverged"):
        fit(Tiny(), [(x * float("nan"), y)], train)


@pytest.mark.slow
def test_the_example_of_the_docs_runs_without_mlflow_and_dvc() -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL))
    code = "import sys; sys.modules['mlflow'] = sys.modules['dvc'] = None\n" + code
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    scores = dict(re.findall(r"'([\w +]+)': '([\d.]+)'", run.stdout))
    assert scores.keys() == {"teacher", "student 1", "ST++"}
    assert all(20 < float(score) <= 100 for score in scores.values()), "better than background alone"
