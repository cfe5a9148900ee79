"""The lineage of a file: the stage executions that led to it, with commands, params and hashes of deps and outs.

dvc.lock records the last execution of every stage. A stage that trains, scores, labels or evaluates also writes its
execution, and those behind it, to its run.json. So a model can be traced after dvc.lock has moved on.
"""

import hashlib
import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec

from stpp.run.parallel import THREADS, ordered_map
from stpp.store.files import StppError, digest, open_regular, parse_yaml, raise_problems, read_bytes, sha256, walk

CHECKED = "runs/checked.txt"
"""The out of `stpp check`, with constant content. The first stages depend on it, so DVC runs `check` before them."""


@dataclass(frozen=True)
class Content:
    """The path and hashes of a file or folder at the time a stage read or wrote it."""

    path: str
    """Relative to the project's folder, or absolute."""
    md5: str
    """DVC's hash: of a file's bytes, or of a folder's listing; a folder's ends in ".dir"."""
    sha256: str = ""
    """The sha256 of a file's bytes, or `files.digest` of a folder; empty if only DVC has hashed it."""

    @property
    def is_code(self) -> bool:
        """Whether the path lies in the package `stpp`, the project's own code."""
        return Path(self.path).parts[:1] == ("stpp",)


@dataclass(frozen=True)
class Execution:
    """One run of a stage: its command, deps, params and outs, as in dvc.lock."""

    stage: str
    cmd: str
    deps: tuple[Content, ...]
    params: dict[str, Any]
    """Params file -> its content: the sections that the stage watches, or the whole file."""
    outs: tuple[Content, ...]
    run_id: str = ""
    """The MLflow run id; empty if unknown."""
    commit: str = ""
    """The git commit that was checked out; empty if unknown."""

    def out(self, path: str) -> Content | None:
        """Return the out at exactly this path, or None."""
        return next((out for out in self.outs if out.path == path), None)


def content_of(path: Path, root: Path) -> Content:
    """Hash the file or folder at a path as it is now. Raises StppError naming the path if nothing is there.

    root: the project's folder; DVC's hash leaves out files that its .dvcignore names.
    """
    return contents_of([path], root)[0]


def contents_of(paths: Sequence[Path], root: Path) -> list[Content]:
    """Hash several files and folders in parallel, as `content_of` does one."""
    names = [path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix() for path in paths]
    work = [*(partial(md5_of, path, root) for path in paths), *(partial(sha256_of, path) for path in paths)]
    hashes = list(ordered_map(lambda one: one(), work, THREADS))
    return [Content(*three) for three in zip(names, hashes[: len(paths)], hashes[len(paths) :], strict=True)]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, or `files.digest` of a folder."""
    return digest([path]) if path.is_dir() else sha256(path)


def md5_of(path: Path, root: Path) -> str:
    """Return DVC's md5 of a file or folder. Raises StppError naming the path if nothing is there."""
    if not path.exists():
        raise StppError(f"{path}: no such file or folder; run the stage that makes it, or `dvc repro`")
    if not path.is_dir():
        with open_regular(path) as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    # DVC hashes the JSON of the whole listing. It is built entry by entry here, since there may be 10^6 entries.
    total, between = hashlib.md5(b"[", usedforsecurity=False), ""
    for name, md5 in ordered_map(lambda name: (name, md5_of(path / name, root)), hashed_files(path, root), THREADS):
        total.update(f"{between}{json.dumps({'md5': md5, 'relpath': name}, sort_keys=True)}".encode())
        between = ", "
    total.update(b"]")
    return f"{total.hexdigest()}.dir"


