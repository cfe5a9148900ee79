"""Tests that a pinned split cannot change, and that `split diff` names every difference between splits."""

import shutil

import pytest
from small import Project

SPLIT = ["stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split"]


def ids(project: Project, name: str) -> list[str]:
    return (project.folder / f"runs/split/{name}.txt").read_text().split()


def test_a_pinned_name_refuses_only_another_content(prepared: Project) -> None:
    prepared.run(*SPLIT)
    assert "tiny: 30 images" in prepared.run("stpp", "split", "pin", "tiny")
    before = (prepared.folder / "runs/split/manifest.csv").read_bytes()
    prepared.run(*SPLIT)
    prepared.run("stpp", "split", "pin", "tiny")

    prepared.params(split={"seed": 2})
    output = prepared.run(*SPLIT, rc=2)
    assert "split tiny: differs from the split that splits/pinned/tiny.csv pins" in output
    assert " -> " in output
    assert "Traceback" not in output
    assert (prepared.folder / "runs/split/manifest.csv").read_bytes() == before

    prepared.params(split={"seed": 2, "name": "another"})
    prepared.run(*SPLIT)
    assert "a pin cannot change" in prepared.run("stpp", "split", "pin", "tiny", rc=2)


def test_a_mask_that_changed_under_a_pinned_name_is_refused(prepared: Project) -> None:
    prepared.run(*SPLIT)
    prepared.run("stpp", "split", "pin", "tiny")
    one, other = ids(prepared, "labeled")[:2]
    masks = prepared.folder / "data/toy/masks"
    shutil.copyfile(masks / f"{other}.png", masks / f"{one}.png")
    prepared.run("stpp", "prepare", "--out", "runs/data")
    assert f"another mask in labeled: 1\n  {one}" in prepared.run(*SPLIT, rc=2)


def test_split_diff_names_every_image_that_moved(prepared: Project) -> None:
    prepared.run(*SPLIT)
    prepared.run("stpp", "split", "pin", "first")
    prepared.commit("-A")
    assert "first and runs/split are equal" in prepared.run("stpp", "split", "diff", "first")
    before = {name: set(ids(prepared, name)) for name in ("labeled", "unlabeled", "val", "test")}
    prepared.params(split={"seed": 5})
    prepared.run(*SPLIT)
    after = {name: set(ids(prepared, name)) for name in before}
    for one in ("first", "HEAD", "splits/../runs/split"):
        output = prepared.run("stpp", "split", "diff", one, "runs/split")
        lines = output.splitlines()
        for was, images in before.items():
            for now in set(after) - {was}:
                moved = sorted(images & after[now])
                title = f"{was} -> {now}: {len(moved)}"
                if one.startswith("splits") or not moved:
                    assert not any(line.startswith(f"{was} -> {now}") for line in lines)
                else:
                    place = lines.index(title)
                    assert [line.strip() for line in lines[place + 1 : place + 1 + len(moved)]] == moved


@pytest.mark.parametrize("name", ["nowhere", "--help-me", "../x", "HEAD"])
def test_the_error_for_an_unknown_split_names_the_known_ones(prepared: Project, name: str) -> None:
    prepared.run(*SPLIT)
    prepared.run("stpp", "split", "pin", "mine")
    output = prepared.run("stpp", "split", "diff", "--", name, "runs/split", rc=2)
    assert "neither pinned (mine), nor a folder of a split, nor a commit" in output
    assert "../x: not a valid split name" in prepared.run("stpp", "split", "pin", "../x", rc=2)
