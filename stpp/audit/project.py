"""A project's files in place, in DVC's cache and in git's history, and the lineage sources that say what made them."""

import hashlib
import json
import mmap
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from stpp.run.git import git
from stpp.run.lineage import (
    Content,
    Execution,
    from_json,
    lock_files,
    md5_of,
    parse_dvc_lock,
    read_dvc_locks,
    sha256_of,
)
from stpp.run.parallel import THREADS, ordered_map
from stpp.store.files import StppError, raise_problems, read_json

MD5 = re.compile("[0-9a-f]{32}")
VERIFIED, CHANGED, ABSENT = "verified", "changed", "absent"


@dataclass(frozen=True)
class LineageSource:
    """A source that says how files were made: dvc.lock, or the record in a run.json or an MLflow run."""

    name: str
    executions: list[Execution]
    today: bool
    """Whether the source describes the files in place.

    If it does, a file in place that differs contradicts it. If not, such a file is just another version.
    """
    digests: dict[str, str] = field(default_factory=dict)
    """Digests of data and split, under the names of the MLflow tags that hold them."""


class Project:
    """A project's folder, with its DVC cache and its git history."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def lock(self) -> LineageSource:
        """The executions that the dvc.lock files in place record."""
        names = [path.relative_to(self.root).as_posix() for path in lock_files(self.root)]
        return LineageSource(", ".join(names), read_dvc_locks(self.root), today=True)

    @cached_property
    def records(self) -> dict[str, LineageSource]:
        """The lineage records in place, by their folder. Raises StppError naming a damaged one."""
        found = {}
        for path in sorted(self.root.glob("runs/**/run.json")):
            name = path.relative_to(self.root)
            if (record := record_of(read_json(path), name.as_posix())) is not None:
                found[name.parent.as_posix()] = record
        return found

    def record(self, execution: Execution, today: bool) -> LineageSource | None:
        """Return the lineage record of an execution: its run.json, in place or in DVC's cache; None if there is none.

        today: whether the files in place should be those of this execution. If not, a record in place counts only if
        hashes show that it belongs to this execution.
        """
        out = next((out for out in execution.outs if Path(out.path).name == "run.json"), None)
        if out is None:
            folders = [out.path.rpartition("/")[0] for out in execution.outs]
            found = next((self.records[folder] for folder in folders if folder in self.records), None)
            return found if found is None or today or _equal(found.executions[0].outs, execution.outs) else None
        cached, here = self._cached(out), self.root / out.path
        if here.is_file() and (self.md5(here) == out.md5 or (today and not cached.is_file())):
            return record_of(read_json(here), out.path)
        return record_of(read_json(cached), out.path) if cached.is_file() else None

    def check(self, content: Content, today: bool) -> tuple[str, str]:
        """Return whether a file or folder has its expected hash (VERIFIED, CHANGED, ABSENT), and where it was found.

        today: whether the file in place should have this hash: a different one is then CHANGED. Otherwise DVC's cache
        and git's history are searched.
        """
        path = self.root / content.path
        if path.exists():
            now = self.md5(path)
            if now == content.md5 and content.sha256 in ("", self.sha256(path) if content.sha256 else ""):
                return VERIFIED, "in place"
            if today:
                return CHANGED, f"now {now[:12]}"
        if self._in_cache(content):
            return VERIFIED, "in DVC's cache"
        if commit := self._in_git(content):
            return VERIFIED, f"in git at {commit[:12]}"
        other = "; another version is in place" if path.exists() else ""
        return ABSENT, f"pinned by hash{other}"

    @cache  # noqa: B019 - a project lives as long as the command
    def md5(self, path: Path) -> str:
        return md5_of(path, self.root)

    @cache  # noqa: B019 - a project lives as long as the command
    def sha256(self, path: Path) -> str:
        return sha256_of(path)

    @cache  # noqa: B019 - a project lives as long as the command
    def _in_cache(self, content: Content) -> bool:
        """Return whether DVC's cache holds the whole content, and each file in it has the hash that names it."""
        if not MD5.fullmatch(content.md5[:32]):
            return False
        path = self._cached(content)
        if not path.is_file() or md5_of(path, self.root) != content.md5[:32]:
            return False
        return not content.md5.endswith(".dir") or all(ordered_map(self._holds, _listing(path), THREADS))

    def _holds(self, md5: str) -> bool:
        path = self._place(md5)
        return MD5.fullmatch(md5) is not None and path.is_file() and md5_of(path, self.root) == md5

    def _cached(self, content: Content) -> Path:
        return self._place(content.md5)

    def _place(self, md5: str) -> Path:
        return self.cache_dir / md5[:2] / md5[2:]

    @cached_property
    def cache_dir(self) -> Path:
        words = ["dvc", "cache", "dir"]
        try:
            done = subprocess.run(words, cwd=self.root, capture_output=True, text=True, check=False)
        except OSError:
            return self.root / ".dvc/cache/files/md5"
        place = Path(done.stdout.strip() or ".dvc/cache")
        return (self.root / place) / "files" / "md5"

    @cache  # noqa: B019 - a project lives as long as the command
    def _in_git(self, content: Content) -> str:
        """Return a commit that holds the content, empty if there is none."""
        if Path(content.path).is_absolute():
            return ""
        for commit in git("-C", str(self.root), "log", "--all", "--format=%H", "--", content.path).split():
            if self.md5_in(commit, content.path) == content.md5:
                return commit
        return ""

    def md5_in(self, commit: str, path: str) -> str:
        """Return DVC's hash of a file or folder in a commit, empty if it is not there."""
        names = self._names_in(commit, path)
        hashes = {name: _md5(self.shown(commit, name)) for name in names}
        if path in hashes:
            return hashes[path]
        listing = [{"md5": hashes[name], "relpath": name.removeprefix(f"{path}/")} for name in sorted(names)]
        return _md5(json.dumps(listing, sort_keys=True).encode()) + ".dir" if listing else ""

    def _names_in(self, commit: str, *paths: str) -> list[str]:
        here = ["--literal-pathspecs", "-C", str(self.root)]
        names = git(*here, "ls-tree", "-r", "-z", "--name-only", commit, "--", *paths)
        return [name for name in names.split("\0") if name]

    def shown(self, commit: str, path: str) -> bytes:
        """Return the bytes of a file in a commit, empty if it is not there."""
        words = ["git", "-C", str(self.root), "show", f"{commit}:./{path}"]
        return subprocess.run(words, capture_output=True, check=False).stdout

    def past(self, md5: str, problems: list[str]) -> Iterator[LineageSource]:
        """Yield a source for each commit or DVC experiment whose dvc.lock has an out with this hash, newest first.

        problems: gets a line for each damaged dvc.lock.
        """
        locks = ["dvc.lock", "pipelines/*/dvc.lock"]
        for commit in git("-C", str(self.root), "log", "--all", "--format=%H", f"-S{md5}", "--", *locks).split():
            executions = []
            for name in self._names_in(commit, "dvc.lock", "pipelines"):
                if Path(name).name == "dvc.lock":
                    try:
                        executions += parse_dvc_lock(self.shown(commit, name).decode(errors="replace"), name)
                    except StppError:
                        where = f"{name} of commit {commit[:12]}"
                        problems.append(f"{where}: is damaged; name an MLflow run of the model instead (runs:/ID)")
            if any(out.md5 == md5 for execution in executions for out in execution.outs):
                yield LineageSource(f"dvc.lock of commit {commit[:12]}", executions, today=False)


