"""Tests of requirements.lock, which `make install` installs."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "requirements.lock").read_text()
LOCKED = [Requirement(line.rstrip(" \\")) for line in TEXT.splitlines() if re.match(r"[a-z0-9]", line)]


def here(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": "dev"})


def test_every_package_is_pinned_by_hash_and_none_comes_from_a_url() -> None:
    entries = re.split(r"(?m)^(?=[a-z0-9])", TEXT)[1:]
    assert len(entries) == len(LOCKED) > 100
    assert all(" \\\n    --hash=sha256:" in entry for entry in entries)
    assert "://" not in TEXT


def test_the_lock_agrees_with_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    for requirement in map(Requirement, wanted):
        pinned = [one for one in LOCKED if canonicalize_name(one.name) == canonicalize_name(requirement.name)]
        assert requirement.name == project["name"] or pinned, requirement
        for one in pinned:
            (exact,) = one.specifier
            assert requirement.specifier.contains(exact.version), f"{one} for {requirement}: `make lock`"


def test_the_installed_versions_are_the_locked_ones() -> None:
    differing = []
    for one in filter(here, LOCKED):
        try:
            installed = version(one.name)
        except PackageNotFoundError:
            installed = "none"
        (exact,) = one.specifier
        if installed != exact.version:
            differing.append(f"{one.name}: {exact.version} is locked, {installed} is here")
    assert not differing, "`make install`"
