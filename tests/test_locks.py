"""Tests that dvc.lock survives a kill at any byte, and that a user's own changes of it stay."""

import json
import subprocess
from pathlib import Path

import pytest

from stpp.run.locks import damaged, repair
from stpp.store.files import StppError

HEAD = "schema: '2.0'\nstages:\n"
PARAMS = "    params:\n      params.yaml:\n        train:\n          images: 'a\n            b'\n          lr:\n"


def entry(name: str, md5: str = "aaa") -> str:
    """Return an entry of dvc.lock as DVC writes it."""
    one = "    - path: runs/{}\n      hash: md5\n      md5: {}\n      size: 12\n"
    cmd = f"    cmd: python -m stpp {name} --data\n      runs/data\n"
    return f"  {name}:\n{cmd}    deps:\n{one.format('in', 'ccc')}{PARAMS}    outs:\n{one.format(name, md5)}"


WHOLE = HEAD + entry("prepare") + entry("report")
NEXT = {
    "evaluate": WHOLE + entry("evaluate"),
    "prepare": HEAD + entry("prepare", "bbb") + entry("report"),
    "report": HEAD + entry("prepare") + entry("report", "bbb"),
}
"""The content that DVC writes after a stage has run, by stage."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a project with a dvc.lock and a kept copy of it."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    stages = {name: {"cmd": "x"} for name in ("prepare", "report", "evaluate")}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (tmp_path / "dvc.lock").write_text(WHOLE)
    assert repair(tmp_path) == []
    return tmp_path


def commit(root: Path) -> None:
    for words in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "a commit"]):
        subprocess.run(["git", *words], cwd=root, check=True)


@pytest.mark.parametrize("stage", NEXT)
def test_a_lock_cut_at_any_byte_is_restored_or_loses_only_the_last_stage(root: Path, stage: str) -> None:
    """DVC accepts every lock that is not restored."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from ruamel.yaml import YAML

    lock, kept, whole = root / "dvc.lock", root / ".stpp/locks/dvc.lock", NEXT[stage]
    expected = YAML(typ="safe").load(whole)["stages"]
    lines = [at for at, character in enumerate(whole) if character == "\n"]
    for end in sorted({*range(0, len(whole), 9), *lines, *(at + 1 for at in lines[:-1])}):
        lock.write_text(whole[:end])
        if said := repair(root):
            assert lock.read_text() == WHOLE, end
            assert said[0].startswith("dvc.lock: ")
            assert kept.with_name("damaged.lock").read_text() == whole[:end]
        else:
            found = COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(lock))["stages"]
            assert {**found, stage: 0} == {**expected, stage: 0}, end
            kept.write_text(WHOLE)


@pytest.mark.parametrize("text", ["", "null", "schema: '2.0'\n", "[", "\0", "- 1"])
def test_without_a_kept_lock_the_committed_one_is_restored_and_without_both_it_is_removed(
    root: Path, text: str
) -> None:
    commit(root)
    (root / ".stpp/locks/dvc.lock").unlink()
    (root / "dvc.lock").write_text(text)
    assert "restored the committed version" in repair(root)[0]
    assert (root / "dvc.lock").read_text() == WHOLE
    subprocess.run(["git", "update-ref", "-d", "HEAD"], cwd=root, check=True)
    (root / ".stpp/locks/dvc.lock").unlink()
    (root / "dvc.lock").write_text(text)
    assert "removed it" in repair(root)[0]
    assert not (root / "dvc.lock").exists()


def test_the_lock_of_every_pipeline_is_kept(root: Path) -> None:
    lock = root / "pipelines/st/dvc.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text(WHOLE)
    assert repair(root) == []
    lock.write_text("")
    assert "pipelines/st/dvc.lock: is empty" in repair(root)[0]
    assert lock.read_text() == WHOLE


def test_a_shorter_lock_that_the_user_made_stays(root: Path) -> None:
    """The lock is of an older commit, or lacks a stage that is no longer in dvc.yaml."""
    lock, shorter = root / "dvc.lock", HEAD + entry("prepare")
    lock.write_text(shorter)
    assert damaged(root)
    commit(root)
    lock.write_text(WHOLE)
    repair(root)
    commit(root)
    lock.write_text(shorter)
    assert not damaged(root) and repair(root) == []
    assert (root / ".stpp/locks/dvc.lock").read_text() == shorter, "from now on it is the one that counts"

    without = HEAD + entry("prepare")
    lock.write_text(without + entry("report"))
    repair(root)
    lock.write_text(without + "# by hand\n")
    assert damaged(root)
    (root / "dvc.yaml").write_text('{"stages": {"prepare": {"cmd": "x"}}}')
    assert not damaged(root)


def test_a_lock_with_merge_conflicts_is_left_to_the_user(root: Path) -> None:
    text = f"{HEAD}<<<<<<< HEAD\n{entry('prepare')}=======\n{entry('prepare', 'b')}>>>>>>> other\n"
    (root / "dvc.lock").write_text(text)
    with pytest.raises(StppError, match=r"has merge conflicts; keep one version: `git checkout --ours dvc\.lock`"):
        repair(root)
    assert (root / "dvc.lock").read_text() == text
    for name, other in (("st", text), ("toy", "")):
        (root / f"pipelines/{name}").mkdir(parents=True)
        (root / f"pipelines/{name}/dvc.lock").write_text(other)
    with pytest.raises(StppError, match=r"3 problem(?s:.*)\n.*/st/dvc\.lock: has m.*\n.*/toy/dvc\.lock: is empty"):
        damaged(root)


@pytest.mark.parametrize("text", ["", '{"read": {', "\0"])
def test_a_damaged_rwlock_of_dvc_is_removed(root: Path, text: str) -> None:
    (root / ".dvc/tmp").mkdir(parents=True)
    (root / ".dvc/tmp/rwlock").write_text(text)
    assert ".dvc/tmp/rwlock: was damaged" in repair(root)[0]
    assert not (root / ".dvc/tmp/rwlock").exists()
    (root / ".dvc/tmp/rwlock").write_text("{}")
    assert repair(root) == []
