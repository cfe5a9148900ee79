"""Which folders of pipelines/ DVC reads: .dvcignore leaves out all others.

DVC's commands speak of every pipeline that they find. So they stay short if they find only the systems in use.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from stpp.store.files import StppError, read_text, write_text

FOLDER, IGNORE = Path("pipelines"), Path(".dvcignore")
ALL = "/pipelines/*"
"""The line of .dvcignore that leaves out every pipeline; a line `!/pipelines/NAME` below brings one back."""
TOY = "toy"
"""The pipeline that draws the embedded data set. It is no system."""


def systems() -> list[str]:
    """Return the names of all systems: the folders of pipelines/ that have a dvc.yaml."""
    return sorted(path.parent.name for path in FOLDER.glob("*/dvc.yaml") if path.parent.name != TOY)


def title(name: str) -> str:
    """Return the first sentence of the comment at the top of a system's dvc.yaml."""
    lines = takewhile(lambda line: line.startswith("#"), read_text(FOLDER / name / "dvc.yaml").splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines).split(". ")[0].rstrip(".")


def in_use() -> list[str]:
    """Return the names of the systems that DVC reads."""
    lines = _lines()
    return [name for name in systems() if ALL not in lines or _line(name) in lines]


def use(names: Iterable[str]) -> list[str]:
    """Let DVC read these systems, and those whose outs they read; return the names that are new.

    Raises StppError if there is no such system.
    """
    new = [name for name in _with_needed(names) if name not in in_use()]
    if new:
        _write([*_lines(), *map(_line, new)])
    return new


def drop(names: Iterable[str]) -> None:
    """Let DVC read these systems no longer.

    Raises StppError, and changes nothing, if there is no such system, if one is not in use, or if a system that stays
    in use reads its outs.
    """
    names, before = list(names), in_use()
    if ALL not in _lines():
        raise StppError(
            f"{IGNORE}: has no line `{ALL}`, so DVC reads all systems; add the line, then use those you want"
        )
    for name in names:
        _known(name)
        if _line(name) not in _lines():
            raise StppError(f"{name}: not in use; in use: {', '.join(before) or 'none'}")
        readers = [one for one in before if one not in names and name in _with_needed([one])]
        if readers:
            raise StppError(f"{name}: its outs are read by {', '.join(readers)}; drop these, too")
    _remove(names)


@contextmanager
def using(names: Iterable[str]) -> Iterator[None]:
    """Let DVC read these systems, too, until the block ends."""
    new = use(names)
    try:
        yield
    finally:
        if new:
            _remove(new)


def _with_needed(names: Iterable[str]) -> list[str]:
    """Return these systems and all systems whose outs they read. Raises StppError if there is no such system."""
    found, left = list[str](), list(names)
    while left:
        name = left.pop()
        _known(name)
        if name not in found:
            found.append(name)
            read = re.findall(r"runs/([\w-]+)/", read_text(FOLDER / name / "dvc.yaml"))
            left += [one for one in systems() if one in read]
    return sorted(found)


def _known(name: str) -> None:
    if name not in systems():
        raise StppError(f"{name}: no such system; choose one of {', '.join(systems())}")


def _line(name: str) -> str:
    return f"!/pipelines/{name}"


def _lines() -> list[str]:
    return read_text(IGNORE).splitlines() if IGNORE.exists() else []


def _remove(names: Iterable[str]) -> None:
    lines = {_line(name) for name in names}
    _write([line for line in _lines() if line not in lines])


def _write(lines: list[str]) -> None:
    write_text(IGNORE, "\n".join(lines) + "\n")
