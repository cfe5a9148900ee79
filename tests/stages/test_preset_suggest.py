"""Tests of `stpp preset suggest`: the setting fits data and machine, is written only on request, and is valid."""

import itertools
import re

import pytest
from small import Project

from stpp.paper.setting import Images, Machine, choices, length
from stpp.params.file import load


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
@pytest.mark.parametrize(("size", "labeled"), list(itertools.product(SIDES, [2, 5, 1464])))
def test_a_suggestion_stays_within_the_limits_of_the_data(size: tuple[int, int], labeled: int, cuda: bool) -> None:
    images = Images(long=size[0], short=size[1], labeled=labeled, unlabeled=300, val=10, test=0)
    values = {one.key: one.value for one in choices(images, Machine(cuda, cores=4))}
    assert 32 <= values["augment.weak.crop"] <= max(32, size[1])
    assert 2 <= values["train.batch_size"] <= max(2, labeled)
    assert values["augment.weak.base"] == size[0]
    assert values["label.batch_size"] * size[0] * size[1] <= max(2**20, size[0] * size[1])
    assert all(one.why for one in choices(images, Machine(cuda, cores=4)))


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
