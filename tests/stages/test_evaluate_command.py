"""Tests of `stpp evaluate` on any checkpoint and list, against plain prediction and counting."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from small import TINY, Project, mask_set

from stpp.data.transforms import normalize
from stpp.models import build, metadata
from stpp.params.models import Model
from stpp.store.files import read_csv, read_ids, read_json, write_csv, write_ids, write_json
from stpp.store.manifest import read_dataset

MODEL = Model(backbone="test_resnet", output_stride=16)


@pytest.fixture
def checkpoint(prepared: Project) -> Path:
    torch.manual_seed(0)
    path = prepared.folder / "mine.safetensors"
    build.save(path, build.build(MODEL, 6).state_dict())
    return path


def evaluate(project: Project, *more: str, rc: int = 0) -> str:
    words = ["stpp", "evaluate", "--data", "runs/data", "--split", "runs/split", "--out", "out"]
    return project.run(*words, "--model", "mine=mine.safetensors", *more, rc=rc)


def test_the_evaluation_of_a_list_equals_one_written_by_hand(prepared: Project, checkpoint: Path) -> None:
    dataset = read_dataset(prepared.folder / "runs/data")
    ids = read_ids(prepared.folder / "runs/split/test.txt")[:3]
    write_ids(prepared.folder / "lists/some.txt", ids)
    output = evaluate(prepared, "--ids", "lists/some.txt")
    assert "original resolution, whole images, one scale" in output

    network = build.load(MODEL, 6, checkpoint).eval()
    matrix = np.zeros((6, 6), dtype=int)
    right: dict[str, float] = {}
    for name in ids:
        record = dataset.records[name]
        root = prepared.folder / TINY["data"]["root"]  # type: ignore[operator]
        image = np.asarray(Image.open(root / record.image).convert("RGB"))
        truth = np.asarray(Image.open(root / record.mask))
        with torch.inference_mode():
            predicted = network(torch.from_numpy(normalize(image))[None])[0].argmax(0).numpy()
        right[name] = 100 * float((predicted == truth)[truth != 255].mean())
        for row in range(truth.shape[0]):
            for column in range(truth.shape[1]):
                if truth[row, column] != 255:
                    matrix[truth[row, column], predicted[row, column]] += 1
    assert read_json(prepared.folder / "out/scores.json") == {"some": {"mine": matrix.tolist()}}
    unions = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    ious = [100 * matrix[c, c] / unions[c] if unions[c] else np.nan for c in range(6)]
    metrics = read_json(prepared.folder / "out/metrics.json")
    assert metrics["some"]["mine"]["miou"] == pytest.approx(np.nanmean(ious))
    rows = read_csv(prepared.folder / "out/per_class.csv", ("set", "model", "class", "iou"))
    np.testing.assert_allclose([float(row["iou"]) for row in rows], ious)
    images = read_csv(prepared.folder / "out/per_image.csv", ("set", "model", "id", "miou", "pixel_accuracy"))
    assert {row["id"]: float(row["pixel_accuracy"]) for row in images} == pytest.approx(right)
    mious = [float(row["miou"]) for row in images]
    assert mious == sorted(mious)
    worst = {file.stem for file in (prepared.folder / "out/worst").iterdir()}
    assert worst == {row["id"] for row in images[: TINY["evaluate"]["panels"]]}  # type: ignore[misc]
    assert len(list((prepared.folder / "out/panels/mine").rglob("*.png"))) == TINY["evaluate"]["panels"]  # type: ignore[index]


def test_two_classes_have_scores_of_the_foreground_and_older_evaluations_are_still_read(project: Project) -> None:
    project.run("stpp", "draw", "--out", "data/toy")
    own = {"kind": "folder", "images": "images/{name}.png", "masks": "masks/{name}.png", "classes": ["ground", "thing"]}
    project.params(data=own | {"values": dict.fromkeys(range(1, 6), 1)}, evaluate={"panels": 6})
    project.run("stpp", "prepare", "--out", "runs/data")
    project.run("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split")
    torch.manual_seed(0)
    build.save(project.folder / "mine.safetensors", build.build(MODEL, 2).state_dict())
    out = project.folder / "runs/evaluation"
    evaluate(project, "--out", "runs/evaluation")

    totals = np.zeros(3)
    for file in (out / "panels/mine").iterdir():  # all images of val
        mask, truth = (np.asarray(Image.open(path)) for path in (file, project.folder / "data/toy/masks" / file.name))
        is_, says = (truth > 0) & (truth != 255), (mask == 1) & (truth != 255)
        totals += [(is_ & says).sum(), is_.sum(), says.sum()]
    both, true, predicted = totals
    scores = read_json(out / "metrics.json")["val"]["mine"]
    assert scores["foreground_iou"] == pytest.approx(100 * both / (true + predicted - both))
    assert scores["foreground_dice"] == pytest.approx(200 * both / (true + predicted))
    (row,) = [
        r
        for r in read_csv(out / "per_class.csv", ("precision", "recall"))
        if (r["set"], r["class"]) == ("val", "thing")
    ]
    assert (float(row["precision"]), float(row["recall"])) == pytest.approx((100 * both / predicted, 100 * both / true))
    value = f"{scores['foreground_iou']:.1f}"
    assert value in project.run("stpp", "show")

    old = {s: {"mine": {"miou": of["mine"]["miou"]}} for s, of in read_json(out / "metrics.json").items()}
    write_json(out / "metrics.json", old)
    rows = read_csv(out / "per_class.csv", ("set", "model", "class", "iou"))
    write_csv(out / "per_class.csv", list(rows[0])[:4], [list(r.values())[:4] for r in rows])
    for new in ("per_image.csv", "calibration.csv"):
        (out / new).unlink()
    shown = project.run("stpp", "show")
    assert f"{scores['miou']:.1f}" in shown
    assert "val mIoU" in project.run("stpp", "runs", "compare", "runs/evaluation", "runs/evaluation")

    about = read_json(out / "run.json")
    write_json(out / "run.json", {key: value for key, value in about.items() if key != "unit"})
    said = project.run("stpp", "show", rc=2)
    assert "run.json: not what its stage writes (unit: Field required); rerun the stage" in said


def test_windows_and_scales_are_parameters_and_are_reported(prepared: Project, checkpoint: Path) -> None:
    (prepared.folder / "slide.yaml").write_text("evaluate: {window: 24, stride: 16, scales: [1.0, 1.5], flip: true}\n")
    output = evaluate(prepared, "--params", "params.yaml", "--params", "slide.yaml")
    said = "original resolution, windows of 24 at 16, scales 1, 1.5 and flip"
    assert said in output
    metrics = read_json(prepared.folder / "out/metrics.json")
    assert set(metrics) == {"val", "test"}
    assert read_json(prepared.folder / "out/run.json")["evaluation"] == said


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("nobody\n", "odd.txt:1: nobody is neither an id nor an image"),
        ("", "the list is empty"),
        ("toy_00001\nimages/toy_00001.png\n", "is listed twice"),
    ],
)
def test_a_list_of_images_that_cannot_be_evaluated_is_an_error(
    prepared: Project, checkpoint: Path, lines: str, message: str
) -> None:
    (prepared.folder / "odd.txt").write_text(lines)
    output = evaluate(prepared, "--ids", "odd.txt", rc=2)
    assert message in output
    assert "Traceback" not in output
    assert not (prepared.folder / "out").exists()


def test_a_checkpoint_of_another_network_is_an_error(prepared: Project, checkpoint: Path) -> None:
    model = {"backbone": "test_resnet", "network": "pspnet", "output_stride": 16}
    with (prepared.folder / "params.yaml").open("w") as file:
        YAML().dump(TINY | {"model": model}, file)
    output = evaluate(prepared, rc=2)
    assert "mine.safetensors: not a checkpoint of this network" in output


def test_a_checkpoint_with_metadata_is_evaluated_with_any_model_parameters(prepared: Project, checkpoint: Path) -> None:
    evaluate(prepared)
    about = metadata.CheckpointMetadata(MODEL, ("a", "b", "c", "d", "e", "f"), ((0, 0, 0),) * 6)
    build.save(checkpoint, build.load(MODEL, 6, checkpoint).state_dict(), about)
    with (prepared.folder / "params.yaml").open("w") as file:
        YAML().dump(TINY | {"model": {"network": "pspnet", "output_stride": 16, "precision": "bfloat16"}}, file)
    prepared.run(
        *[
            "stpp",
            "evaluate",
            "--data",
            "runs/data",
            "--split",
            "runs/split",
            "--out",
            "again",
            "--model",
            "mine=mine.safetensors",
        ]
    )
    assert read_json(prepared.folder / "again/scores.json") == read_json(prepared.folder / "out/scores.json")


def test_a_checkpoint_of_other_classes_is_an_error(prepared: Project, checkpoint: Path) -> None:
    about = metadata.CheckpointMetadata(MODEL, ("sky", "road"), ((0, 0, 0), (1, 1, 1)))
    build.save(checkpoint, build.build(MODEL, 2).state_dict(), about)
    output = evaluate(prepared, rc=2)
    assert "mine.safetensors: has 2 classes (sky, road), but the data set has 6" in output


def test_models_and_lists_with_names_that_could_be_confused_are_kept_apart(prepared: Project, checkpoint: Path) -> None:
    torch.manual_seed(1)
    build.save(prepared.folder / "other.safetensors", build.build(MODEL, 6).state_dict())
    ids = read_ids(prepared.folder / "runs/split/test.txt")
    write_ids(prepared.folder / "val.txt", ids[:2])
    write_ids(prepared.folder / "val-hard.txt", ids[2:4])
    lists = ["--ids", "val.txt", "--ids", "val-hard.txt"]
    evaluate(prepared, *lists, *["--model", "student=mine.safetensors", "--model", "hard-student=other.safetensors"])
    scores = read_json(prepared.folder / "out/scores.json")
    assert scores["val-hard"]["student"] == scores["val-hard"]["mine"]
    assert scores["val"]["hard-student"] != scores["val-hard"]["student"]


def test_a_name_given_twice_is_an_error(prepared: Project, checkpoint: Path) -> None:
    output = evaluate(prepared, "--model", "mine=other.safetensors", rc=2)
    assert "the name mine is given twice" in output


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".x", "", "a b", "a\n"])
def test_a_name_that_is_not_a_plain_file_name_is_an_error(prepared: Project, checkpoint: Path, name: str) -> None:
    output = evaluate(prepared, "--model", f"{name}=other.safetensors", rc=2)
    assert "expected NAME=PATH" in output


def test_a_list_needs_no_split(prepared: Project, checkpoint: Path) -> None:
    command = "stpp evaluate --model mine=mine.safetensors --data runs/data --out out"
    assert "no images given" in prepared.run(*command.split(), rc=2)
    write_ids(prepared.folder / "few.txt", read_ids(prepared.folder / "runs/split/test.txt")[:2])
    prepared.run(*command.split(), "--ids", "few.txt")
    assert 0 <= read_json(prepared.folder / "out/metrics.json")["few"]["mine"]["miou"] <= 100


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("label --model mine.safetensors --ids odd.txt", "odd.txt:1: nobody is neither an id nor an image"),
        ("label --model mine.safetensors --ids empty.txt", "empty.txt: the list is empty"),
        ("score --checkpoints runs", "runs: has 0 checkpoints"),
        ("score --checkpoints .", "stability needs two"),
    ],
)
def test_other_commands_name_the_input_that_they_cannot_use(
    prepared: Project, checkpoint: Path, command: str, message: str
) -> None:
    (prepared.folder / "odd.txt").write_text("nobody\n\n")
    (prepared.folder / "empty.txt").write_text("\n")
    words = f"stpp {command} --data runs/data --split runs/split --out out".split()
    output = prepared.run(*words, rc=2)
    assert message in output
    assert "Traceback" not in output
    assert not (prepared.folder / "out").exists()


def test_another_list_replaces_the_earlier_results(prepared: Project, checkpoint: Path) -> None:
    ids = read_ids(prepared.folder / "runs/split/test.txt")
    for name, part in (("a", ids[:2]), ("b", ids[2:4])):
        write_ids(prepared.folder / f"{name}.txt", part)
        evaluate(prepared, "--ids", f"{name}.txt")
        shown = {file.stem for file in (prepared.folder / "out/panels/mine").iterdir()}
        assert shown == set(part)
        assert name in read_json(prepared.folder / "out/metrics.json")


def test_pseudo_masks_are_measured_only_where_they_are_not_ignored(prepared: Project, checkpoint: Path) -> None:
    """Masks that are right at every labelled pixel have mIoU 100, also if most pixels are ignored."""
    dataset = read_dataset(prepared.folder / "runs/data")
    masks = {}
    for name in read_ids(prepared.folder / "runs/split/unlabeled.txt")[:2]:
        mask = np.array(Image.open(prepared.folder / "data/toy" / dataset.records[name].mask))
        mask[4:] = 255
        masks[name] = mask
    mask_set(prepared.folder / "pseudo", masks, dataset.palette)
    evaluate(prepared, "--masks", "some=pseudo")
    assert read_json(prepared.folder / "out/metrics.json")["pseudo"]["some"] == {"miou": 100.0, "images": 2}
    rows = read_csv(prepared.folder / "out/quality.csv", ("id", "group", "miou"))
    measured = [(row["id"], row["group"], float(row["miou"])) for row in rows]
    assert sorted(measured) == [(name, "some", 100) for name in sorted(masks)]
    rows = read_csv(prepared.folder / "out/per_class.csv", ("set", "model", "class", "iou"))
    assert [(row["set"], row["model"], row["class"]) for row in rows] == [
        (subset, "mine", label) for subset in ("val", "test") for label in dataset.classes
    ]
