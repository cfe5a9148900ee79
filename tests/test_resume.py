"""What a stage's work is found again by; with real kills in stages/test_resume_kills.py."""

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
    """The job of a stage that reads the file `source` and, if asked, finds it changed at its end; None: it was done."""
    outs = {name: Path("out", name) for name in OUTS}
    with open_job("one", module="stpp.stages.select", sections={}, inputs=[Path(source)], outs=outs) as job:
        if job.finished:
            return None
        if then is not None:
            Path(source).write_text(then)
        for name in OUTS:
            (job.folder / name).write_text("{}")
    return job


def test_a_job_knows_its_inputs_as_they_were_when_it_began() -> None:
    Path("in").write_text("before")
    before = content_of(Path("in"), Path())
    job = done("in", then="after")
    assert job and job.inputs == (before,)
    assert content_of(Path("in"), Path()) != before


def test_another_content_is_another_job_and_another_name_is_not() -> None:
    for name, text in {"a": "one", "b": "two", "c": "one"}.items():
        Path(name).write_text(text)
    assert done("a") and done("b")
    assert done("c") is None, "that of `a` is put back"


def test_recorded_work_is_done_anew_but_not_where_a_kill_has_cut_the_record() -> None:
    """DVC asks for work that dvc.lock records only if a person does (`repro -f`)."""
    Path("in").write_text("one")
    assert done("in")
    entry = "".join(f"    - path: out/{name}\n      md5: 99914b932bd37a50b983c5e7c90ae93b\n" for name in OUTS)
    Path("dvc.lock").write_text(entry.partition("    - path: out/scores.csv")[0])
    assert done("in") is None, "is put back"
    Path("dvc.lock").write_text(entry)
    assert done("in")