def _listing(path: Path) -> Iterator[str]:
    """Return the md5 of every file of a folder, from DVC's listing of the folder (JSON).

    The listing may name 10^6 files, so it is searched for the key and not parsed as a whole. File names cannot be
    mistaken for the key, because JSON escapes the quotes in them.
    """
    if not path.stat().st_size:
        return iter([""])  # an empty file is no listing: the empty md5 fails the check
    with path.open("rb") as file:
        text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return (found[1].decode(errors="replace") for found in re.finditer(rb'"md5": ?"([^"]*)"', text))


def record_of(raw: Any, where: str) -> LineageSource | None:
    """Return the lineage record in a run.json, or None if an older stpp wrote the file without one.

    where: the name of the run.json, for messages. Raises StppError naming it if its record is damaged.
    """
    if isinstance(raw, dict) and "lineage" not in raw:
        return None
    try:
        digests = {key: str(raw[key]) for key in ("stpp.data.digest", "stpp.split.digest") if key in raw}
        return LineageSource(where, from_json(raw["lineage"]), today=False, digests=digests)
    except (KeyError, TypeError, ValueError):
        remedy = f"; restore it with `dvc checkout {where}`" if where.endswith("run.json") else ""
        raise StppError(f"{where}: its lineage is damaged or was edited{remedy}") from None


def sources(
    project: Project, content: Content, remote: Callable[[Content], LineageSource | None]
) -> Iterator[LineageSource]:
    """Yield the lineage sources that say how a file was made, nearest first.

    They are dvc.lock and the records in place, then dvc.lock files in git's history, then MLflow. remote: asks MLflow
    for the record of a content. Raises StppError at the end, naming every damaged dvc.lock in git's history.
    """
    problems: list[str] = []
    known = [project.lock, *project.records.values()]
    yield from (s for s in known if _made(s, content))
    yield from project.past(content.md5, problems)
    if (found := remote(content)) is not None and _made(found, content):
        yield found
    raise_problems(problems, f"{content.path}, which no other dvc.lock lists")


def _equal(one: tuple[Content, ...], other: tuple[Content, ...]) -> bool:
    return {(c.path, c.md5) for c in one} == {(c.path, c.md5) for c in other}


def _made(source: LineageSource, content: Content) -> bool:
    return any(out.md5 == content.md5 for execution in source.executions for out in execution.outs)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
