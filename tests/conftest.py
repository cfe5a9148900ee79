"""A small project in a temporary folder: the real dvc.yaml, real DVC, real stages, on data that trains in seconds."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

TINY = {
    "toy": {"images": 30, "size": 32, "seed": 0},
    "data": {"name": "tiny", "kind": "toy", "root": "data/toy"},
    "split": {
        "name": "tiny",
        "seed": 1,
        "stratify": True,
        "labeled": {"count": 8},
        "val": {"count": 6},
        "test": {"count": 4},
    },
    "model": {"backbone": "resnet18", "output_stride": 16},
    "train": {"epochs": 3, "batch_size": 4, "lr": 0.02, "head_lr_factor": 1.0},
    "augment": {"weak": {"base": 32, "crop": 32}},
    "score": {"batch_size": 4, "shards": 3},
    "select": {"ratio": 0.5},
    "label": {"scales": [0.5, 1.0], "batch_size": 4, "shards": 3},
    "evaluate": {"batch_size": 4, "panels": 2},
    "runtime": {"device": "cpu", "workers": 0, "threads": 1},
}


@dataclass
class Project:
    """A folder with a git repository, the pipelines and tiny parameters; commands run in it as a person runs them."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, rc: int = 0) -> str:
        """Run to the end; the output. Fails unless the exit code is `rc`."""
        process = self.start(*command)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == rc, f"{' '.join(command)}: {process.returncode}\n{output}"
        return output

    def params(self, **sections: dict[str, object]) -> None:
        """Write params.yaml: the tiny one with sections updated."""
        merged = {name: {**section, **sections.get(name, {})} for name, section in TINY.items()}
        with (self.folder / "params.yaml").open("w") as file:
            YAML().dump(merged, file)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    folder = tmp_path / "project"
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
    yield made
    subprocess.run(["pkill", "-KILL", "-f", str(folder)], check=False)


@pytest.fixture
def prepared(project: Project) -> Project:
    """A project whose data set, split and backbone are there, made without DVC."""
    project.run("stpp", "draw", "--out", "data/toy")
    project.run("stpp", "prepare", "--out", "runs/data")
    project.run("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split")
    project.run("stpp", "backbone", "--weights", "weights", "--out", "runs/backbone.safetensors")
    return project
