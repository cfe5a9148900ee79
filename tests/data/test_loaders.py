"""Tests of batches: training can start at any iteration of an epoch; prediction batches have equal image sizes."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stpp.data.datasets import ImageMaskPairs, SelfTrainingDataset
from stpp.data.loaders import TrainingBatchSampler, training_loader
from stpp.data.prediction import Batch, ImageDataset, ImageMaskDataset, batches_of_equal_size, prediction_loader
from stpp.data.reader import ImageReader
from stpp.params.models import Augment, Runtime, Weak
from stpp.store.manifest import Dataset

FEW = settings(max_examples=40, deadline=None)
COUNTS = st.tuples(st.integers(2, 40), st.integers(2, 9), st.integers(1, 4)).filter(lambda c: c[0] >= c[1])
NAMES = [f"{kind}/{i}" for kind, count in (("l", 4), ("u", 6)) for i in range(count)]

# -- training ---------------------------------------------------------------------------------------------------------


@FEW
@given(COUNTS, st.integers(0, 9))
def test_every_epoch_is_a_permutation_without_its_incomplete_last_batch(
    counts: tuple[int, int, int], seed: int
) -> None:
    samples, size, epochs = counts
    per_epoch = samples // size
    batches = list(TrainingBatchSampler(samples, size, per_epoch * epochs, seed, "teacher"))
    assert (
        len(batches)
        == len(TrainingBatchSampler(samples, size, per_epoch * epochs, seed, "teacher"))
        == per_epoch * epochs
    )
    for epoch in range(epochs):
        of_epoch = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert all(len(batch) == size for batch in of_epoch)
        assert all(e == epoch for batch in of_epoch for e, _ in batch)
        positions = [position for batch in of_epoch for _, position in batch]
        assert len(set(positions)) == per_epoch * size
        assert set(positions) <= set(range(samples))


@FEW
@given(COUNTS, st.integers(0, 9), st.data())
def test_a_sampler_that_starts_at_any_iteration_continues_the_sequence(
    counts: tuple[int, int, int], seed: int, data: st.DataObject
) -> None:
    samples, size, epochs = counts
    total = samples // size * epochs
    whole = list(TrainingBatchSampler(samples, size, total, seed, "teacher"))
    start = data.draw(st.integers(0, len(whole)))
    rest = TrainingBatchSampler(samples, size, total, seed, "teacher", start)
    assert len(rest) == len(whole) - start
    assert list(rest) == whole[start:]
    assert list(rest) == whole[start:]


def test_epochs_roles_and_seeds_have_different_orders() -> None:
    def order(seed: int, role: str, epoch: int) -> tuple[int, ...]:
        batches = list(TrainingBatchSampler(20, 4, 15, seed, role))
        return tuple(p for batch in batches[epoch * 5 : epoch * 5 + 5] for _, p in batch)

    orders = {order(seed, role, epoch) for seed in (0, 1) for role in ("teacher", "student") for epoch in range(3)}
    assert len(orders) == 12


def test_a_longer_training_does_not_change_the_first_batches() -> None:
    assert list(TrainingBatchSampler(20, 4, 25, 0, "teacher"))[:12] == list(
        TrainingBatchSampler(20, 4, 12, 0, "teacher")
    )


def test_every_position_is_left_out_about_equally_often() -> None:
    seen = torch.zeros(10)
    for batch in TrainingBatchSampler(10, 4, 1000, 0, "teacher"):
        seen[[p for _, p in batch]] += 1
    assert (seen - 400).abs().max() < 4.5 * (500 * 0.8 * 0.2) ** 0.5


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_loader_gives_the_samples_of_its_batches_in_order(workers: int, photos: ImageReader) -> None:
    labeled = ImageMaskPairs(photos, NAMES[:4])
    data = SelfTrainingDataset(labeled, 2, [], Augment(weak=Weak(base=24, crop=16)), 0, "teacher")
    batches = TrainingBatchSampler(len(data), 3, 4, 0, "teacher", start=1)
    loader = training_loader(data, batches, Runtime(workers=workers), torch.device("cpu"))
    assert len(loader) == 3
    for (images, masks), batch in zip(loader, batches, strict=True):
        expected = [data[draw] for draw in batch]
        assert torch.equal(images, torch.stack([image for image, _ in expected]))
        assert torch.equal(masks, torch.stack([mask for _, mask in expected]))


# -- prediction -------------------------------------------------------------------------------------------------------


def batches_of(
    photos: ImageReader, ids: list[str], size: int, workers: int = 0, max_pixels: int = 2**22
) -> list[Batch]:
    data = ImageDataset(photos, ids)
    batches = batches_of_equal_size(data, size, max_pixels)
    return list(prediction_loader(data, batches, Runtime(workers=workers), torch.device("cpu")))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_every_id_once_in_order_and_equal_sizes_only(size: int, workers: int, photos: ImageReader) -> None:
    batches = batches_of(photos, NAMES, size, workers)
    assert [name for names, _ in batches for name in names] == NAMES
    for names, images in batches:
        assert 1 <= len(names) <= size
        sizes = {(photos.dataset.records[n].height, photos.dataset.records[n].width) for n in names}
        assert sizes == {tuple(images.shape[1:3])}
        for name, image in zip(names, images, strict=True):
            assert torch.equal(image, ImageDataset(photos, [name])[0][1])


def test_neighbours_of_equal_size_fill_a_batch(photos: ImageReader) -> None:
    alike = [n for n in NAMES if photos.dataset.records[n].width == 24]
    assert [len(names) for names, _ in batches_of(photos, alike, 3)] == [3, 3, 2]


def test_a_batch_has_no_more_pixels_than_the_bound_unless_it_is_one_image(photos: ImageReader) -> None:
    alike = [n for n in NAMES if photos.dataset.records[n].width == 24]
    pixels = 24 * photos.dataset.records[alike[0]].height
    assert [len(names) for names, _ in batches_of(photos, alike, 8, max_pixels=2 * pixels)] == [2, 2, 2, 2]
    assert [len(names) for names, _ in batches_of(photos, alike, 8, max_pixels=pixels - 1)] == [1] * 8


def test_batches_with_true_masks_have_them_as_the_third_part(photos: ImageReader) -> None:
    data = ImageMaskDataset(photos, NAMES)
    for names, images, truths in prediction_loader(
        data, batches_of_equal_size(data, 3, 2**22), Runtime(workers=0), torch.device("cpu")
    ):
        assert truths.shape == (len(names), *images.shape[1:3])


def test_batches_depend_only_on_the_list_of_ids(photos: ImageReader) -> None:
    ids = ["u/3", "l/1", "u/0", "u/1", "l/0"]
    few = {name: photos.dataset.records[name] for name in reversed(ids)}
    alone = ImageReader(dataclasses.replace(photos.dataset, records=few), photos.root)
    assert isinstance(alone.dataset, Dataset)
    for (names, images), (expected_names, expected) in zip(
        batches_of(alone, ids, 2), batches_of(photos, ids, 2), strict=True
    ):
        assert names == expected_names
        assert torch.equal(images, expected)


def test_no_ids_make_no_batches(photos: ImageReader) -> None:
    assert batches_of(photos, [], 4, workers=2) == []
