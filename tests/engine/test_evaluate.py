"""Predictions image by image, and one confusion matrix over all of them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from stpp.data.datasets import Photos, Plain
from stpp.data.loaders import prediction_loader
from stpp.engine.evaluate import Scores, evaluate, predictions
from stpp.params import Model, Runtime

CPU = torch.device("cpu")
SIZES = [(16, 20), (16, 20), (16, 20), (24, 17), (16, 20), (24, 17), (24, 17)]
MODEL = Model()


class Network(nn.Module):
    """A convolution behind dropout: eval mode matters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.dropout(x))
        return out


@pytest.fixture(scope="module")
def photos(make_photos: Callable[..., Photos]) -> Photos:
    return make_photos(SIZES, classes=3)


def loader(photos: Photos, ids: list[str], batch_size: int = 2) -> object:
    return prediction_loader(Plain(photos, ids), batch_size, Runtime(workers=0))


def by_hand(network: Network, photos: Photos, name: str) -> Tensor:
    """One image alone, read and normalised here: probabilities (classes, H, W)."""
    pixels = np.asarray(Image.open(photos.root / photos.dataset.records[name].image), dtype=np.float64) / 255
    x = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        return network.classifier(torch.from_numpy(x.transpose(2, 0, 1)[None]).float())[0].softmax(0)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_predictions_name_every_image_once_in_the_given_order(photos: Photos, batch_size: int) -> None:
    ids = sorted(photos.dataset.records)
    got = [name for name, _ in predictions(Network(), loader(photos, ids, batch_size), MODEL, CPU)]
    assert got == ids
    back = [name for name, _ in predictions(Network(), loader(photos, ids[::-1], batch_size), MODEL, CPU)]
    assert back == ids[::-1]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_prediction_is_that_of_the_image_alone_without_dropout(photos: Photos, batch_size: int) -> None:
    network = Network().train()
    ids = list(photos.dataset.records)
    for name, probabilities in predictions(network, loader(photos, ids, batch_size), MODEL, CPU):
        assert probabilities.dtype == torch.float32
        torch.testing.assert_close(probabilities, by_hand(network, photos, name), rtol=1e-4, atol=1e-5)


def test_predictions_in_bfloat16_are_probabilities_in_float32_near_those_in_float32(photos: Photos) -> None:
    network, ids = Network(), list(photos.dataset.records)
    stream = predictions(network, loader(photos, ids), Model(precision="bfloat16"), CPU)
    for name, probabilities in stream:
        assert probabilities.dtype == torch.float32
        expected = by_hand(network, photos, name)
        assert 1e-4 < float((probabilities - expected).abs().max()) < 0.03


def test_networks_read_in_turn_leave_torch_as_it_was(photos: Photos) -> None:
    """Scoring zips the predictions of K checkpoints; neither inference mode nor autocast reaches its caller."""
    ids = list(photos.dataset.records)
    model = Model(precision="bfloat16")
    streams = [predictions(Network(), loader(photos, ids), model, CPU) for _ in range(3)]
    for _ in zip(*streams, strict=True):
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
    del streams
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert torch.ones(1, requires_grad=True).mul(2).requires_grad


@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation_fills_one_matrix_as_a_loop_over_all_valid_pixels_does(photos: Photos, batch_size: int) -> None:
    network, ids = Network(), list(photos.dataset.records)[1:]
    expected = np.zeros((3, 3), dtype=int)
    for name in ids:
        predicted = by_hand(network, photos, name).argmax(0).numpy()
        truth = np.asarray(Image.open(photos.root / photos.dataset.records[name].mask))
        for place in np.ndindex(truth.shape):
            if truth[place] != 255:
                expected[truth[place], predicted[place]] += 1
    scores = evaluate(network, loader(photos, ids, batch_size), photos, MODEL, CPU)
    assert scores.matrix.tolist() == expected.tolist()


def test_scores_are_read_off_the_matrix_and_an_absent_class_is_no_number() -> None:
    scores = Scores(torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    assert scores.iou[:2] == pytest.approx([3 / 6, 4 / 7])
    assert math.isnan(scores.iou[2])
    assert scores.miou == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert scores.pixel_accuracy == pytest.approx(7 / 10)
