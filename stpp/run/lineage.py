"""Where a file comes from: executions of stages, each with its command, its parameters, and hashes of what went in and
came out.

dvc.lock says it of the last execution of every stage; a stage that computes for long keeps it in its run.json besides,
together with the executions behind it, so that a model can be traced when no dvc.lock knows it any more.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stpp.run.parallel import THREADS, in_order
from stpp.store.files import StppError, digest, open_regular, parse_yaml, read_bytes, sha256, walk

CHECKED = "runs/checked.txt"
"""What `check` writes, always the same: the first stages depend on it so that DVC runs `check` before them."""


@dataclass(frozen=True)
class Content:
    """A file or folder as it was when a stage read or wrote it."""

    path: str
    """Below the project's folder, or absolute."""
    md5: str
    """DVC's: of a file's bytes, or of a folder's listing, and then it ends in .dir."""
    sha256: str = ""
    """Of a file's bytes, or `files.digest` of a folder; empty where DVC alone has seen it."""

    @property
    def is_code(self) -> bool:
        """Whether it is the project's own code."""
        return Path(self.path).parts[:1] == ("stpp",)


@dataclass(frozen=True)
class Execution:
    """One run of a stage."""

    stage: str
    cmd: str
    deps: tuple[Content, ...]
    params: dict[str, Any]
    """What each params file said, by file: the sections that the stage watches, or the whole file."""
    outs: tuple[Content, ...]
    run_id: str = ""
    """Of MLflow, where it is known."""
    commit: str = ""

    def out(self, path: str) -> Content | None:
        return next((out for out in self.outs if out.path == path), None)


def content_of(path: Path, root: Path) -> Content:
    """What is at a path now. Raises StppError naming it if nothing is.

    root: the project's folder, whose .dvcignore names what DVC does not count.
    """
    return contents_of([path], root)[0]


def contents_of(paths: Sequence[Path], root: Path) -> list[Content]:
    """As `content_of`, of several paths at once."""
    names = [path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix() for path in paths]
    work = [*(partial(md5_of, path, root) for path in paths), *(partial(sha256_of, path) for path in paths)]
    hashes = list(in_order(lambda one: one(), work, THREADS))
    return [Content(*three) for three in zip(names, hashes[: len(paths)], hashes[len(paths) :], strict=True)]


def sha256_of(path: Path) -> str:
    """Of a file's bytes, or over what a folder holds."""
    return digest([path]) if path.is_dir() else sha256(path)


def md5_of(path: Path, root: Path) -> str:
    """DVC's hash of a file or folder. Raises StppError naming the path if nothing is there."""
    if not path.exists():
        raise StppError(f"{path}: no such file or folder; run the stage that makes it, or `dvc repro`")
    if not path.is_dir():
        with open_regular(path) as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    # As DVC writes it, JSON of the whole listing, but an entry at a time: there may be 10^6.
    total, between = hashlib.md5(b"[", usedforsecurity=False), ""
    for name, md5 in in_order(lambda name: (name, md5_of(path / name, root)), counted(path, root), THREADS):
        total.update(f"{between}{json.dumps({'md5': md5, 'relpath': name}, sort_keys=True)}".encode())
        between = ", "
    total.update(b"]")
    return f"{total.hexdigest()}.dir"


def counted(folder: Path, root: Path) -> Iterator[str]:
    """The files below a folder that DVC hashes, by relative names in the order of these.

    None of a repository's own, nor what the project's .dvcignore names.
    """
    from pathspec import GitIgnoreSpec

    ignore = root / ".dvcignore"
    inside = folder.resolve().is_relative_to(root.resolve())  # what lies elsewhere is not the project's to ignore
    lines = read_bytes(ignore).decode(errors="replace").splitlines() if inside and ignore.is_file() else []
    spec = GitIgnoreSpec.from_lines([".git", ".hg/", ".dvc/", *lines])
    below = f"{folder.relative_to(root).as_posix()}/" if inside and folder.is_relative_to(root) else ""
    return (name for name in walk(folder, as_text=True) if not spec.match_file(f"{below.removeprefix('./')}{name}"))


