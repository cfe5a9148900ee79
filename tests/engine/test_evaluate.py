"""Tests of predictions for each image, and of one confusion matrix over all images."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from stpp.data.normalization import IMAGENET
from stpp.data.prediction import Batch, ImageMaskDataset, batches_of_equal_size, prediction_loader
from stpp.data.reader import ImageReader
from stpp.engine.evaluate import Scores, evaluate, predict_batches
from stpp.engine.predict import mask_predictor, single_pass
from stpp.models.build import set_normalization
from stpp.params.models import Model, Runtime
from stpp.store.files import StppError

CPU = torch.device("cpu")
SIZES = [(16, 20), (16, 20), (16, 20), (24, 17), (16, 20), (24, 17), (24, 17)]
MODEL = Model()


class Network(nn.Module):
    """A convolution after dropout, so that eval mode matters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Conv2d(3, 3, 3, padding=1)
        set_normalization(self, IMAGENET)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.dropout(x))
        return out


@pytest.fixture(scope="module")
def photos(make_photos: Callable[..., ImageReader]) -> ImageReader:
    return make_photos(SIZES, classes=3)


PLAIN = mask_predictor(single_pass, 2**22)


def test_the_error_names_an_image_whose_probabilities_are_not_finite(photos: ImageReader) -> None:
    sound, odd = Network(), Network()
    odd.classifier.bias.data[0] = float("nan")
    ids = list(photos.dataset.records)
    for networks in ([odd], [odd, sound], [sound, odd]):
        with pytest.raises(StppError, match=f"^{ids[0]}: the network's probabilities are not finite"):
            list(predict_batches(networks, loader(photos, ids), MODEL, CPU, PLAIN))


def loader(photos: ImageReader, ids: list[str], batch_size: int = 2) -> Iterable[Batch]:
    data = ImageMaskDataset(photos, ids)
    return prediction_loader(data, batches_of_equal_size(data, batch_size, 2**22), Runtime(workers=0), CPU)


def each(
    networks: list[Network], photos: ImageReader, ids: list[str], batch_size: int = 2, model: Model = MODEL
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield for each image its id, masks (K, H, W) and the confidence of the last network (H, W)."""
    for batch in predict_batches(networks, loader(photos, ids, batch_size), model, CPU, PLAIN):
        yield from zip(batch.ids, batch.masks.unbind(1), batch.confidence, strict=True)


def by_hand(network: Network, photos: ImageReader, name: str) -> Tensor:
    """Return the probabilities (classes, H, W) of one image, which is read and normalised here."""
    pixels = np.asarray(Image.open(photos.root / photos.dataset.records[name].image), dtype=np.float64) / 255
    x = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        return network.classifier(torch.from_numpy(x.transpose(2, 0, 1)[None]).float())[0].softmax(0)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_image_is_predicted_once_in_the_given_order(photos: ImageReader, batch_size: int) -> None:
    ids = sorted(photos.dataset.records)
    assert [name for name, _, _ in each([Network()], photos, ids, batch_size)] == ids
    assert [name for name, _, _ in each([Network()], photos, ids[::-1], batch_size)] == ids[::-1]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_prediction_equals_that_of_the_image_alone_without_dropout(photos: ImageReader, batch_size: int) -> None:
    network = Network().train()
    for name, masks, confidence in each([network], photos, list(photos.dataset.records), batch_size):
        expected = by_hand(network, photos, name)
        assert masks.dtype == torch.uint8
        assert confidence.dtype == torch.float32
        torch.testing.assert_close(confidence, expected.amax(0), rtol=1e-4, atol=1e-5)
        clear = expected.topk(2, 0).values.diff(dim=0)[0].abs() > 1e-4
        assert torch.equal(masks[0][clear].long(), expected.argmax(0)[clear])


def test_several_networks_predict_the_same_images_independently(photos: ImageReader) -> None:
    one, other = Network(), Network()
    other.classifier.weight.data.neg_()
    ids = list(photos.dataset.records)
    for (_, both, confidence), (_, first, _), (_, second, sure) in zip(
        each([one, other], photos, ids), each([one], photos, ids), each([other], photos, ids), strict=True
    ):
        assert torch.equal(both, torch.cat([first, second]))
        assert torch.equal(confidence, sure)


def test_the_confidence_of_a_bfloat16_network_is_float32_and_close_to_that_in_float32(photos: ImageReader) -> None:
    network, ids = Network(), list(photos.dataset.records)
    for name, _, confidence in each([network], photos, ids, model=Model(precision="bfloat16")):
        assert confidence.dtype == torch.float32
        assert 1e-5 < float((confidence - by_hand(network, photos, name).amax(0)).abs().max()) < 0.03


def test_prediction_leaves_the_modes_of_torch_unchanged(photos: ImageReader) -> None:
    """Inference mode and autocast do not leak to the caller, even if several generators are read in turn."""
    ids = list(photos.dataset.records)
    streams = [each([Network()], photos, ids, model=Model(precision="bfloat16")) for _ in range(3)]
    for _ in zip(*streams, strict=True):
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
    del streams
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert torch.ones(1, requires_grad=True).mul(2).requires_grad


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_confusion_matrix_equals_a_loop_over_all_valid_pixels(photos: ImageReader, batch_size: int) -> None:
    network, ids = Network(), list(photos.dataset.records)[1:]
    expected = np.zeros((3, 3), dtype=int)
    for name in ids:
        predicted = by_hand(network, photos, name).argmax(0).numpy()
        truth = np.asarray(Image.open(photos.root / photos.dataset.records[name].mask))
        for place in np.ndindex(truth.shape):
            if truth[place] != 255:
                expected[truth[place], predicted[place]] += 1
    scores = evaluate(network, loader(photos, ids, batch_size), 3, MODEL, CPU, PLAIN)
    assert scores.matrix.tolist() == expected.tolist()


def test_scores_are_computed_from_the_matrix_and_an_absent_class_is_nan() -> None:
    scores = Scores(torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    assert scores.iou[:2] == pytest.approx([300 / 6, 400 / 7])
    assert math.isnan(scores.iou[2])
    assert scores.miou == pytest.approx(100 * (3 / 6 + 4 / 7) / 2)
    assert scores.pixel_accuracy == pytest.approx(70)
