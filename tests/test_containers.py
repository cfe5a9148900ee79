"""The containers, as far as they can be looked at without a daemon: what they would run is run, on loopback."""

import json
import os
import re
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from small import BIN, ROOT

COMPOSE: dict[str, Any] = YAML(typ="safe").load(ROOT / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def filled(text: str) -> str:
    """With the defaults of ${NAME:-default}, as compose fills it where .env is silent."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def stage(name: str) -> str:
    """The lines of a stage of the Dockerfile."""
    return next(part for part in re.split(r"(?m)^(?=FROM )", DOCKERFILE) if f" AS {name}\n" in part)


def test_nothing_listens_beyond_this_machine_unless_told_to() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(filled(port).startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", OURS)
def test_our_containers_are_of_a_stage_and_not_root(name: str) -> None:
    text = stage(OURS[name]["build"]["target"])
    assert re.findall(r"(?m)^USER (\S+)", text)[-1] == "10001"
    assert OURS[name]["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_lasts_has_a_health_check_and_every_image_a_version(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":[\w.-]+$", service["image"])
    assert not service["image"].endswith(":latest")
    if "restart" in service:
        assert "healthcheck" in service or "HEALTHCHECK --interval" in stage(service["build"]["target"])


def test_what_a_training_leaves_outlives_its_container_and_is_not_roots() -> None:
    """dvc.lock and DVC's cache, without which there is no audit; the folder is a person's, and so is its user."""
    train = SERVICES["train"]
    assert train["volumes"] == [".:/app"]
    assert "WORKDIR /app\n" in stage("train")
    assert int(filled(train["user"]).split(":")[0]) >= 1000


def test_there_is_no_default_password() -> None:
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if "PASSWORD" in key or "SECRET" in key:
                assert filled(str(value)) == "", key


def test_every_volume_name_and_dependency_is_there() -> None:
    for service in SERVICES.values():
        named = {v.split(":")[0] for v in service.get("volumes", []) if not v.startswith((".", "/"))}
        assert named <= set(COMPOSE["volumes"])
        assert set(service.get("depends_on", {})) <= set(SERVICES)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", DOCKERFILE):
        *sources, _ = [word for word in shlex.split(line) if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists()
            assert source == "." or source not in ignored


def test_the_server_gets_the_projects_own_version_of_mlflow() -> None:
    found = re.search(r"\$\((grep .*?)\)", stage("server"))
    assert found
    words = ["bash", "-c", found[1].replace("/tmp/pyproject.toml", "pyproject.toml")]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 1
    assert f'"{said[0]}",' in (ROOT / "pyproject.toml").read_text()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """The command of the `server` image with compose's environment, on a free port of loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = json.loads(re.findall(r"(?ms)^CMD (\[.*?\])", stage("server"))[-1].replace("\\\n", ""))
    replaced = {"0.0.0.0": "127.0.0.1", "5000": str(port)}
    words = [replaced.get(word, word).replace("/store", str(tmp_path)) for word in command]
    given = {key: filled(value) for key, value in SERVICES["mlflow"]["environment"].items()}
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | given
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([BIN / words[0], *words[1:]], env=env, cwd=tmp_path, stdout=log, stderr=log)
        yield port
        process.terminate()
        process.wait(30)


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
def test_the_server_answers_to_its_names_and_to_no_other(server: int) -> None:
    deadline = time.monotonic() + 120
    while status(server, "/health", "127.0.0.1:5000") != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    search = "/api/2.0/mlflow/registered-models/search"
    for host in ("mlflow:5000", "localhost:5000", "127.0.0.1:8080"):
        assert status(server, search, host) == 200, host
    for host in ("evil.example", "evil.example:5000", "mlflow.evil.example:5000"):
        assert status(server, search, host) == 403, host
