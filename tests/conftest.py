"""Projects in temporary folders."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import Project, project_in

os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # read when a test module imports MLflow, before ours sets it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: begun last, it would keep one process busy long after the others."""
    items.sort(key=lambda item: "test_systems" not in item.nodeid)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = project_in(tmp_path / "project")
    # A shell's background job ignores Ctrl-C, and its children inherit that; a handler is not inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield made
    made.end()


@pytest.fixture(scope="session")
def prepared_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = project_in(tmp_path_factory.mktemp("prepared") / "project")
    made.prepare()
    return made.folder


@pytest.fixture
def prepared(prepared_once: Path, project: Project) -> Project:
    """A project whose data set, split and backbone are there, made without DVC."""
    shutil.copytree(prepared_once, project.folder, symlinks=True, dirs_exist_ok=True)
    return project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose ST++ has run, tracked and committed; for tests that copy it (`copied`)."""
    made = project_in(tmp_path_factory.mktemp("finished") / "project")
    del made.env["STPP_TRACKING"]
    made.commit("-A")
    made.run("dvc", "repro", "-q")
    made.commit("-A")
    return made


@pytest.fixture
def copied(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to do with as one likes."""
    shutil.copytree(finished.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project", finished.env)
