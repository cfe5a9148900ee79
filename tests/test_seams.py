"""Tests of extensions: each test adds an entry to a table, and the rest of the project accepts it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from stpp.data.augmentations import AUGMENTATIONS
from stpp.data.reader import ImageReader
from stpp.data.transforms import strong
from stpp.engine.evaluate import predict_batches
from stpp.engine.optim import Groups, optimizer
from stpp.engine.optimizers import OPTIMIZERS
from stpp.engine.predict import mask_predictor, single_pass
from stpp.ingest.drawing import draw_masks
from stpp.ingest.formats import FORMATS
from stpp.ingest.inspection import inspect
from stpp.ingest.known_layouts import Layout, layout
from stpp.ingest.layouts import LAYOUTS
from stpp.ingest.shapes import Picture, Shape, ring
from stpp.models.backbone import backbone as backbone_of
from stpp.models.build import build
from stpp.models.networks import NETWORKS
from stpp.params.data import Annotations, Data
from stpp.params.models import Model, Online, Score, Select, Strong, Train
from stpp.selftrain.online.methods import METHODS
from stpp.selftrain.rankings import RANKINGS
from stpp.selftrain.scoring.criteria import CRITERIA
from stpp.selftrain.selection import rank, select
from stpp.store.files import StppError

TABLES: tuple[dict[str, str], ...] = (
    NETWORKS,
    OPTIMIZERS,
    RANKINGS,
    CRITERIA,
    METHODS,
    LAYOUTS,
    FORMATS,
    AUGMENTATIONS,
)


@pytest.fixture(autouse=True)
def _tables_as_they_were() -> Iterator[None]:
    before = [dict(table) for table in TABLES]
    yield
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


class Plain(nn.Module):
    """A head: a linear layer on the last features of the backbone, resized to the size of the image."""

    CLASSIFIER = "classifier."

    def __init__(self, backbone: str, classes: int, output_stride: int) -> None:
        super().__init__()
        self.backbone = backbone_of(backbone, output_stride)
        self.classifier = nn.Conv2d(self.backbone.channels[-1], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.classifier(self.backbone(x)[-1])
        return nn.functional.interpolate(features, size=x.shape[2:], mode="bilinear")


def gini(p: Tensor) -> Tensor:
    """Return 1 for a certain pixel, and 1 / C for a pixel that is equally likely of any class."""
    return (p**2).sum(1)


def by_length(known: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, float]:
    return {name: float(len(name)) for name in known["stability"]}


def flat(data: Data) -> Layout:
    return Layout("{name}.jpg", ("{name}.png",), ("ground", "crop"), ((0, 0, 0), (0, 255, 0)), {0: 0, 1: 1})


def corners(path: Path) -> Iterator[Picture | Shape]:
    """Read a file of boxes, one a line: image, label, left, top, right and bottom."""
    for number, line in enumerate(path.read_text().splitlines()):
        image, label, *sides = line.split()
        left, top, right, bottom = map(float, sides)
        yield Picture(image, (image,))
        yield Shape(image, str(number), label, "polygon", (ring([left, top, right, top, right, bottom, left, bottom]),))


class Inverted(A.ImageOnlyTransform):
    def apply(self, img: NDArray[np.uint8], **_: object) -> NDArray[np.uint8]:
        return 255 - img


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_050"])
def test_a_head_can_be_added_and_works_with_a_backbone_of_timm(backbone: str) -> None:
    with pytest.raises(ValidationError, match="'deeplabv3plus'"):
        Model(network="plain")
    NETWORKS["plain"] = "test_seams:Plain"
    network = build(Model(network="plain", backbone=backbone, output_stride=16), 3)
    assert network(torch.zeros(2, 3, 33, 64)).shape == (2, 3, 33, 64)


def adagrad(groups: Groups, train: Train) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(groups, weight_decay=train.weight_decay)


def test_an_optimizer_can_be_added() -> None:
    with pytest.raises(ValidationError, match="'adamw'"):
        Train(optimizer="adagrad")
    OPTIMIZERS["adagrad"] = "test_seams:adagrad"
    made = optimizer(nn.Conv2d(1, 1, 1), Train(optimizer="adagrad", lr=0.5, batch_size=16, head_lr_factor=2.0))
    assert isinstance(made, torch.optim.Adagrad)
    assert [group["lr"] for group in made.param_groups] == [0.5, 1.0]


def test_a_criterion_can_be_added() -> None:
    CRITERIA["gini"] = "test_seams:gini"
    assert Score(criteria=("gini", "entropy")).criteria == ("gini", "entropy")
    assert Select(by="gini").by == "gini"
    assert select(rank("gini", {"gini": {"a": 0.2, "b": 0.9}}, seed=0), 0.5) == (["b"], ["a"])


def test_a_ranking_can_be_added() -> None:
    RANKINGS["length"] = "test_seams:by_length"
    scores = rank(Select(by="length").by, {"stability": dict.fromkeys(("a", "ccc", "bb"), 0.5)}, seed=0)
    assert select(scores, 0.4) == (["ccc"], ["bb", "a"])


def test_a_method_of_online_labelling_can_be_added() -> None:
    with pytest.raises(ValidationError, match="'fixmatch'"):
        Online(method="mean_teacher")
    METHODS["mean_teacher"] = "test_seams:MeanTeacher"
    assert Online(method="mean_teacher").method == "mean_teacher"


def test_a_layout_of_files_can_be_added() -> None:
    LAYOUTS["flat"] = "test_seams:flat"
    assert layout(Data(name="mine", kind="flat", root="x")).classes == ("ground", "crop")


def test_an_annotation_format_can_be_added(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="'coco'"):
        Annotations(format="corners", file="boxes.txt")
    FORMATS["corners"] = "test_seams:corners"
    (tmp_path / "boxes.txt").write_text("a.png crop 1 1 3 4\n")
    Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(tmp_path / "a.png")
    about = {"images": "{name}.png", "classes": ("background", "crop")}
    chosen = Annotations(format="corners", file="boxes.txt")
    data = Data(name="mine", kind="folder", root=str(tmp_path), annotations=chosen, **about)
    dataset, _, problems = draw_masks(data, inspect(data, 1)[0], tmp_path / "out", 1)
    assert problems == []
    assert ImageReader(dataset, tmp_path).mask("a").sum() == 2 * 3


def test_a_strong_augmentation_can_be_added() -> None:
    off = {"jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "cutout": 0.0}
    AUGMENTATIONS["Inverted"] = "test_seams:Inverted"
    image = np.full((8, 8, 3), 200, np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    view = strong(
        Strong(**off, more=({"Inverted": {"p": 1.0}}, {"Solarize": {"threshold_range": (0.0, 0.0), "p": 1.0}}))
    )
    assert (view(image=image, mask=mask)["image"] == 200).all()  # the two transforms invert it twice
    for more, said in (
        ({"Nothing": {}}, "Nothing"),
        ({"Solarize": {"strength": 3}}, "strength"),
        ({"Compose": {}}, "Compose"),
    ):
        with pytest.raises(StppError, match=said):
            strong(Strong(more=(more,)))


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("side", [None, 16])
def test_certainty_is_0_for_a_guess_and_1_for_a_certain_class_whole_and_in_windows(name: str, side: int | None) -> None:
    from pkgutil import resolve_name

    class Says(nn.Module):
        """The logit of class 0 is the brightness of the pixel; the logit of class 1 is 0."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x[:, :1], torch.zeros_like(x)], dim=1)

    network = Says()
    network.register_buffer("pixel_mean", torch.zeros(1, 3, 1, 1))
    network.register_buffer("pixel_std", torch.full((1, 3, 1, 1), 1e-2))
    images = torch.zeros(1, 24, 32, 3, dtype=torch.uint8)
    images[:, :, 16:] = 255
    decide = mask_predictor(single_pass, 2**22, side, side and side // 2, criteria=[resolve_name(CRITERIA[name])])
    (found,) = predict_batches([network], [(["a"], images)], Model(), torch.device("cpu"), decide)
    (certain,) = found.by
    assert certain.shape == (1, 24, 32)
    torch.testing.assert_close(certain[0, :, :16], torch.zeros(24, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(certain[0, :, 16:], torch.ones(24, 16), atol=1e-5, rtol=0)


def test_entropy_and_margin_equal_a_calculation_by_hand() -> None:
    from stpp.selftrain.scoring.certainty import entropy, margin

    p = torch.tensor([0.7, 0.2, 0.1]).reshape(1, 3, 1, 1)
    by_hand = 1 + sum(x * np.log(x) for x in (0.7, 0.2, 0.1)) / np.log(3)
    assert float(entropy(p)) == pytest.approx(by_hand, abs=1e-6)
    assert float(margin(p)) == pytest.approx(0.5, abs=1e-6)


def test_select_ranks_by_the_scores_of_a_criterion(tmp_path: Path) -> None:
    from stpp.stages.select import Known

    (tmp_path / "scores.csv").write_text("id,stability,confidence,entropy\na,0.1,0.2,0.9\nb,0.5,0.4,0.3\n")
    assert dict(Known(tmp_path)["entropy"]) == {"a": 0.9, "b": 0.3}
    assert select(rank("entropy", Known(tmp_path), seed=0), 0.5) == (["a"], ["b"])
    with pytest.raises(StppError, match=r"score.criteria: \[margin\]"):
        rank("margin", Known(tmp_path), seed=0)
