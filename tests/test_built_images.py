"""Tests that build the container images with buildah, which needs no daemon, and run commands in them."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import BIN, ROOT, Project, free_port, project_in
from test_containers import DOCKERFILE, SERVICES, environment, filled, stage

needs_buildah = pytest.mark.skipif(shutil.which("buildah") is None, reason="no buildah, which builds images")

SECRETS = (
    ".env",
    ".env.local",
    ".netrc",
    ".pgpass",
    ".aws/credentials",
    "server.key",
    "tls.pem",
    "my-credentials.json",
)
PRIVATE = (
    ".dvc/config.local",
    "weights/x.pth",
    "weights/x.pt",
    "weights/x.safetensors",
    "mlflow.db",
    "benchmarks.json",
)
"""Files that a user has in the project and that must not get into git."""
LEFT = ("mlruns/1/x", ".mypy_cache/x", "stpp.egg-info/x", "stpp/__pycache__/x.pyc", ".dvc/tmp/x", "notes")
"""Other files that may be in the project."""


def stores(storage: Path) -> tuple[str, ...]:
    """Return options that make buildah keep its images and containers in `storage`."""
    return ("--root", str(storage / "root"), "--runroot", str(storage / "run"), "--storage-driver", "vfs")


def buildah(storage: Path, *words: str) -> str:
    """Run buildah and return its output. Fails unless the exit code is 0."""
    done = subprocess.run(["buildah", *stores(storage), *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Return a copy of the files in git, with secrets and leftovers added."""
    folder = tmp_path / "planted"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    private = [
        f"{where}/{name}" for where in (".", "stpp/data", "splits", "pipelines/st", "weights") for name in SECRETS
    ]
    for name in (*filter(None, names), *private, *PRIVATE, *LEFT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file() and name in names:
            shutil.copyfile(ROOT / name, folder / name)
        else:
            (folder / name).write_text("secret")
    return folder


def test_no_secret_gets_into_git(planted: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=planted, check=True)
    words = ["git", "ls-files", "--others", "--exclude-standard"]
    shown = subprocess.run(words, cwd=planted, capture_output=True, text=True, check=True).stdout.split("\n")
    assert "stpp/cli.py" in shown
    assert [name for name in shown if name and (planted / name).read_bytes() == b"secret"] == ["notes"]


@needs_buildah
def test_an_image_has_all_files_that_the_pipeline_needs_and_no_secrets_or_leftovers(
    planted: Path, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    out = f"type=local,dest={tmp_path / 'out'}"
    buildah(
        tmp_path, "build", "--isolation", "chroot", "-f", str(tmp_path / "Dockerfile"), "--output", out, str(planted)
    )
    got = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert [name for name in sorted(got) if (planted / name).read_bytes() == b"secret"] == []
    made = project_in(tmp_path / "project").folder
    needed = {
        path.relative_to(made).as_posix()
        for path in made.rglob("*")
        if path.is_file() and not {".git", "__pycache__"} & {*path.parts}
    }
    assert needed - got == set()


NAMELESS = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")
"""Prefix of a command that runs under a uid without an entry in /etc/passwd."""


@pytest.fixture
def nameless() -> Iterator[Project]:
    """Yield a project of such a user. The environment does not name the user either."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("another uid takes root and setpriv")
    with tempfile.TemporaryDirectory() as folder:  # only root may read pytest's temporary folders
        project = project_in(Path(folder) / "project").cold()  # another user may not call this user's processes
        for path in (Path(folder), *Path(folder).rglob("*")):
            os.chown(path, 54321, 54321)
        project.env = {"PATH": project.env["PATH"], "OMP_NUM_THREADS": "1", "STPP_TRACKING": "off"}
        yield project


def as_nameless(project: Project, *command: str) -> int:
    """Run a command as that user, and return the owner of the dvc.lock that it writes."""
    caps = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")  # Python may be in root's home folder
    project.run(*NAMELESS, *caps, *command)
    return (project.folder / "dvc.lock").stat().st_uid


def test_a_stage_runs_for_a_user_without_a_name_in_the_environment_of_the_image(nameless: Project) -> None:
    nameless.env |= {name: value for name, value in environment("train").items() if name != "PATH"}
    assert as_nameless(nameless, "dvc", "repro", "-q", "split") == 54321


def test_a_stage_runs_for_a_user_without_a_name_in_a_cluster_job(nameless: Project) -> None:
    port = free_port()
    nameless.env |= {"HOME": str(nameless.folder), "STPP_MASTER": f"127.0.0.1:{port}"}
    assert as_nameless(nameless, "stpp", "cluster", "--", "dvc", "repro", "-q", "split") == 54321


def test_make_sets_the_variable_user_for_a_user_without_a_name(nameless: Project) -> None:
    goal = ("make", "--file", str(ROOT / "Makefile"), "--eval", "who: ; @echo user $$USER", "who")
    assert "user 54321" in nameless.run(*NAMELESS, *goal)


def as_here(folder: Path) -> list[str]:
    """Return options of `buildah build` that give pip in a container the configuration of this machine."""
    said = subprocess.run([BIN / "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"(?m)^(global|:env:)\.([\w-]+)='(.*)'$", said)
    conf = {name: value.replace("\\n", " ") for _, name, value in found}
    (folder / "pip.conf").write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in conf.items())]))
    # An index in a local folder has its packages beside it, so mount the folder above it.
    paths = {re.sub(r"^file://(.*)/[^/]+/?$", r"\1", word) for value in conf.values() for word in value.split()}
    mounts = [f"{path}:{path}:ro" for path in sorted(paths) if path.startswith("/") and Path(path).exists()]
    return [word for mount in (f"{folder / 'pip.conf'}:/etc/pip.conf:ro", *mounts) for word in ("--volume", mount)]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Return a storage of buildah with the Dockerfile's base image, built from Debian packages."""
    if shutil.which("mmdebstrap") is None or os.getuid() != 0:
        pytest.skip("no mmdebstrap, which makes the base image without a registry, or not root")
    base = re.findall(r"(?m)^FROM (\S+:\S+) AS base$", DOCKERFILE)[0]
    packages = "--include=python3-venv,python3-pip,python-is-python3,ca-certificates"
    # The real base image also allows pip to install into the system's Python.
    hook = '--customize-hook=rm "$1"/usr/lib/python3*/EXTERNALLY-MANAGED'
    tar = tmp_path / "base.tar"
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", packages, hook, base.split("-")[-1], tar], check=True)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
    words = ("--isolation", "chroot", "--tag", f"docker.io/library/{base}", "-f", str(tmp_path / "Dockerfile"))
    buildah(tmp_path, "build", *words, str(tmp_path))
    tar.unlink()
    return tmp_path


@pytest.fixture
def inside(storage: Path) -> list[str]:
    """Return the prefix of a command that runs in a container of MLflow's image with compose's environment."""
    image = "docker.io/library/server"
    words = ("--format", "docker", "--isolation", "chroot", "--pull-never", "--target", "server", "--tag", image)
    buildah(storage, "build", *words, *as_here(storage), ".")
    container = buildah(storage, "from", "--pull-never", image).strip()
    given = [f"--env={name}={filled(value)}" for name, value in SERVICES["mlflow"]["environment"].items()]
    tmpfs = [f"--mount=type=tmpfs,destination={where}" for where in SERVICES["mlflow"]["tmpfs"]]
    return ["buildah", *stores(storage), "run", "--isolation", "chroot", *given, *tmpfs, container, "--"]


@pytest.fixture
def server(inside: list[str], storage: Path) -> Iterator[int]:
    """Run the image's own command in a container, and yield its port on the loopback address of this machine."""
    command = json.loads(re.findall(r"(?m)^CMD (\[.*\])$", stage("server"))[-1])
    port = free_port()
    changed = {"0.0.0.0": "127.0.0.1", "5000": str(port)}
    with (storage / "log").open("w") as log:
        words = [*inside, *(changed.get(word, word) for word in command)]
        process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            yield port
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def status(port: int, path: str, host: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.slow
@needs_buildah
def test_the_server_accepts_only_its_host_names_and_has_the_drivers_of_its_stores(
    server: int, inside: list[str]
) -> None:
    deadline = time.monotonic() + 120
    while status(server, "/health", "127.0.0.1:5000") != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    search = "/api/2.0/mlflow/registered-models/search"
    for host in ("mlflow:5000", "localhost:5000", "127.0.0.1:8080"):
        assert status(server, search, host) == 200, host
    for host in ("evil.example", "evil.example:5000", "mlflow.evil.example:5000"):
        assert status(server, search, host) == 403, host
    address = next(word for word in SERVICES["mlflow-server"]["command"] if "://stpp@" in word).split("=", 1)[1]
    script = f"import boto3, sqlalchemy, os, mlflow; sqlalchemy.create_engine({address!r})"
    script += "; print(os.getuid(), mlflow.__version__)"
    done = subprocess.run([*inside, "python", "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    locked = re.findall(r"(?m)^mlflow==([\d.]+)", (ROOT / "requirements.lock").read_text())
    assert done.stdout.split() == ["10001", *locked]
