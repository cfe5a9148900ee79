"""Tests of how a stage finds its earlier work. stages/test_resume_kills.py tests this with real kills."""

from multiprocessing import get_context
from pathlib import Path

import pytest

from stpp.run.lineage import content_of
from stpp.run.resume import Job, open_job
from stpp.store.files import StppError

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


def key_of(module: str, sections: dict[str, object]) -> str:
    """Run a job that reads the file `in`. Return its key."""
    outs = {name: Path("out", name) for name in OUTS}
    with open_job("one", module=module, sections=sections, inputs=[Path("in")], outs=outs) as job:
        for name in OUTS:
            (job.folder / name).write_text("{}")
    return job.key


def test_a_jobs_key_covers_parameters_and_code() -> None:
    Path("in").write_text("one")
    made = [
        (module, {"select": {"ratio": ratio}})
        for module in ("stpp.stages.select", "stpp.stages.score")
        for ratio in (0.5, 0.6)
    ]
    keys = [key_of(*of) for of in made]
    assert len(set(keys)) == 4
    assert [key_of(*of) for of in made] == keys


def test_a_job_with_other_parameters_is_refused_while_one_runs() -> None:
    Path("in").write_text("one")
    context = get_context("fork")
    begun, go_on = context.Event(), context.Event()

    def other() -> None:
        outs = {name: Path("out", name) for name in OUTS}
        with open_job("one", module="stpp.stages.select", sections={"a": 1}, inputs=[Path("in")], outs=outs) as job:
            for name in OUTS:
                (job.folder / name).write_text("{}")
            begun.set()
            go_on.wait(30)

    process = context.Process(target=other)
    process.start()
    try:
        assert begun.wait(120)
        with pytest.raises(StppError, match=f"process {process.pid} is still running this stage with other"):
            key_of("stpp.stages.select", {"a": 2})
    finally:
        go_on.set()
        process.join(60)
    assert process.exitcode == 0
    assert key_of("stpp.stages.select", {"a": 2})


def test_a_persons_files_in_the_outs_are_kept() -> None:
    Path("in").write_text("one")
    Path("out/masks").mkdir(parents=True)
    Path("out/masks/mine.png").write_text("work of days")

    def run() -> None:
        outs = {name: Path("out", name) for name in ("masks", "run.json")}
        with open_job("one", module="stpp.stages.select", sections={}, inputs=[Path("in")], outs=outs) as job:
            (job.folder / "run.json").write_text("{}")
            (job.folder / "masks").mkdir(exist_ok=True)
            (job.folder / "masks/a.png").write_text("mask")

    with pytest.raises(StppError, match=r"out/masks: contains mine\.png, which would be lost"):
        run()
    assert Path("out/masks/mine.png").read_text() == "work of days"
    Path("out/masks/mine.png").rename("mine.png")
    run()
    assert [path.name for path in Path("out/masks").iterdir()] == ["a.png"]
