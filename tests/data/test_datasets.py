"""Tests of training samples: seed, role, epoch and position determine them; only pseudo-labelled ones get A_s."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import mask_set
from torch import Tensor
from torch.utils.data import DataLoader

from stpp.data.datasets import CutMixDataset, Draw, ImageMaskPairs, OnlineDataset, SelfTrainingDataset
from stpp.data.prediction import ImageDataset, ImageMaskDataset
from stpp.data.reader import ImageReader
from stpp.data.transforms import normalize
from stpp.params.models import Augment, Strong, Weak
from stpp.store.files import StppError
from stpp.store.masks import MaskSet

Make = Callable[..., SelfTrainingDataset]

WEAK = Weak(base=24, crop=16)
ALWAYS = Augment(weak=WEAK, strong=Strong(jitter=1.0, grayscale=1.0, blur=1.0, cutout=1.0))
NEVER = Augment(weak=WEAK, strong=Strong(jitter=0.0, grayscale=0.0, blur=0.0, cutout=0.0))
LABELED = [f"l/{i}" for i in range(4)]
UNLABELED = [f"u/{i}" for i in range(6)]
COPIES = 2


@pytest.fixture
def pseudo_masks(photos: ImageReader, tmp_path: Path) -> MaskSet:
    """Return pseudo masks of all unlabelled images; every pixel is class 2."""
    masks = {}
    for name in UNLABELED:
        record = photos.dataset.records[name]
        masks[name] = np.full((record.height, record.width), 2, dtype=np.uint8)
    return mask_set(tmp_path, masks, photos.dataset.palette)


@pytest.fixture
def make(photos: ImageReader, pseudo_masks: MaskSet) -> Make:
    """Return a function that makes training data: four labelled images twice, six pseudo-labelled ones in two parts."""

    def training(augment: Augment = ALWAYS, seed: int = 0, role: str = "student") -> SelfTrainingDataset:
        parts = [
            ImageMaskPairs(photos, UNLABELED[:2], pseudo_masks),
            ImageMaskPairs(photos, UNLABELED[2:], pseudo_masks),
        ]
        return SelfTrainingDataset(ImageMaskPairs(photos, LABELED), COPIES, parts, augment, seed, role)

    return training


def equal(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


ALL = [(epoch, position) for epoch in (0, 7) for position in range(COPIES * 4 + 6)]

# -- one sample -------------------------------------------------------------------------------------------------------


def test_a_sample_is_a_normalised_crop_and_its_classes(make: Make) -> None:
    data = make()
    assert len(data) == COPIES * 4 + 6
    for draw in ALL:
        image, mask = data[draw]
        assert (image.dtype, mask.dtype) == (torch.float32, torch.int64)
        assert image.shape == (3, 16, 16)
        assert mask.shape == (16, 16)
        assert set(mask.unique().tolist()) <= {0, 1, 2, 255}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.lists(st.sampled_from(ALL), max_size=5), draw=st.sampled_from(ALL))
def test_a_sample_does_not_depend_on_earlier_samples(make: Make, before: list[Draw], draw: Draw) -> None:
    fresh, used = make(), make()
    for other in before:
        used[other]
    assert equal(used[draw], fresh[draw])


def test_a_sample_is_the_same_in_any_number_of_workers_and_any_batch(make: Make) -> None:
    data = make()
    one_by_one = [data[draw] for draw in ALL]
    for workers, size in ((0, 3), (2, 4)):
        batches = [ALL[i : i + size] for i in range(0, len(ALL), size)]
        loader = DataLoader(data, batch_sampler=batches, num_workers=workers)
        images, masks = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert equal((images, masks), tuple(torch.stack(parts) for parts in zip(*one_by_one, strict=True)))


def test_a_sample_is_the_same_after_pickling(make: Make) -> None:
    data = make()
    expected = [data[draw] for draw in ALL[-8:]]
    again = pickle.loads(pickle.dumps(data))
    assert all(equal(again[draw], sample) for draw, sample in zip(ALL[-8:], expected, strict=True))


def test_copies_epochs_roles_and_seeds_get_different_views_of_an_image(make: Make) -> None:
    for position in range(4):
        views = [make()[0, position], make()[0, position + 4], make()[1, position]]
        views += [make(role="teacher")[0, position], make(seed=1)[0, position]]
        assert len({image.numpy().tobytes() for image, _ in views}) == 5


# -- which augmentation -----------------------------------------------------------------------------------------------


def test_labelled_images_are_never_strongly_augmented(make: Make) -> None:
    always, never = make(ALWAYS), make(NEVER)
    for epoch, position in ALL:
        same = equal(always[epoch, position], never[epoch, position])
        assert same == (position < COPIES * 4)


def test_a_labelled_sample_is_its_photograph_and_its_mask(photos: ImageReader) -> None:
    still = Augment(weak=Weak(base=24, crop=24, scale=(1.0, 1.0), flip=0.0))
    ids = ["l/3", "l/0", "l/1"]  # 24 x 20 pixels: not resized or cropped, but padded at the bottom
    data = SelfTrainingDataset(ImageMaskPairs(photos, ids), COPIES, [], still, 0, "teacher")
    for position, name in enumerate(ids * COPIES):
        image, mask = data[5, position]
        assert np.array_equal(image[:, :20], normalize(photos.image(name)))
        assert np.array_equal(mask[:20], photos.mask(name))
        assert (mask[20:] == 255).all()
        assert np.array_equal(image[:, 20:], normalize(np.zeros((4, 24, 3), dtype=np.uint8)))


def test_a_s_is_applied_after_a_w_to_the_same_crop(make: Make) -> None:
    only_jitter = make(Augment(weak=WEAK, strong=NEVER.strong.model_copy(update={"grayscale": 1.0})))
    plain = make(NEVER)
    for position in range(COPIES * 4, len(plain)):
        (grey, mask), (image, expected_mask) = only_jitter[0, position], plain[0, position]
        assert torch.equal(mask, expected_mask)
        deviation, mean = (torch.tensor(v)[:, None, None] for v in ((0.229, 0.224, 0.225), (0.485, 0.456, 0.406)))
        luminance = ((image * deviation + mean) * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
        assert ((grey * deviation + mean) - luminance).abs().max() < 1.5 / 255


def test_pseudo_labelled_images_have_their_pseudo_masks_and_need_no_true_ones(make: Make) -> None:
    data = make()
    for epoch, position in ALL:
        values = set(data[epoch, position][1].unique().tolist())
        assert (values <= {2, 255}) == (position >= COPIES * 4)


def test_the_mask_is_ignored_where_cutout_puts_noise(make: Make) -> None:
    cut = Augment(weak=WEAK, strong=NEVER.strong.model_copy(update={"cutout": 1.0, "cutout_area": (0.2, 0.3)}))
    for position in range(COPIES * 4, COPIES * 4 + 6):
        (image, mask), (plain, whole) = make(cut)[0, position], make(NEVER)[0, position]
        changed = (image != plain).any(0)
        assert changed.sum() > 0.15 * 256
        assert (mask[changed] == 255).all()
        assert torch.equal(mask[mask != 255], whole[mask != 255])


# -- reading ----------------------------------------------------------------------------------------------------------


def test_the_error_names_a_mask_value_that_is_not_a_class(photos: ImageReader) -> None:
    path = photos.root / "masks/l/0.png"
    changed = ImageReader(photos.dataset, photos.root)
    changed.dataset.values.pop(2)
    with pytest.raises(StppError, match=rf"{path}: value 2 is not a class"):
        ImageMaskPairs(changed, LABELED).read(0)


def test_the_error_names_a_missing_photograph(photos: ImageReader) -> None:
    (photos.root / "images/u/3.png").unlink()
    with pytest.raises(StppError, match=r"images/u/3\.png: no such file"):
        ImageDataset(photos, UNLABELED)[3]


def test_image_dataset_returns_whole_images_with_their_ids(photos: ImageReader) -> None:
    plain = ImageDataset(photos, [*UNLABELED, *LABELED])
    assert len(plain) == 10
    for index, name in enumerate([*UNLABELED, *LABELED]):
        record = photos.dataset.records[name]
        found, image = plain[index]
        assert found == name
        assert image.dtype == torch.uint8
        assert image.shape == (record.height, record.width, 3)
        assert (image.numpy() == photos.image(name)).all()


def test_image_mask_dataset_returns_the_true_mask_or_255(photos: ImageReader) -> None:
    for name, image, truth in map(ImageMaskDataset(photos, [*UNLABELED, *LABELED]).__getitem__, range(10)):
        assert truth.dtype == torch.uint8
        assert truth.shape == image.shape[:2]
        if photos.dataset.records[name].mask:
            assert (truth.numpy() == photos.mask(name)).all()
        else:
            assert (truth == 255).all()


# -- ablations and online labelling -----------------------------------------------------------------------------------


def test_strong_labeled_applies_only_to_labelled_images_and_with_its_own_values(make: Make) -> None:
    """The random draws are those of A_s on an unlabelled image at the same position."""
    both = make(ALWAYS.model_copy(update={"strong_labeled": ALWAYS.strong}))
    off = make(ALWAYS.model_copy(update={"strong_labeled": NEVER.strong}))
    without = make(ALWAYS)
    for draw in ALL:
        labeled = draw[1] < COPIES * 4
        assert equal(both[draw], without[draw]) == (not labeled)
        assert equal(off[draw], without[draw])


@pytest.fixture
def pairs(photos: ImageReader) -> Callable[..., OnlineDataset]:
    def of(augment: Augment = ALWAYS, role: str = "online") -> OnlineDataset:
        return OnlineDataset(ImageMaskPairs(photos, LABELED), UNLABELED, augment, 0, role)

    return of


def test_a_pair_is_three_views_and_two_masks(pairs: Callable[..., OnlineDataset]) -> None:
    data = pairs()
    assert len(data) == len(UNLABELED)
    for position in range(len(data)):
        x, y = data[0, position]
        assert (x.shape, y.shape) == ((3, 3, 16, 16), (2, 16, 16))
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert set(y[1].unique().tolist()) <= {0, 255}


def test_the_strong_view_is_the_weak_view_with_a_s(pairs: Callable[..., OnlineDataset]) -> None:
    for position in range(len(UNLABELED)):
        x, y = pairs(NEVER)[3, position]
        strong, hidden = pairs()[3, position]
        assert torch.equal(x[1], x[2])
        assert torch.equal(strong[:2], x[:2]), "A_s touches neither the labelled image nor the weak view"
        assert not torch.equal(strong[2], x[2])
        assert ((hidden[1] == 255) | (y[1] == 0)).all(), "what is padded stays hidden, CutOut hides more"


def test_every_labelled_image_becomes_a_partner_and_pairs_change_by_epoch(pairs: Callable[..., OnlineDataset]) -> None:
    still = pairs(Augment(weak=Weak(base=24, crop=24, scale=(1.0, 1.0), flip=0.0)))
    partners = [[still[e, p][0][0].numpy().tobytes() for p in range(len(still))] for e in range(12)]
    assert len({view for epoch in partners for view in epoch}) == len(LABELED)
    assert len({tuple(epoch) for epoch in partners}) > 6


def test_a_sample_of_unimatch_has_two_strong_views_with_boxes_in_place_of_cutout(
    photos: ImageReader, pairs: Callable[..., OnlineDataset]
) -> None:
    online, plain = pairs(), pairs(NEVER)
    made, again = (CutMixDataset(ImageMaskPairs(photos, LABELED), UNLABELED, ALWAYS, 0, "online") for _ in range(2))
    for draw in [(0, p) for p in range(len(UNLABELED))] + [(1, 0)]:
        x, y = made[draw]
        assert (x.shape, y.shape, x.dtype, y.dtype) == ((4, 3, 16, 16), (6, 16, 16), torch.float32, torch.int64)
        assert equal((x, y), again[draw]), "it depends on its seeds alone"
        assert torch.equal(x[:2], online[draw][0][:2])
        assert torch.equal(y[0], online[draw][1][0])
        padded = plain[draw][1][1]
        assert all(torch.equal(hidden, padded) for hidden in y[1:4]), "nothing is cut out"
        assert not any(torch.equal(x[a], x[b]) for a, b in ((1, 2), (1, 3), (2, 3)))
        assert not torch.equal(y[4], y[5])
        assert set(y[4:].unique().tolist()) == {0, 1}
    assert not torch.equal(made[0, 0][1][4:], made[1, 0][1][4:])


def test_a_soft_mask_goes_through_the_augmentations_as_its_hard_one_and_labelled_pixels_are_sure(
    photos: ImageReader, tmp_path: Path
) -> None:
    """Every class has its own levels here, so the levels of a pixel say which pixel of the hard mask it is."""
    by_class, rng = np.array([[200, 40, 15], [0, 255, 0], [1, 100, 154]], np.uint8), np.random.default_rng(3)
    shapes = {name: (photos.dataset.records[name].height, photos.dataset.records[name].width) for name in UNLABELED}
    masks = {name: rng.choice(np.array([0, 1, 2, 255], np.uint8), shape) for name, shape in shapes.items()}
    levels = {name: np.vstack([by_class, np.zeros((253, 3), np.uint8)])[mask] for name, mask in masks.items()}
    sets = [mask_set(tmp_path / "hard", masks, photos.dataset.palette)]
    sets.append(mask_set(tmp_path / "soft", masks, photos.dataset.palette, levels=levels))
    labeled = ImageMaskPairs(photos, LABELED)
    hard, soft = (
        SelfTrainingDataset(labeled, COPIES, [ImageMaskPairs(photos, UNLABELED, one)], ALWAYS, 0, "student")
        for one in sets
    )
    assert soft.made_of == f"{hard.made_of} (soft)"
    for epoch, position in ALL:
        (image, ids), (same, y) = hard[epoch, position], soft[epoch, position]
        assert torch.equal(image, same)
        assert y.shape == (3, 16, 16) and y.dtype == torch.uint8
        shown = by_class if position >= soft.labeled else 255 * np.eye(3, dtype=np.uint8)
        expected = np.vstack([shown, np.zeros((253, 3), np.uint8)])[ids.numpy()]
        assert np.array_equal(y.numpy(), expected.transpose(2, 0, 1))
    assert (soft[0, len(soft) - 1][1].sum(0) == 0).any(), "CutOut and padding are ignored"
