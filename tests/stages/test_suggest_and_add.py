"""From a finished run to the next one: which images to label, and what becomes of their masks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from small import TINY, Project, mask_set

from stpp.data.transforms import normalize
from stpp.deploy.task_formats import TASKS
from stpp.models import build, metadata
from stpp.params.file import load, read_yaml
from stpp.params.models import Model
from stpp.run.lineage import content_of
from stpp.store.files import read_csv, read_ids, sha256, write_csv
from stpp.store.manifest import read_dataset
from stpp.store.masks import encode_mask

MODEL = Model(backbone="test_resnet", output_stride=16)
PALETTE = tuple((c, c, c) for c in range(6))


@pytest.fixture
def scored(prepared: Project) -> Project:
    """Scores and pseudo masks as a run leaves them: every mask is the true one, and stability rises by id."""
    folder = prepared.folder
    dataset = read_dataset(folder / "runs/data")
    unlabeled = read_ids(folder / "runs/split/unlabeled.txt")
    rows = [(i, 0.5 + index / 100, 0.9) for index, i in enumerate(unlabeled)]
    write_csv(folder / "runs/score/scores.csv", ("id", "stability", "confidence"), rows)
    for which, ids in (("reliable", unlabeled[::2]), ("unreliable", unlabeled[1::2])):
        place = folder / f"runs/label_{which}/masks"
        masks = {}
        for i in ids:
            with Image.open(folder / "data/toy" / dataset.records[i].mask) as image:
                masks[i] = np.asarray(image, np.uint8)
        mask_set(place, masks, dataset.palette)
    return prepared


def test_suggestions_are_unlabelled_images_with_reasons_and_pictures(scored: Project) -> None:
    output = scored.run("stpp", "suggest", "--n", "5", "--out", "next")
    assert "5 of 12 images" in output and "look like others" not in output
    ids = read_ids(scored.folder / "next/suggested.txt")
    assert len(set(ids)) == 5 and set(ids) <= set(read_ids(scored.folder / "runs/split/unlabeled.txt"))
    rows = read_csv(scored.folder / "next/suggested.csv", ("id", "image", "stability", "worth", "classes"))
    assert [row["id"] for row in rows] == ids
    with Image.open(scored.folder / "next/suggested.png") as sheet:
        assert sheet.size[0] == 2000
    assert "already exists" in scored.run("stpp", "suggest", "--n", "5", "--out", "next", rc=2)


def test_masks_that_a_model_is_confidently_against_are_listed_with_their_classes_and_pixels(prepared: Project) -> None:
    dataset, folder = read_dataset(prepared.folder / "runs/data"), prepared.folder
    torch.manual_seed(0)
    network = build.build(MODEL, 6).eval()
    build.save(
        folder / "m.safetensors", network.state_dict(), metadata.CheckpointMetadata(MODEL, dataset.classes, PALETTE)
    )
    said = prepared.run("stpp", "suggest", "--errors", "m.safetensors", "--n", "3", "--out", "check")
    assert "check: 3 of 8 masks" in said

    pixels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    given: dict[int, list[float]] = {c: [] for c in range(6)}
    for i in read_ids(folder / "runs/split/labeled.txt"):
        record = dataset.records[i]
        image, mask = (np.asarray(Image.open(folder / "data/toy" / path)) for path in (record.image, record.mask))
        with torch.inference_mode():
            p = network(torch.from_numpy(normalize(image))[None])[0].softmax(0).double().numpy()
        pixels[i] = p[:, mask != 255].T, mask[mask != 255]
        for row, c in zip(*pixels[i], strict=True):
            given[c].append(row[c])
    found: dict[tuple[str, str, str], int] = {}
    for i, (rows, classes) in pixels.items():
        for row, c in zip(rows, classes, strict=True):
            k = int(row.argmax())
            if k != c and given[k] and row[k] >= np.mean(given[k]):
                pair = (i, dataset.classes[c], dataset.classes[k])
                found[pair] = found.get(pair, 0) + 1
    listed = read_ids(folder / "check/errors.txt")
    table = read_csv(folder / "check/errors.csv", ("id", "image", "quality", "in_mask", "by_model", "pixels"))
    got = {(row["id"], row["in_mask"], row["by_model"]): int(row["pixels"]) for row in table}
    assert got == pytest.approx({pair: n for pair, n in found.items() if pair[0] in listed}, abs=1)
    quality = [float(row["quality"]) for row in table]
    assert quality == sorted(quality)
    with Image.open(folder / "check/errors.png") as sheet:
        assert sheet.size[0] > 400
    both = prepared.run("stpp", "suggest", "--errors", "m.safetensors", "--as", "coco", "--out", "again", rc=2)
    assert "leave it out with --errors" in both and not (folder / "again").exists()
    build.save(
        folder / "m.safetensors", network.state_dict(), metadata.CheckpointMetadata(MODEL, tuple("abcdef"), PALETTE)
    )
    refused = prepared.run("stpp", "suggest", "--errors", "m.safetensors", "--out", "again", rc=2)
    assert "m.safetensors: has other classes (a, b, c, d, e, f) than the data set tiny" in refused
    assert not (folder / "again").exists()


@pytest.mark.parametrize("tool", TASKS)
def test_suggestions_are_a_task_for_a_tool_least_certain_first_with_reasons(tool: str, scored: Project) -> None:
    said = scored.run("stpp", "suggest", "--n", "3", "--out", "next", "--as", tool, "--smallest", "1")
    folder = scored.folder / "next"
    assert "stpp label add EXPORT --task next --name second" in said and "{" not in said.partition("next:")[2]
    task = json.loads((folder / "task.json").read_text())
    ids = read_ids(folder / "suggested.txt")
    assert [one["id"] for one in task["images"]] == ids and task["tool"] == tool
    assert [one["name"] for one in task["images"]] == [f"{n}-{i}.png" for n, i in enumerate(ids, 1)]
    for one in task["images"]:
        source = scored.folder / f"data/toy/images/{one['id']}.png"
        assert (folder / "images" / one["name"]).read_bytes() == source.read_bytes()
        files = [path for path in folder.rglob("*") if path.suffix in (".json", ".xml") and path.name != "task.json"]
        assert sum(one["reason"] in path.read_text() for path in files) == 1
    assert "not one of" in scored.run("stpp", "suggest", "--out", "other", "--as", "paint", rc=2)


def test_an_image_like_a_labelled_one_is_not_suggested(scored: Project) -> None:
    first = "stpp", "suggest", "--n", "1", "--out"
    scored.run(*first, "one")
    best = read_ids(scored.folder / "one/suggested.txt")[0]
    records = read_dataset(scored.folder / "runs/data").records
    labeled = read_ids(scored.folder / "runs/split/labeled.txt")[0]
    with Image.open(scored.folder / "data/toy" / records[best].image) as image:
        copy = image.convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    copy.save(scored.folder / "data/toy" / records[labeled].image)
    scored.run(*first, "two")
    assert read_ids(scored.folder / "two/suggested.txt") != [best]


def test_scores_without_masks_are_said(scored: Project) -> None:
    output = scored.run("stpp", "suggest", "--out", "next", "--masks", "runs/label_reliable/masks", rc=2)
    missing = [line for line in output.splitlines() if "no mask in runs/label_reliable/masks" in line]
    assert "6 problem(s)" in output and len(missing) == 3 and "and 3 more like these" in output
    assert not (scored.folder / "next").exists()


@pytest.fixture
def drawn(scored: Project) -> tuple[Project, list[str]]:
    """A data set in which two unlabelled images have no masks, and the folder `new` with masks for them."""
    folder = scored.folder
    ids = read_ids(folder / "runs/split/unlabeled.txt")[:2]
    for i in ids:
        source = folder / f"data/toy/masks/{i}.png"
        target = folder / f"new/{i}.png"
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
    scored.run("stpp", "prepare", "--out", "runs/data")
    scored.run("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split")
    assert set(ids) <= set(read_ids(folder / "runs/split/unlabeled.txt"))
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text("# a person's words\n" + text)
    return scored, ids


def add(project: Project, *words: str, rc: int = 0) -> str:
    output = project.run("stpp", "label", "add", *words, rc=rc)
    assert "Traceback" not in output
    return output


def test_new_masks_make_a_split_with_a_parent_that_the_next_run_uses(drawn: tuple[Project, list[str]]) -> None:
    project, ids = drawn
    folder = project.folder
    before = {n: read_ids(folder / f"runs/split/{n}.txt") for n in ("labeled", "unlabeled", "val", "test")}
    output = add(project, "new", "--name", "second")
    assert "2 more labelled images than tiny, 10 in all" in output
    parent = json.loads((folder / "splits/second/parent.json").read_text())
    assert parent["parent"] == "tiny" and set(parent["added"]) == set(ids)
    assert (folder / "params.yaml").read_text().startswith("# a person's words\n")
    params = load([folder / "params.yaml"])
    assert params.split.name == "second" and params.train.epochs == TINY["train"]["epochs"]

    project.run("stpp", "prepare", "--out", "runs/data")
    project.run("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split")
    after = {n: read_ids(folder / f"runs/split/{n}.txt") for n in before}
    assert after["labeled"] == sorted([*before["labeled"], *ids])
    assert after["unlabeled"] == [i for i in before["unlabeled"] if i not in ids]
    assert after["val"] == before["val"] and after["test"] == before["test"]
    for i in ids:
        assert (folder / f"data/toy/masks/{i}.png").read_bytes() == (folder / f"new/{i}.png").read_bytes()
    assert "another split already" in add(project, "new", "--name", "second", rc=2)


def test_what_was_interrupted_goes_on_and_another_split_stays(drawn: tuple[Project, list[str]]) -> None:
    project, ids = drawn
    params = (project.folder / "params.yaml").read_text()
    add(project, "new", "--name", "second")
    (project.folder / "params.yaml").write_text(params)  # a kill before the last file was written
    add(project, "new", "--name", "second")
    (project.folder / "params.yaml").write_text(params)
    (project.folder / f"new/{ids[0]}.png").unlink()
    lists = (project.folder / "splits/second/labeled.txt").read_text()
    assert "another split already" in add(project, "new", "--name", "second", rc=2)
    assert (project.folder / "splits/second/labeled.txt").read_text() == lists
    assert (project.folder / "params.yaml").read_text() == params


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(drawn: tuple[Project, list[str]]) -> None:
    project, ids = drawn
    folder: Path = project.folder
    labeled = read_ids(folder / "runs/split/labeled.txt")[0]
    (folder / "new" / f"{labeled}.png").write_bytes((folder / "new" / f"{ids[0]}.png").read_bytes())
    (folder / "new/nobody.png").write_bytes((folder / "new" / f"{ids[0]}.png").read_bytes())
    (folder / "new/photo.jpg").write_bytes(b"")
    Image.fromarray(np.full((5, 5), 1, np.uint8)).save(folder / "new" / f"{ids[1]}.png")
    third = read_ids(folder / "runs/split/unlabeled.txt")[-1]
    (folder / f"data/toy/masks/{third}.png").unlink()
    Image.fromarray(np.full((32, 32), 77, np.uint8)).save(folder / "new" / f"{third}.png")
    params = (folder / "params.yaml").read_text()
    output = add(project, "new", "--name", "second", rc=2)
    for words in ("is not in D_u", "nobody is not an image", "not a PNG", "5 x 5 pixels", "value 77 is not a class"):
        assert words in output
    assert not (folder / "splits/second").exists() and (folder / "params.yaml").read_text() == params
    assert not (folder / f"data/toy/masks/{ids[0]}.png").exists()


def test_another_mask_of_an_image_is_not_replaced(scored: Project) -> None:
    i = read_ids(scored.folder / "runs/split/unlabeled.txt")[0]
    there = scored.folder / f"data/toy/masks/{i}.png"
    before = there.read_bytes()
    (scored.folder / "new").mkdir()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(scored.folder / f"new/{i}.png")
    assert "already has a different mask" in add(scored, "new", "--name", "second", rc=2)
    assert there.read_bytes() == before


@pytest.mark.parametrize("words", [("gone", "--name", "x"), ("empty", "--name", "x"), ("empty", "--name", "../x")])
def test_wrong_words_are_said(scored: Project, words: tuple[str, ...]) -> None:
    (scored.folder / "empty").mkdir()
    assert "error:" in add(scored, *words, rc=2)


@pytest.fixture
def shifted(drawn: tuple[Project, list[str]]) -> tuple[Project, list[str]]:
    """The same where masks of the data set hold another number for every class: 1 is class 2, 2 is class 1."""
    project, ids = drawn
    for path in (project.folder / "data/toy/masks").glob("*.png"):
        Image.fromarray(raw(path)).save(path)
    classes = list(read_dataset(project.folder / "runs/data").classes)
    described = {"images": "images/{name}.png", "masks": "masks/{name}.png", "classes": classes}
    project.params(data={"kind": "folder", "values": {1: 2, 2: 1}, **described}, split={"labeled": {"count": 6}})
    project.run("stpp", "prepare", "--out", "runs/data")
    project.run("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split")
    return project, [i for i in ids if i in read_ids(project.folder / "runs/split/unlabeled.txt")]


def raw(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_corrected_prediction_gets_the_values_of_the_data_set(shifted: tuple[Project, list[str]]) -> None:
    project, ids = shifted
    dataset = read_dataset(project.folder / "runs/data")
    classes = np.array([[0, 1, 2, 1]] * 32, np.uint8).repeat(8, 1)
    for i in ids:
        (project.folder / f"new/{i}.png").write_bytes(encode_mask(classes, dataset.palette))
    for left in set((project.folder / "new").iterdir()) - {project.folder / f"new/{i}.png" for i in ids}:
        left.unlink()
    assert f"{len(ids)} of {len(ids)} masks hold class ids" in add(project, "new", "--name", "second")
    for i in ids:
        written = raw(project.folder / f"data/toy/masks/{i}.png")
        assert (written == np.array([[0, 2, 1, 2]] * 32, np.uint8).repeat(8, 1)).all()
    added = json.loads((project.folder / "splits/second/parent.json").read_text())["added"]
    assert added == {i: sha256(project.folder / f"data/toy/masks/{i}.png") for i in ids}


def test_a_mask_that_may_be_read_in_two_ways_is_asked_about(shifted: tuple[Project, list[str]]) -> None:
    project, ids = shifted
    grey = np.array([[0, 1, 2, 1]] * 32, np.uint8).repeat(8, 1)
    for path in (project.folder / "new").iterdir():
        path.unlink()
    Image.fromarray(grey).save(project.folder / f"new/{ids[0]}.png")
    output = add(project, "new", "--name", "second", rc=2)
    assert "could hold class ids" in output and "`--as classes`" in output
    assert not (project.folder / "splits/second").exists()
    add(project, "new", "--name", "second", "--as", "values")
    assert (raw(project.folder / f"data/toy/masks/{ids[0]}.png") == grey).all()


def test_a_data_set_whose_masks_are_no_pngs_gets_none(drawn: tuple[Project, list[str]]) -> None:
    project, ids = drawn
    for path in (project.folder / "data/toy/masks").glob("*.png"):
        Image.fromarray(raw(path)).save(path.with_suffix(".bmp"))
        path.unlink()
    classes = list(read_dataset(project.folder / "runs/data").classes)
    described = {"images": "images/{name}.png", "masks": "masks/{name}.bmp", "classes": classes}
    project.params(data={"kind": "folder", **described}, split={"labeled": {"count": 6}})
    project.run("stpp", "prepare", "--out", "runs/data")
    project.run("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split")
    output = add(project, "new", "--name", "second", rc=2)
    assert f"masks/{ids[0]}.bmp, but masks are written as PNG only" in output
    assert not (project.folder / f"data/toy/masks/{ids[0]}.bmp").exists()


def exported(folder: Path, tool: str) -> Path:
    """Return the export of a task that a person corrected: the first image's largest region has another class."""
    if tool == "coco":
        path = folder / "instances.json"
        whole = json.loads(path.read_text())
        whole["annotations"][0]["category_id"] = 1 + whole["annotations"][0]["category_id"] % 4
        path.write_text(json.dumps(whole))
    elif tool == "cvat":
        path = folder / "annotations.xml"
        people = (
            "<task><id>7</id><owner><username>owner</username></owner><assignee><username>anna</username></assignee>"
        )
        text = path.read_text().replace("<task>", people, 1)
        first, _, rest = text.partition('<polygon label="')
        label, _, rest = rest.partition('"')
        path.write_text(f'{first}<polygon label="{"disk" if label != "disk" else "box"}"{rest}')
    elif tool == "label-studio":
        path = folder / "tasks.json"
        whole = json.loads(path.read_text())
        result = whole[0]["predictions"][0]["result"]
        kind = result[0]["type"]
        result[0]["value"][kind] = ["disk" if result[0]["value"][kind] != ["disk"] else "box"]
        people = [{"id": 5, "email": "anna@example.org"}, 5, None]
        by = [{**one["predictions"][0], "completed_by": who} for one, who in zip(whole, people, strict=True)]
        done = [{"id": n, **one, "annotations": [{"id": n, **by[n]}]} for n, one in enumerate(whole)]
        path.write_text(json.dumps(done))
    else:
        path = folder / "images"
        first = min(path.glob("*.json"))
        whole = json.loads(first.read_text())
        whole["shapes"][0]["label"] = "disk" if whole["shapes"][0]["label"] != "disk" else "box"
        first.write_text(json.dumps(whole))
    return path