def lock_files(root: Path) -> list[Path]:
    """dvc.lock of the root pipeline and of those in pipelines/, as far as they were run."""
    return [path for path in (root / "dvc.lock", *sorted(root.glob("pipelines/*/dvc.lock"))) if path.is_file()]


def locked(text: str, where: str) -> list[Execution]:
    """The executions that a dvc.lock records, but for `check`, which is behind no file. where: its path in the project.

    Raises StppError naming it if it is none.
    """
    folder = Path(where).parent
    try:
        stages = (parse_yaml(text, 10**6) or {}).get("stages", {})
        return [
            Execution(
                str(name) if folder == Path() else f"{folder.as_posix()}/dvc.yaml:{name}",
                entry["cmd"] if isinstance(entry["cmd"], str) else "\n".join(map(str, entry["cmd"])),
                _contents(dep for dep in entry.get("deps", ()) if dep["path"] != CHECKED),
                _params(entry.get("params")),
                _contents(entry.get("outs", ())),
            )
            for name, entry in stages.items()
            if CHECKED not in [out["path"] for out in entry.get("outs", ())]
        ]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())[:200]
        raise StppError(f"{where}: not a dvc.lock ({what}); `git checkout {where}` brings the committed one") from None


def _contents(entries: Iterable[dict[str, Any]]) -> tuple[Content, ...]:
    """Raises ValueError for a path that is none."""
    found = tuple(Content(str(e["path"]), str(e.get("md5", "")), str(e.get("sha256", ""))) for e in entries)
    if any("\0" in content.path for content in found):
        raise ValueError("a path with a zero byte")
    return found


def _params(raw: Any) -> dict[str, Any]:
    """Sections by file; keys become text, as JSON and so a record has them."""
    found = json.loads(json.dumps(raw or {}))
    if not isinstance(found, dict) or not all(isinstance(sections, dict) for sections in found.values()):
        raise TypeError("params are no sections by file")
    return found


def locked_now(root: Path) -> list[Execution]:
    """The executions that the dvc.lock files of a project record."""
    found = []
    for path in lock_files(root):
        found += locked(read_bytes(path).decode(errors="replace"), path.relative_to(root).as_posix())
    return found


def maker(path: str, executions: Iterable[Execution]) -> tuple[Execution, Content] | None:
    """Who made a file or folder, or the folder that it lies in, and what they made."""
    for execution in executions:
        for out in execution.outs:
            if path == out.path or path.startswith(f"{out.path}/"):
                return execution, out
    return None


def behind(deps: Iterable[Content], executions: list[Execution]) -> list[Execution]:
    """The executions that made `deps`, and those behind them, each once, the nearest first.

    One whose output has another hash by now did not make it, and is left out.
    """
    found: list[Execution] = []
    open_ = list(deps)
    while open_:
        dep = open_.pop(0)
        made = maker(dep.path, executions)
        if made is None or made[0] in found or (made[1].path == dep.path and made[1].md5 != dep.md5):
            continue
        found.append(made[0])
        open_ += made[0].deps
    return found


def command() -> str:
    """The command that runs now, as one would type it."""
    import shlex

    return shlex.join(["python", "-m", "stpp", *sys.argv[1:]])


def as_json(executions: list[Execution]) -> list[dict[str, Any]]:
    return [asdict(execution) for execution in executions]


def from_json(raw: Any) -> list[Execution]:
    """What `as_json` made of one or more. Raises ValueError where it is something else."""
    try:
        found = [
            Execution(
                stage=str(one["stage"]),
                cmd=str(one["cmd"]),
                deps=_contents(one["deps"]),
                params=dict(one["params"]),
                outs=_contents(one["outs"]),
                run_id=str(one["run_id"]),
                commit=str(one["commit"]),
            )
            for one in raw
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a lineage record ({error})") from None
    if not found:
        raise ValueError("not a lineage record (it is empty)")
    return found
