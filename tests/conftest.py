"""Projects in temporary folders."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import BIN, ROOT, Project


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: begun last, it would keep one process busy long after the others."""
    items.sort(key=lambda item: "test_systems" not in item.nodeid)


def project_in(folder: Path) -> Project:
    """A new project in `folder`, a git repository without a commit."""
    folder.mkdir()
    for name in ("dvc.yaml", "pipelines", "stpp", "splits", "weights", ".dvc/config", ".dvcignore", ".gitignore"):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock", "*.pth"))
        else:
            shutil.copyfile(source, target)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "STPP_", "GIT_"))}
    env |= {
        "PATH": f"{BIN}:{env['PATH']}",
        "OMP_NUM_THREADS": "1",
        "STPP_TRACKING": "off",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
    }
    made = Project(folder, env)
    made.params()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return made


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = project_in(tmp_path / "project")
    # A shell's background job ignores Ctrl-C, and its children inherit that; a handler is not inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield made
    subprocess.run(["pkill", "-KILL", "-f", str(made.folder)], check=False)


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
