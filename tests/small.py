"""Small projects for tests: the real dvc.yaml, DVC and stages, on data that trains in seconds."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import pytest
import warm
from numpy.typing import NDArray
from ruamel.yaml import YAML

from stpp.cli import command_line
from stpp.store.manifest import Rgb
from stpp.store.masks import MaskSet, ShardWriter, merge_manifests, shard_name, shards_of

MARK = "STPP_TEST_PROJECT"
"""Environment variable that identifies the processes of a project."""
STARTING = ("audit", "paper", "cluster")
"""Commands that run in their own process: they start others, or (audit) read a folder only once per process."""

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

TINY: dict[str, dict[str, object]] = {
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
    "model": {"backbone": "test_resnet", "output_stride": 16},
    "train": {"epochs": 3, "batch_size": 4, "lr": 0.02, "head_lr_factor": 1.0},
    "augment": {"weak": {"base": 32, "crop": 32}},
    "score": {"batch_size": 4, "shards": 3},
    "select": {"by": "stability", "ratio": 0.5},
    "online": {"threshold": 0.5},
    "label": {"scales": [0.5, 1.0], "batch_size": 4, "shards": 3},
    "evaluate": {"batch_size": 4, "panels": 2},
    "runtime": {"device": "cpu", "workers": 0, "threads": 1},
}

OWN: dict[str, object] = {
    "kind": "folder",
    "classes": ["background", "disk", "triangle", "box", "cross"],
    "values": {5: "ignore"},
}
"""The section `data` for drawn images that a person describes; `root` and the patterns come on top."""


@dataclass
class Project:
    """A folder with a git repository, the pipelines and tiny parameters. Commands run in it as for a user."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in a new session. `end` kills its remaining processes."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env | {MARK: str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    @contextmanager
    def serving(self, *command: str, answers: str) -> Iterator[str]:
        """Run a server on a free port of the loopback address, and yield its URL once it answers at a path."""
        port = free_port()
        process, address = self.start(*command, "--host", "127.0.0.1", "--port", str(port)), f"http://127.0.0.1:{port}"
        try:
            wait_for(f"{address}{answers}", process)
            yield address
        finally:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def copy_to(self, folder: Path) -> "Project":
        """Copy this project to a folder that does not exist, and return the copy."""
        subprocess.run(["cp", "-a", self.folder, folder], check=True)  # several times as fast as shutil.copytree
        return Project(folder, dict(self.env))

    def cold(self) -> "Project":
        """Return this project with commands that start every process anew: a kill or Ctrl-C reaches it at once."""
        return replace(self, env=self.env | {"PATH": self.env["PATH"].removeprefix(f"{warm.folder()}:")})

    def living(self) -> list[psutil.Process]:
        """Return the processes that commands of this project have started and that have not ended."""
        every = psutil.process_iter(["environ"]) if self.processes else ()
        return [one for one in every if (one.info["environ"] or {}).get(MARK) == str(self.folder)]

    def end(self) -> None:
        """Kill every process that a command of this project has started, in any session."""
        for running in self.living():
            with suppress(psutil.NoSuchProcess):
                running.kill()
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()

    def run(self, *command: str, rc: int = 0) -> str:
        """Run a command and return its output. Fails unless the exit code is `rc`.

        A command of stpp that starts no other process runs in the test's process, which has already loaded torch.
        """
        if command[0] == "stpp" and command[1] not in STARTING and "STPP_NPROC" not in self.env:
            code, output = self._inside(*command)
        else:
            process = self.start(*command)
            output, _ = process.communicate(timeout=1200)
            code = process.returncode
        assert code == rc, f"{' '.join(command)}: {code}\n{output}"
        return output

    def _inside(self, *command: str) -> tuple[int, str]:
        said = io.StringIO()
        with (
            chdir(self.folder),
            patch.dict(os.environ, self.env, clear=True),
            patch.object(sys, "argv", [*command]),
            redirect_stdout(said),
            redirect_stderr(said),
            warnings.catch_warnings(),
            pytest.raises(SystemExit) as end,
        ):
            warnings.resetwarnings()  # use Python's own filters, not pytest's
            warnings.simplefilter("ignore", DeprecationWarning)
            command_line()(prog_name="stpp")
        code = end.value.code
        return (code if isinstance(code, int) else int(code is not None)), said.getvalue()

    def prepare(self) -> None:
        """Create the data set, the split and the backbone, without DVC."""
        self.run("stpp", "draw", "--out", "data/toy")
        self.run("stpp", "prepare", "--out", "runs/data")
        self.run("stpp", "split", "--data", "runs/data", "--lists", "splits", "--out", "runs/split")
        self.run("stpp", "backbone", "--weights", "weights", "--out", "runs/backbone.safetensors")

    def commit(self, *paths: str) -> None:
        self.run("git", "add", *paths)
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "a commit")

    def params(self, **sections: dict[str, object]) -> None:
        """Write params.yaml: the tiny parameters, with sections updated."""
        merged = {name: {**section, **sections.get(name, {})} for name, section in TINY.items()}
        with (self.folder / "params.yaml").open("w") as file:
            YAML().dump(merged | {"student": sections.get("student")}, file)


def torchrun(processes: int, *words: str) -> str:
    """Run a script in several processes, and return their output."""
    command = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *words]
    env = os.environ | {"PATH": f"{warm.folder()}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=300).stdout


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until the server of a process answers, at most two minutes. Fails if the process ends before."""
    for _ in range(240):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.5)


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def ran(output: str) -> list[str]:
    """Return the stages that DVC says it ran, without `check`, which runs whenever any parameter changes."""
    stages = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    return [stage for stage in stages if stage.split(":")[-1] != "check"]


def project_in(folder: Path) -> Project:
    """Create a project in `folder`, with a git repository that has no commit."""
    folder.mkdir()
    for name in ("dvc.yaml", "pipelines", "splits", "weights", ".dvc/config", ".dvcignore", ".gitignore"):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("dvc.lock", "*.pth"))
        else:
            shutil.copyfile(source, target)
    subprocess.run(["cp", "-a", ROOT / "stpp", folder], check=True)  # several times as fast as shutil.copytree
    made = Project(folder, environment())
    made.params()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return made


def environment() -> dict[str, str]:
    """Return the variables of a project's commands."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "STPP_", "GIT_"))}
    return env | {
        "PATH": f"{warm.folder()}:{BIN}:{env['PATH']}",
        "OMP_NUM_THREADS": "1",
        "STPP_TRACKING": "off",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
    }


def mask_set(
    folder: Path,
    masks: Mapping[str, NDArray[np.uint8]],
    palette: Sequence[Rgb],
    shards: int = 1,
    levels: Mapping[str, NDArray[np.uint8]] | None = None,
) -> MaskSet:
    """Write masks as `stpp label` does, each with confidence 0.9, and return the mask set. levels: the soft masks."""
    with tempfile.TemporaryDirectory() as parts_folder:
        parts = [Path(parts_folder) / f"{at}.csv" for at in range(shards)]
        for at, (part, names) in enumerate(zip(parts, shards_of(sorted(masks), shards), strict=True)):
            shard = folder / shard_name(at, shards)
            with ShardWriter(shard, part, palette, soft=levels is not None) as writer:
                for name in names:
                    writer.add(name, masks[name], 0.9, levels=levels[name] if levels else None)
        merge_manifests(parts, folder / "manifest.csv")
    return MaskSet(folder)
