"""Projects for benchmarks: copies of this project's code with other parameters, run by DVC."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stpp.params.file import edited

BIN = Path(sys.executable).parent
CODE = ("dvc.yaml", "params.yaml", "pipelines", "stpp", "splits", "weights", ".dvc/config", ".dvcignore", ".gitignore")


def project(folder: Path, changes: dict[str, Any]) -> None:
    """Create a project in a new folder. changes: dotted name of a parameter -> its value; text is read as YAML."""
    for name in CODE:
        source, target = Path(name), folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock"))
        else:
            shutil.copyfile(source, target)
    safe = YAML(typ="safe")
    values = {key: safe.load(value) if isinstance(value, str) else value for key, value in changes.items()}
    (folder / "params.yaml").write_text(edited(folder / "params.yaml", values))
    call(folder, "git", "init", "-q")


def call(folder: Path, *words: str) -> None:
    """Run a command in a project, without tracking. If it fails, end the program with its output."""
    env = {"PATH": f"{BIN}:/usr/bin:/bin", "STPP_TRACKING": "off", "OMP_NUM_THREADS": "1", "HOME": str(Path.home())}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{folder}: {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
