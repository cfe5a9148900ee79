"""Tests of how a stage finds its earlier work. stages/test_resume_kills.py tests this with real kills."""

from pathlib import Path

import pytest

from stpp.run.lineage import content_of
from stpp.run.resume import Job, open_job

OUTS = ("run.json", "scores.csv")


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DVC_ROOT", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def done(source: str, *, then: str | None = None) -> Job | None:
    """Run a stage that reads the file `source`. Return its job, or None if the work was already done.

    then: if given, the file gets this content before the stage ends.
    """
    outs = {name: Path("out", name) for name in OUTS}
    with open_job("one", module="stpp.stages.select", sections={}, inputs=[Path(source)], outs=outs) as job:
        if job.finished:
            return None
        if then is not None:
            Path(source).write_text(then)
        for name in OUTS:
            (job.folder / name).write_text("{}")
    return job


def test_a_job_records_its_inputs_as_they_were_at_the_start() -> None:
    Path("in").write_text("before")
    before = content_of(Path("in"), Path())
    job = done("in", then="after")
    assert job and job.inputs == (before,)
    assert content_of(Path("in"), Path()) != before


def test_a_job_depends_on_the_content_of_its_inputs_not_on_their_names() -> None:
    for name, text in {"a": "one", "b": "two", "c": "one"}.items():
        Path(name).write_text(text)
    assert done("a") and done("b")
    assert done("c") is None, "that of `a` is put back"


def test_work_is_repeated_only_if_dvc_lock_records_it_completely() -> None:
    """If dvc.lock records the work, DVC only runs the stage when the user asks for it (`dvc repro -f`)."""
    Path("in").write_text("one")
    assert done("in")
    entry = "".join(f"    - path: out/{name}\n      md5: 99914b932bd37a50b983c5e7c90ae93b\n" for name in OUTS)
    Path("dvc.lock").write_text(entry.partition("    - path: out/scores.csv")[0])
    assert done("in") is None, "is put back"
    Path("dvc.lock").write_text(entry)
    assert done("in")
