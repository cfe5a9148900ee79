"""Tests of the text of compose.yaml and the Dockerfile. test_built_images builds the images."""

import re
from typing import Any

import pytest
from ruamel.yaml import YAML
from small import ROOT

COMPOSE: dict[str, Any] = YAML(typ="safe").load(ROOT / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def filled(text: str) -> str:
    """Replace ${NAME:-default} by its default, as compose does if .env does not set NAME."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def stage(name: str) -> str:
    """Return the lines of a stage of the Dockerfile, after the lines of the stage that it is built from."""
    own = next(part for part in re.split(r"(?m)^(?=FROM )", DOCKERFILE) if re.match(rf"FROM \S+ AS {name}\n", part))
    parent = own.split()[1]
    return own if ":" in parent else stage(parent) + own


def environment(name: str) -> dict[str, str]:
    """Return the environment variables that ENV sets in a stage."""
    lines = re.findall(r"(?m)^ENV (.*)$", stage(name))
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(lines)))


def test_ports_are_bound_to_this_machine_by_default() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(filled(port).startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_root_capabilities_and_a_writable_home(name: str) -> None:
    assert OURS[name]["cap_drop"] == ["ALL"]
    # A tmpfs on any other folder than /tmp belongs to root by default.
    assert environment(OURS[name]["build"]["target"])["HOME"] == "/tmp"
    assert not OURS[name].get("read_only") or OURS[name]["tmpfs"] == ["/tmp"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_and_every_restarting_service_has_a_health_check(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":[\w.-]+$", service["image"])
    assert not service["image"].endswith(":latest")
    if "restart" in service:
        assert "healthcheck" in service or "HEALTHCHECK --interval" in stage(service["build"]["target"])


def test_there_is_no_default_password_and_no_password_on_a_command_line() -> None:
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if "PASSWORD" in key or "SECRET" in key:
                assert filled(str(value)) == "", key
        assert "PASSWORD" not in str(service.get("command", ""))


def test_every_named_volume_and_every_dependency_is_defined() -> None:
    for service in SERVICES.values():
        named = {v.split(":")[0] for v in service.get("volumes", []) if not v.startswith((".", "/"))}
        assert named <= set(COMPOSE["volumes"])
        assert set(service.get("depends_on", {})) <= set(SERVICES)


def test_train_gpu_is_train_with_all_gpus() -> None:
    reserved = SERVICES["train-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    same = set(SERVICES["train"]) - {"profiles"}
    assert all(SERVICES["train-gpu"][key] == SERVICES["train"][key] for key in same)
