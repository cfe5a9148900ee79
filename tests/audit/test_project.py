"""What a project holds is found where it is: in place, in git, under whatever name; nothing else is taken for it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from small import Project as Small

from stpp.audit.history import contents_of_name
from stpp.audit.project import ABSENT, CHANGED, VERIFIED, Project, sources
from stpp.audit.trace import RECORDED, _differing
from stpp.run.code import PACKAGE, imports
from stpp.run.lineage import Content, content_of
from stpp.store.files import StppError, write_text


def commit(folder: Path) -> None:
    for words in (["add", "-A", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "a commit"]):
        subprocess.run(["git", *words], cwd=folder, check=True)


@pytest.fixture(params=["", "packages/proj"], ids=["at the top", "in a folder of a larger repository"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / request.param).mkdir(parents=True, exist_ok=True)
    return tmp_path / request.param


def test_a_former_version_is_found_in_git_under_any_name(root: Path) -> None:
    folder, names = root / "runs/split", ("plain.txt", "é ü.txt", "a[1].txt", "*.txt")
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"one {name}\n")
    then = content_of(folder, root), *(content_of(folder / name, root) for name in names)
    commit(root)
    for name in names:
        (folder / name).write_text(f"two {name}\n")
    commit(root)
    project = Project(root)
    for content in then:
        verdict, where = project.check(content, today=False)
        assert verdict == VERIFIED
        assert where.startswith("in git at ")
        assert project.check(content, today=True)[0] == CHANGED
    never = Content("runs/split", "0" * 32 + ".dir")
    assert project.check(never, today=False)[0] == ABSENT


def test_a_file_of_equal_md5_and_another_sha256_is_another_file(root: Path) -> None:
    (root / "model").write_text("weights")
    content = content_of(root / "model", root)
    assert Project(root).check(content, today=True)[0] == VERIFIED
    collided = Content(content.path, content.md5, "0" * 64)
    assert Project(root).check(collided, today=True)[0] == CHANGED


def test_a_splits_name_is_that_of_its_data_set(root: Path) -> None:
    (root / "runs/split").mkdir(parents=True)
    for data, text in (("a", "one"), ("b", "two"), ("a", "three")):
        (root / "params.yaml").write_text(f"data: {{name: {data}}}\nsplit: {{name: half}}\n")
        (root / "runs/split/manifest.csv").write_text(text)
        commit(root)
    assert len(contents_of_name(Project(root), "a", "half")) == 2
    assert len(contents_of_name(Project(root), "b", "half")) == 1
    assert contents_of_name(Project(root), "b", "whole") == {}


def test_all_damaged_dvc_locks_are_named_at_once(project: Small) -> None:
    for name in ("dvc.lock", "pipelines/st/dvc.lock"):
        (project.folder / name).write_text("")
    said = project.run("stpp", "audit", "--offline", rc=2)
    assert "2 problem(s)" in said and "Traceback" not in said
    assert f"\n{project.folder}/dvc.lock: is empty" in said
    assert f"\n{project.folder}/pipelines/st/dvc.lock: is empty" in said


def test_damaged_dvc_locks_in_git_hide_no_whole_one_and_are_named_if_there_is_none(root: Path) -> None:
    model = Content("model", "a" * 32)
    (root / "pipelines/st").mkdir(parents=True)
    for name in ("dvc.lock", "pipelines/st/dvc.lock"):
        (root / name).write_text(f"stages: [{model.md5}")
    commit(root)
    (root / "dvc.lock").write_text("stages: {}")
    (root / "pipelines/st/dvc.lock").write_text("stages: {}")
    commit(root)
    with pytest.raises(StppError, match=r"2 problem(?s:.*)\ndvc\.lock of commit \w{12}: .*\n.*/st/dvc\.lock of com"):
        list(sources(Project(root), model, lambda content: None))
    (root / "dvc.lock").write_text(f"stages: {{train: {{cmd: x, outs: [{{path: model, md5: {model.md5}}}]}}}}")
    commit(root)
    (root / "dvc.lock").write_text("stages: {}")
    assert next(sources(Project(root), model, lambda content: None)).executions[0].stage == "train"


@pytest.mark.parametrize(
    ("watched", "other", "differing"),
    [
        ({"train": {"lr": 1}}, {"train": {"lr": 1}, "label": {"flip": True}}, []),
        ({"train": {"lr": 1}}, {"train": {"lr": 2}}, [("train.lr", 1, 2)]),
        ({"train": {"lr": 1}}, {"train": {"lr": 1, "keep": "last"}}, [("train.keep", None, "last")]),
        ({"train": {"lr": 1, "keep": "last"}}, {"train": {"lr": 1}}, [("train.keep", "last", None)]),
        ({"augment": {"labeled": None}}, {"augment": {"labeled": {"blur": 1}}}, [("augment.labeled.blur", None, 1)]),
        ({"evaluate.batch_size": 4}, {"evaluate": {"batch_size": 4, "flip": True}}, []),
        ({"evaluate.batch_size": 4}, {"evaluate": {"batch_size": 8}}, [("evaluate.batch_size", 4, 8)]),
        ({"train": {"lr": 1}}, {}, [("train.lr", 1, None)]),
        ({"train": {"lr": 1}}, {"train": 3}, [("train.lr", 1, None), ("train", None, 3)]),
    ],
)
def test_parameters_differ_both_ways(watched: dict, other: dict, differing: list) -> None:
    assert _differing(watched, other) == differing


def test_the_commands_that_keep_a_record_are_those_of_tracked_stages() -> None:
    tracked = {
        path.stem.replace("_", "-")
        for path in (PACKAGE / "stages").glob("*.py")
        if "stpp.stages.stage" in imports(f"stpp.stages.{path.stem}")
    }
    assert tracked - {"training"} == set(RECORDED)


def test_a_damaged_file_in_dvcs_cache_counts_as_absent(root: Path) -> None:
    folder = root / "runs/out"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).write_text(f"content of {name}")
    content = content_of(folder, root)
    parts = [{"md5": content_of(folder / name, root).md5, "relpath": name} for name in ("a", "b")]
    listing = json.dumps(parts, sort_keys=True)
    shutil.rmtree(folder)
    cache = Project(root).cache_dir
    kept = {content.md5: listing} | {part["md5"]: f"content of {part['relpath']}" for part in parts}
    places = {md5: cache / md5[:2] / md5[2:] for md5 in kept}
    for md5, text in kept.items():
        write_text(places[md5], text)

    def verdict() -> str:
        project = Project(root)
        project.cache_dir = cache  # asking dvc takes a second
        return project.check(content, today=False)[0]

    assert verdict() == VERIFIED
    for md5, text in kept.items():
        for damaged in (f"{text}!", "", None):
            places[md5].unlink() if damaged is None else write_text(places[md5], damaged)
            assert verdict() == ABSENT, (md5, damaged)
        write_text(places[md5], text)
    assert verdict() == VERIFIED