def hashed_files(folder: Path, root: Path) -> Iterator[str]:
    """Return the relative names of the files below a folder that DVC hashes, sorted as text.

    Files of git, Mercurial and DVC themselves are left out, and files that the project's .dvcignore names.
    """
    ignore = root / ".dvcignore"
    inside = folder.resolve().is_relative_to(root.resolve())  # the project's .dvcignore does not apply to other folders
    lines = read_bytes(ignore).decode(errors="replace").splitlines() if inside and ignore.is_file() else []
    spec = GitIgnoreSpec.from_lines([".git", ".hg/", ".dvc/", *lines])
    below = f"{folder.relative_to(root).as_posix()}/" if inside and folder.is_relative_to(root) else ""
    return (name for name in walk(folder, as_text=True) if not spec.match_file(f"{below.removeprefix('./')}{name}"))


def lock_files(root: Path) -> list[Path]:
    """Return the dvc.lock files that exist: of the root pipeline and of those in pipelines/."""
    return [path for path in (root / "dvc.lock", *sorted(root.glob("pipelines/*/dvc.lock"))) if path.is_file()]


def parse_dvc_lock(text: str, where: str) -> list[Execution]:
    """Return the executions that the text of a dvc.lock records, without that of `check`, which makes no result.

    where: the path of the dvc.lock in the project. Raises StppError naming it if the text is not a dvc.lock.
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
        raise StppError(
            f"{where}: not a dvc.lock ({what}); restore the committed one with `git checkout {where}`"
        ) from None


def _contents(entries: Iterable[dict[str, Any]]) -> tuple[Content, ...]:
    """Read deps or outs from JSON or dvc.lock. Raises ValueError for a path with a zero byte."""
    found = tuple(Content(str(e["path"]), str(e.get("md5", "")), str(e.get("sha256", ""))) for e in entries)
    if any("\0" in content.path for content in found):
        raise ValueError("a path contains a null byte")
    return found


def _params(raw: Any) -> dict[str, Any]:
    """Return params sections by file, with all keys as text: JSON, and so run.json, has only text keys.

    Raises TypeError if `raw` does not have that form.
    """
    found = json.loads(json.dumps(raw or {}))
    if not isinstance(found, dict) or not all(isinstance(sections, dict) for sections in found.values()):
        raise TypeError("params must hold sections by file")
    return found


def read_dvc_locks(root: Path) -> list[Execution]:
    """Return the executions that all dvc.lock files of a project record. Raises StppError naming all damaged ones."""
    found, problems = list[Execution](), list[str]()
    for path in lock_files(root):
        try:
            found += parse_dvc_lock(read_bytes(path).decode(errors="replace"), path.relative_to(root).as_posix())
        except StppError as error:
            problems.append(str(error))
    raise_problems(problems, "dvc.lock")
    return found


def producer_of(path: str, executions: Iterable[Execution]) -> tuple[Execution, Content] | None:
    """Return the execution that made a path, with its out: the path itself or a folder that contains it.

    Returns None if no execution made it.
    """
    for execution in executions:
        for out in execution.outs:
            if path == out.path or path.startswith(f"{out.path}/"):
                return execution, out
    return None


def upstream(deps: Iterable[Content], executions: list[Execution]) -> list[Execution]:
    """Return the executions that made `deps`, directly or indirectly, each once, the nearest first.

    An execution whose out has another hash than the dep did not make the dep, and is left out.
    """
    found: list[Execution] = []
    open_ = list(deps)
    while open_:
        dep = open_.pop(0)
        made = producer_of(dep.path, executions)
        if made is None or made[0] in found or (made[1].path == dep.path and made[1].md5 != dep.md5):
            continue
        found.append(made[0])
        open_ += made[0].deps
    return found


def command() -> str:
    """Return the command line of this process, quoted for a shell."""
    return shlex.join(["python", "-m", "stpp", *sys.argv[1:]])


def as_json(executions: list[Execution]) -> list[dict[str, Any]]:
    return [asdict(execution) for execution in executions]


def from_json(raw: Any) -> list[Execution]:
    """Return the executions that `as_json` wrote. Raises ValueError for other data or an empty list."""
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
