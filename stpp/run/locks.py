"""Repair of dvc.lock files that a kill has damaged.

DVC writes dvc.lock in place after every stage. If it is killed while it writes, the file is left empty or cut. So
`.stpp/locks` holds a copy of the last complete dvc.lock of every pipeline, renewed whenever a stage begins.
"""

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stpp.params.file import read_yaml
from stpp.run.git import git
from stpp.run.lineage import lock_files, parse_dvc_lock
from stpp.store.files import StppError, raise_problems, write_text

OPEN = re.compile(r"^(?:    (?:deps|outs|params)|      \S.*):\n\Z", re.MULTILINE)
"""Matches a last line that other lines must follow, so the file was cut there."""
ENTRY = re.compile(r"^  (\S.*):\n((?:    .*\n?)+)", re.MULTILINE)
"""Matches one stage in a dvc.lock: its name and its lines."""
CONFLICTS = "has merge conflicts"
"""Begins what is wrong with a dvc.lock that only a person can repair."""


def damaged(root: Path) -> dict[Path, str]:
    """Return the dvc.lock files that a kill has left empty or cut, each with what is wrong.

    Raises StppError naming all of them if a person must repair one: it has conflict markers of a merge.
    """
    found = {path: wrong for path in lock_files(root) if (wrong := _wrong(path, root))}
    if any(wrong.startswith(CONFLICTS) for wrong in found.values()):
        raise_problems([f"{path.relative_to(root).as_posix()}: {wrong}" for path, wrong in found.items()], "dvc.lock")
    return found


def repair(root: Path) -> list[str]:
    """Repair what a kill has damaged, and renew the copies of complete dvc.lock files.

    Returns one line of text for each repair.
    """
    said = _mend_rwlock(root)
    if damaged(root):
        with _dvc_at_rest(root):  # DVC may be writing the file at this moment, so `damaged` is asked again
            said += [_put_back(path, wrong, root) for path, wrong in damaged(root).items()]
    for path in lock_files(root):
        text = _text(path)
        if text != _text(_kept(path, root)):
            write_text(_kept(path, root), text)
    return said


def repair_before_stage(root: Path) -> None:
    """Call `repair` before a stage that DVC has started. Raises StppError if something was repaired.

    The running DVC has read the damaged dvc.lock, and would repeat stages that are missing there. So it must be started
    again.
    """
    if said := repair(root):
        raise StppError("\n".join([*said, "run the same command again; finished work is kept"]))


def _kept(path: Path, root: Path) -> Path:
    """Return the path of the copy of a dvc.lock."""
    return root / ".stpp/locks" / path.relative_to(root)


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace") if path.is_file() else ""


def _wrong(path: Path, root: Path) -> str:
    """Return how a kill or a merge has damaged a dvc.lock, or "" if it is complete."""
    name = path.relative_to(root).as_posix()
    text, kept = _text(path), _text(_kept(path, root))
    if kept and text == kept:
        return ""
    if wrong := _broken(text, name):
        return wrong
    now, then = dict(ENTRY.findall(text)), dict(ENTRY.findall(kept))
    last, gone = next(reversed(now), ""), list(then)[len(now) :]
    if list(now) != list(then)[: len(now)]:
        return ""
    if not gone and (now[last] == then[last] or not then[last].startswith(now[last])):
        return ""
    # The file is shorter than its copy. That is no damage if a stage was removed or an older commit is checked out.
    stages = read_yaml(path.with_name("dvc.yaml")).get("stages", {})
    if any(stage.partition("@")[0] not in stages for stage in gone) or _in_git(path, root):
        return ""
    return f"ends with {last}; missing: {', '.join(gone) or 'the rest of it'}"


def _broken(text: str, name: str) -> str:
    """Return why a text is not a complete dvc.lock, or "" if it is one."""
    if "\n<<<<<<< " in f"\n{text}":
        return f"{CONFLICTS}; keep one version: `git checkout --ours {name}`, or `--theirs`"
    try:
        if not parse_dvc_lock(text, name) and not ENTRY.search(text):
            return "is empty"
    except StppError:
        return "is not readable"
    return "" if text.endswith("\n") and not OPEN.search(text) else "is truncated"


def _in_git(path: Path, root: Path) -> bool:
    """Return whether a commit holds the file with its current content."""
    here = ["-C", str(root)]
    blob = git(*here, "hash-object", "--no-filters", str(path))
    return bool(blob and git(*here, "log", "--all", "-1", "--format=%H", f"--find-object={blob}"))


def _put_back(path: Path, wrong: str, root: Path) -> str:
    """Replace a damaged dvc.lock by its copy, else by the committed one, else remove it; return a line that says so.

    The damaged file is kept beside the copy, as damaged.lock.
    """
    name = path.relative_to(root).as_posix()
    aside = _kept(path, root).with_name("damaged.lock")
    write_text(aside, _text(path))
    committed = git("-C", str(root), "show", f"HEAD:./{name}") + "\n"
    candidates = {
        "restored the last complete version": _text(_kept(path, root)),
        "restored the committed version": committed,
    }
    whole = {whose: text for whose, text in candidates.items() if text.strip() and not _broken(text, name)}
    whose, text = next(iter(whole.items()), ("removed it", ""))
    if text:
        write_text(path, text)
    else:
        path.unlink()
    said = f"{name}: {wrong} (DVC was probably killed while writing it); {whose}"
    return f"{said} (the damaged file: {aside.relative_to(root)})"


def _mend_rwlock(root: Path) -> list[str]:
    """Remove DVC's rwlock file if it is damaged, and return a line that says so, if it was.

    The rwlock lists which process uses which files. DVC writes it in place, too, and no DVC command works while it is
    empty or cut. DVC creates it again.
    """
    path = root / ".dvc/tmp/rwlock"
    if not path.is_file():
        return []
    with _held(path.with_name("rwlock.lock")):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            path.unlink()
            return [f"{path.relative_to(root)}: was damaged, and was removed; DVC creates it again"]
    return []


@contextmanager
def _dvc_at_rest(root: Path) -> Iterator[None]:
    """Hold DVC's repository lock, so that DVC writes no dvc.lock. DVC holds it except while a stage runs."""
    if not (root / ".dvc/tmp").is_dir():
        yield
        return
    with _held(root / ".dvc/tmp/lock"):
        yield


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a file lock of DVC; wait while a DVC command holds it."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another DVC command is running; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