AUTHORS = {
    "coco": [None] * 3,
    "cvat": ["anna"] * 3,
    "label-studio": ["anna@example.org", "user 5", None],
    "labelme": [None] * 3,
}
"""Who annotated the three images of `exported`, where the export says it."""


@pytest.mark.parametrize("tool", TASKS)
def test_a_corrected_task_comes_back_as_a_split_and_says_what_was_changed(tool: str, scored: Project) -> None:
    folder = scored.folder
    scored.run("stpp", "suggest", "--n", "3", "--out", "next", "--as", tool, "--tolerance", "0", "--smallest", "1")
    ids = read_ids(folder / "next/suggested.txt")
    there = {i: folder / f"data/toy/masks/{i}.png" for i in ids}
    before = {i: raw(path) for i, path in there.items()}
    for path in there.values():
        path.unlink()
    export = exported(folder / "next", tool).relative_to(folder)
    said = add(scored, str(export), "--name", "second", "--task", "next")
    assert "3 more labelled images than tiny" in said
    assert f"most changed: {ids[0]} (" in said and "2 masks equal their proposals" in said and "IoU" in said
    assert {*ids} <= {*read_ids(folder / "splits/second/labeled.txt")}
    kept = json.loads((folder / "splits/second/parent.json").read_text())
    assert [i for i in ids if kept["as_proposed"][i] < 1] == [ids[0]]
    assert [i for i in ids if min(kept["iou_by_image"][i].values()) < 1] == [ids[0]]
    assert [kept["annotated_by"].get(i) for i in ids] == AUTHORS[tool]
    assert said.count("no author") == (None in AUTHORS[tool])
    for i, path in there.items():
        mask = np.where(before[i] == 255, 0, before[i])
        assert np.array_equal(raw(path), mask) == (i != ids[0])


