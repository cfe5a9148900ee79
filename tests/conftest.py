"""Fixtures: projects in temporary folders."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from small import Project, environment, project_in

os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # MLflow reads it at import, before stpp sets it

LONGEST = ("test_every_system_runs", "test_the_server_accepts", "test_a_table_on_own_data_is_planned")
"""The beginnings of the names of tests that take minutes, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first. If one started last, one process would still be busy long after the others."""
    items.sort(key=lambda item: [name in item.nodeid for name in LONGEST], reverse=True)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    yield from _used(project_in(tmp_path / "project"))


@pytest.fixture(scope="session")
def prepared_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return _once(tmp_path_factory, "prepared", Project.prepare)


@pytest.fixture
def prepared(prepared_once: Project, tmp_path: Path) -> Iterator[Project]:
    """Yield a project with data set, split and backbone, created without DVC."""
    yield from _used(prepared_once.copy_to(tmp_path / "project"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project in which ST++ has run, tracked and committed. Tests use a copy of it (`copied`)."""

    def run(made: Project) -> None:
        del made.env["STPP_TRACKING"]
        made.commit("-A")
        made.run("dvc", "repro", "-q")
        made.commit("-A")

    made = _once(tmp_path_factory, "finished", run)
    del made.env["STPP_TRACKING"]
    return made


def _once(factory: pytest.TempPathFactory, name: str, fill: Callable[[Project], None]) -> Project:
    """Return a project that one of pytest's processes fills for all of them. They share the folder above theirs."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)  # another process failed to fill it
            folder.mkdir()
            fill(project_in(folder / "project"))
            (folder / "done").touch()
    return Project(folder / "project", environment())


@pytest.fixture
def copied(finished: Project, tmp_path: Path) -> Iterator[Project]:
    """Yield a copy of the finished project, which a test may change."""
    yield from _used(finished.copy_to(tmp_path / "project"))


def _used(made: Project) -> Iterator[Project]:
    # A background job of a shell ignores SIGINT, and its children inherit that. They do not inherit a handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield made
    made.end()
