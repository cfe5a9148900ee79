"""Tests of `stpp preset suggest`: the setting fits data and machine, is written only on request, and is valid."""

import itertools
import re

import pytest
import torch
from small import ROOT, Project

from stpp.engine.benchmark import memory_of_a_training
from stpp.models.build import build
from stpp.paper.setting import Images, Machine, choices, length, parts, with_choices
from stpp.params.file import load
from stpp.params.models import Model


def test_a_suggestion_has_reasons_and_times_and_is_a_valid_params_file(prepared: Project) -> None:
    file = prepared.folder / "params.yaml"
    prepared.commit("-A")
    before = file.read_text()
    shown = prepared.run("stpp", "preset", "suggest", "--hours", "0.02")
    assert file.read_text() == before and "nothing was written" in shown
    assert "8 labelled images of 32 x 32 (median), 12 unlabelled, 6 for val" in shown
    assert re.search(r"teacher \d+ iterations, \d+ min; student 1 \d+ iterations", shown)
    for key in ("backbone", "precision", "iterations", "crop", "batch_size", "output_stride"):
        assert re.search(rf"^ +{key}: \S+ +# \w", shown, re.MULTILINE), key

    assert "written" in prepared.run("stpp", "preset", "suggest", "--hours", "0.02", "--write")
    p = load([file])
    assert (p.model.weights, p.augment.weak.crop, p.split.name) == ("package", 32, "tiny")
    prepared.run("stpp", "check")
    refused = prepared.run("stpp", "preset", "suggest", "--write", rc=2)
    assert "not in git" in refused


def test_the_error_for_missing_files_has_a_remedy(project: Project) -> None:
    output = project.run("stpp", "preset", "suggest", rc=2)
    assert "runs/data: no such folder; run `dvc repro split` first" in output
    assert "none.yaml: no such file" in project.run("stpp", "preset", "suggest", "--params", "none.yaml", rc=2)


SIDES = [(32, 32), (96, 64), (480, 360), (2048, 1024), (8000, 6000)]


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize(("size", "labeled"), list(itertools.product(SIDES, [2, 1464])))
def test_a_suggestion_stays_within_the_limits_of_the_data(size: tuple[int, int], labeled: int, cuda: bool) -> None:
    images = Images(long=size[0], short=size[1], labeled=labeled, unlabeled=300, val=10, test=0)
    chosen = choices(images, Machine(cuda, cores=4), Model(network="pspnet"))
    values = {one.key: one.value for one in chosen}
    assert 32 <= values["augment.weak.crop"] <= max(32, size[1])
    assert 2 <= values["train.batch_size"] <= max(2, labeled)
    assert values["augment.weak.base"] == size[0]
    assert values["label.batch_size"] * size[0] * size[1] <= max(2**20, size[0] * size[1])
    assert all(one.why for one in chosen)


BACKBONES = ("", "resnet18", "test_vit", "vit_small_patch14_dinov2")


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize(
    ("present", "backbone"),
    [*itertools.product(("dpt", "pspnet"), BACKBONES), ("linear", "test_vit"), ("deeplabv3plus_separable", "resnet18")],
)
def test_a_suggested_network_can_be_built_and_keeps_the_present_head_if_it_suits(
    cuda: bool, present: str, backbone: str
) -> None:
    images = Images(long=500, short=375, labeled=100, unlabeled=300, val=10, test=0)
    chosen = choices(images, Machine(cuda, cores=4), Model(network=present), backbone)
    params = with_choices(load([ROOT / "params.yaml"]), chosen)
    with torch.device("meta"):
        build(params.model, 3)
    transformer = "vit" in backbone or (cuda and not backbone)
    suits = (present in ("dpt", "linear")) == transformer
    assert (params.model.network == present) == suits
    assert params.train.optimizer == ("adamw" if transformer else "sgd")
    assert params.model.weights != "none" or backbone == "test_vit"
    if backbone == "vit_small_patch14_dinov2":
        assert params.augment.weak.crop == (364 if cuda else 140)  # 26 and 10 patches of 14 pixels


def test_a_file_of_weights_stays_with_its_backbone() -> None:
    images = Images(long=500, short=375, labeled=100, unlabeled=300, val=10, test=0)
    mine = Model(backbone="resnet18", weights="mine.pth")
    for backbone, weights in (("resnet18", "mine.pth"), ("resnet34", "IMAGENET1K_V1")):
        chosen = choices(images, Machine(False, cores=4), mine, backbone)
        assert {one.key: one.value for one in chosen}["model.weights"] == weights


def test_a_batch_is_taken_in_as_few_parts_as_fit_into_the_memory() -> None:
    images = Images(long=500, short=375, labeled=100, unlabeled=300, val=10, test=0)
    chosen = choices(images, Machine(True, cores=4), Model(), "test_vit")
    params = with_choices(load([ROOT / "params.yaml"]), chosen)
    whole = memory_of_a_training(params)
    counts = [parts(params, memory).value for memory in (None, 10**12, whole, whole // 2, 10**6)]
    assert counts[:2] == [1, 1] and counts[-1] == params.train.batch_size // 2
    assert counts[1:] == sorted(counts[1:]) and 1 < counts[2] < counts[3]


def test_another_backbone_brings_its_head_and_its_optimiser(prepared: Project) -> None:
    suggest = ("stpp", "preset", "suggest", "--hours", "0.02", "--backbone")
    shown = prepared.run(*suggest, "test_vit")
    for line in (
        "network: dpt +# a head for vision transformers",
        "backbone: test_vit +# as given",
        "optimizer: adamw +#",
    ):
        assert re.search(line, shown), line
    assert "nothing is not a known backbone" in prepared.run(*suggest, "nothing", rc=2)


@pytest.mark.parametrize("per_epoch", [(3, 9, 18), (5, 265, 530), (40, 60, 90)])
def test_a_suggested_length_fits_the_hours_and_is_at_most_that_of_the_paper(per_epoch: tuple[int, int, int]) -> None:
    for hours, iteration in itertools.product((0.1, 1, 10, 1000), (0.01, 0.5)):
        epochs, iterations = (one.value for one in length(per_epoch, iteration, 5.0, 60.0, hours, checkpoints=3))
        assert (epochs is None) != (iterations is None) and (epochs or 0) <= 80

        def takes(epochs: int | None, iterations: int, iteration: float = iteration) -> float:
            count = epochs * sum(per_epoch) if epochs else 3 * iterations
            return 60 + count * iteration + 3 * 10 * 5

        if iterations != 200:
            assert takes(epochs, iterations) <= hours * 3600
        if epochs is None:
            assert takes(max(3, -(-36 // per_epoch[0])), 0) > hours * 3600 < takes(None, iterations + 1)
        else:
            assert epochs >= 3 and epochs * per_epoch[0] >= 36
            assert epochs == 80 or takes(epochs + 1, 0) > hours * 3600
