"""Tests of lineage: hashes equal DVC's, records are read back as written, and the stages behind a file are found."""

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from small import BIN

from stpp.run.lineage import (
    Content,
    Execution,
    as_json,
    content_of,
    from_json,
    md5_of,
    parse_dvc_lock,
    producer_of,
    read_dvc_locks,
    upstream,
)
from stpp.store.files import StppError

NAMES = st.text("aé ,'\"-_.Z", min_size=1, max_size=6).filter(lambda name: name.strip(".") and name == name.strip())


def test_hashes_equal_those_of_dvc(tmp_path: Path) -> None:
    files = {
        "a/b.txt": b"one",
        "a/é.txt": b"two",
        "a/b/c": b"",
        "a/B": b"three",
        "a/b-1": b"four",
        "a/__pycache__/x.pyc": b"not counted",
        "a/half.partial": b"not counted",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / ".dvcignore").write_text("__pycache__\n*.partial\n")
    (tmp_path / "one").write_bytes(b"alone")
    for words in (["init", "-q", "--no-scm"], ["add", "-q", "a", "one"]):
        subprocess.run([BIN / "dvc", *words], cwd=tmp_path, check=True)
    (tmp_path / ".dvcignore").write_text("__pycache__\n*.partial\n")
    subprocess.run([BIN / "dvc", "add", "-q", "a"], cwd=tmp_path, check=True)
    for name in ("a", "one"):
        dvc = YAML(typ="safe").load(tmp_path / f"{name}.dvc")["outs"][0]["md5"]
        assert md5_of(tmp_path / name, tmp_path) == dvc


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=4), min_size=1, max_size=4), st.data())
def test_any_change_in_a_folder_changes_its_hash(tree: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(tree)))

    def hashed(files: dict[str, bytes]) -> Content:
        with TemporaryDirectory() as folder:
            (Path(folder) / "x").mkdir()
            for file, content in files.items():
                (Path(folder) / "x" / file).write_bytes(content)
            return content_of(Path(folder) / "x", Path(folder))

    first = hashed(tree)
    assert first == hashed(dict(reversed(tree.items())))
    assert first.path == "x"
    for other in (tree | {name: tree[name] + b"!"}, {f"{n}+" if n == name else n: c for n, c in tree.items()}):
        changed = hashed(other)
        assert changed.md5 != first.md5
        assert changed.sha256 != first.sha256


def execution(stage: str, deps: dict[str, str], outs: dict[str, str]) -> Execution:
    return Execution(
        stage,
        f"python -m stpp {stage}",
        tuple(Content(path, md5) for path, md5 in deps.items()),
        {"params.yaml": {"train": {"lr": 0.1, "scales": [0.5, 1]}}},
        tuple(Content(path, md5, "s" * 64) for path, md5 in outs.items()),
        run_id="r",
        commit="c",
    )


CHAIN = [
    execution("train", {"runs/split": "s", "runs/selection/reliable.txt": "r"}, {"runs/student/model": "m"}),
    execution("split", {"data": "d"}, {"runs/split": "s"}),
    execution("select", {"runs/scores.csv": "c"}, {"runs/selection": "x.dir"}),
    execution("score", {"runs/split": "s"}, {"runs/scores.csv": "c"}),
    execution("other", {"runs/split": "s"}, {"runs/elsewhere": "e"}),
]


def test_a_record_is_read_as_it_was_written() -> None:
    assert from_json(as_json(CHAIN)) == CHAIN


@pytest.mark.parametrize("raw", [None, 3, [], [1], [{}], [{"stage": "x"}], {"a": 1}, "text"])
def test_data_that_is_not_a_lineage_record_is_refused(raw: object) -> None:
    with pytest.raises(ValueError, match="not a lineage record"):
        from_json(raw)


def test_upstream_finds_exactly_the_stages_behind_a_file() -> None:
    train, *others = CHAIN
    assert [e.stage for e in upstream(train.deps, others)] == ["split", "select", "score"]
    made = producer_of("runs/selection/reliable.txt", CHAIN)
    assert made is not None
    assert made[0].stage == "select"
    assert producer_of("runs/selection_2/reliable.txt", CHAIN) is None, "a name that begins alike is another folder"


def test_a_stage_whose_output_has_changed_since_is_not_upstream() -> None:
    train, *others = CHAIN
    newer = [execution("split", {"data": "d2"}, {"runs/split": "s2"}) if e.stage == "split" else e for e in others]
    assert [e.stage for e in upstream(train.deps, newer)] == ["select", "score"]


def test_stages_read_from_a_dvc_lock_have_the_name_of_their_pipeline() -> None:
    text = "schema: '2.0'\nstages:\n  draw:\n    cmd: x\n    outs:\n    - path: data\n      md5: abc.dir\n"
    (found,) = parse_dvc_lock(text, "pipelines/toy/dvc.lock")
    assert (found.stage, found.outs) == ("pipelines/toy/dvc.yaml:draw", (Content("data", "abc.dir"),))
    assert parse_dvc_lock("", "dvc.lock") == []


def test_keys_of_parameters_are_text_as_in_a_record() -> None:
    text = "stages: {a: {cmd: x, params: {params.yaml: {data: {values: {11: x}}}}}}"
    (found,) = parse_dvc_lock(text, "dvc.lock")
    assert found.params == {"params.yaml": {"data": {"values": {"11": "x"}}}}


def test_a_stage_may_have_no_parameters_but_a_params_file_without_sections_is_refused() -> None:
    (found,) = parse_dvc_lock("stages:\n  a: {cmd: x, params: []}\n", "dvc.lock")
    assert found.params == {}
    with pytest.raises(StppError, match=r"not a dvc\.lock"):
        parse_dvc_lock("stages:\n  a: {cmd: x, params: {p: null}}\n", "dvc.lock")


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "stages: 3",
        "[" * 5000,
        "stages: " + "[" * 5000,
        "stages:\n  a: 1",
        "- 1",
        "stages:\n  a:\n    deps: [{}]",
        "\0",
    ],
)
def test_the_error_for_an_invalid_dvc_lock_has_a_remedy(text: str) -> None:
    with pytest.raises(StppError, match=r"dvc\.lock: not a dvc.lock .*git checkout"):
        parse_dvc_lock(text, "dvc.lock")


def test_all_damaged_dvc_locks_are_named_at_once(tmp_path: Path) -> None:
    for name in ("dvc.lock", "pipelines/st/dvc.lock", "pipelines/toy/dvc.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("stages: {}" if "toy" in name else "[")
    with pytest.raises(StppError, match=r"2 problem\(s\):\ndvc\.lock: .*\npipelines/st/dvc\.lock: .*git checkout"):
        read_dvc_locks(tmp_path)