def locked(project: Project) -> None:
    """Write a dvc.lock in which data and split led to a model, as DVC does."""
    model = project.folder / "runs/m/model.safetensors"
    model.parent.mkdir(exist_ok=True)
    model.write_text("weights")
    data, lists, made = (
        {"path": name, "md5": content_of(project.folder / name, project.folder).md5}
        for name in ("runs/data", "runs/split", "runs/m/model.safetensors")
    )
    sections = read_yaml(project.folder / "params.yaml")
    params = {"params.yaml": {name: sections[name] for name in ("data", "split")}}
    stages = {
        "prepare": {"cmd": "python -m stpp prepare", "outs": [data]},
        "split": {"cmd": "python -m stpp split", "deps": [data], "outs": [lists], "params": params},
        "train": {"cmd": "python -m stpp fit", "deps": [data, lists], "outs": [made]},
    }
    with (project.folder / "dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": stages}, file)


def test_the_audit_shows_who_corrected_the_masks_of_a_split_and_how_far(scored: Project) -> None:
    folder = scored.folder
    scored.run("stpp", "suggest", "--n", "3", "--out", "next", "--as", "label-studio", "--tolerance", "0")
    ids = read_ids(folder / "next/suggested.txt")
    for i in ids:
        (folder / f"data/toy/masks/{i}.png").unlink()
    export = exported(folder / "next", "label-studio").relative_to(folder)
    scored.params(split={"labeled": {"count": 5}})  # so that it is drawn while these masks are away
    remade = (
        ("stpp", "prepare", "--out", "runs/data"),
        ("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split"),
    )
    for step in remade:
        scored.run(*step)
    add(scored, str(export), "--name", "second", "--task", "next")
    for step in remade:
        scored.run(*step)
    locked(scored)
    said = scored.run("stpp", "audit", "--offline", "--out", "audit")
    lines = [line.strip() for line in said.partition("added masks:\n")[2].splitlines()]
    assert lines[0] == "split second: 3 masks that tiny does not have"
    assert lines[1:3] == ["annotated by anna@example.org (1), user 5 (1)", "1 of 3 masks have no author in the export"]
    assert lines[3].startswith("IoU (%) of proposals and new masks: ") and f"most changed: {ids[0]} (" in lines[4]
    assert all("anna@example.org (1)" in (folder / f"audit/audit.{ending}").read_text() for ending in ("json", "html"))
    Image.fromarray(1 - raw(there := folder / f"data/toy/masks/{ids[0]}.png").clip(0, 1)).save(there)
    scored.run(*remade[0])
    locked(scored)
    said = scored.run("stpp", "audit", "--offline")
    assert f"does not have; 1 of them are other masks today, such as {ids[0]}" in said


def test_what_is_wrong_with_an_export_is_said(scored: Project) -> None:
    scored.run("stpp", "suggest", "--n", "2", "--out", "next", "--as", "coco")
    words = "next/instances.json", "--name", "second"
    assert "no such folder" in add(scored, *words, rc=2)
    assert "give its task with --task" in add(scored, "next", "--name", "second", "--as", "coco", rc=2)
    assert "not as the tool writes it" in add(scored, "next/task.json", "--name", "second", "--task", "next", rc=2)
    (scored.folder / "x.zip").write_bytes(b"")
    assert "unpack it" in add(scored, "x.zip", "--name", "second", "--task", "next", rc=2)
    ids = read_ids(scored.folder / "next/suggested.txt")
    said = add(scored, *words, "--task", "next", rc=2)
    assert f"next/instances.json/{ids[0]}.png: {ids[0]} already has a different mask" in said
    task = json.loads((scored.folder / "next/task.json").read_text())
    for changed, what in (({"classes": ["a"]}, "written for the classes a"), ({"images": [{}]}, "images.0.name")):
        (scored.folder / "next/task.json").write_text(json.dumps(task | changed))
        assert what in add(scored, *words, "--task", "next", rc=2)
    assert not (scored.folder / "splits/second").exists()
