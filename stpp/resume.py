"""Work that survives a kill: what a stage has done lies in a folder of its own, found again by what it depends on.

DVC deletes a stage's outs before it runs, so state is kept outside them, in `.stpp/` at the project's root, under a key
made of the stage's parameters, inputs and code: what DVC itself watches. Finished work stays there until dvc.lock
records it: a stage killed in between re-creates its outs from it at once.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stpp.code import closure, source
from stpp.files import StppError, digest, publish, replacing, sha256, write_json


def root() -> Path:
    """The project's root: DVC's, also when `dvc exp run --queue` works in a temporary copy."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


@dataclass(frozen=True)
class Job:
    """The folder of one stage's work, held by a lock while the stage runs."""

    stage: str
    key: str
    folder: Path

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """The file `name` of this job, made now unless an earlier attempt finished it."""
        path = self.folder / name
        if not path.exists():
            with replacing(path) as partial:
                make(partial)
        return path


def run_once(
    stage: str,
    *,
    module: str,
    sections: dict[str, Any],
    inputs: Iterable[Path],
    outs: dict[str, Path],
    work: Callable[[Job], None],
) -> None:
    """Do `work` unless it is done, then put what it left in the job's folder under the final names.

    module: the stage's own, whose imports are the code that counts. sections: the parameters that count.
    outs: name in the job's folder -> final path; "run.json" is written by the work and names this execution.
    Raises StppError if another process runs this stage with other parameters; waits for one with the same.
    """
    key = _key(module, sections, inputs)
    home = root() / ".stpp"
    with _lock(home, stage, key):
        _discard_recorded(home)
        job = Job(stage, key, home / f"{stage}-{key[:16]}")
        job.folder.mkdir(parents=True, exist_ok=True)
        finished = job.folder / "finished.json"
        if finished.exists():
            print(f"{stage}: finished before it was recorded; its results are put back", flush=True)
        else:
            work(job)
            # run.json names this very execution; its md5 is what dvc.lock will say of it.
            write_json(finished, {"key": key, "run_json": _md5(job.folder / "run.json")})
        for name, out in outs.items():
            publish(job.folder / name, out)


def _key(module: str, sections: dict[str, Any], inputs: Iterable[Path]) -> str:
    parts: list[Any] = [sections]
    parts += [digest([path]) for path in inputs]
    parts += [(name, sha256(source(name))) for name in sorted(closure(module))]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@contextmanager
def _lock(home: Path, stage: str, key: str) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"{stage}.lock").open("a+") as file:
        waited = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                pid, _, held = file.read().partition(" ")
                if held and held != key:
                    raise StppError(
                        f"{stage}: process {pid} still runs this stage with other inputs or parameters: "
                        f"wait for it, or stop it with `kill {pid}`"
                    ) from None
                if not waited:
                    print(f"{stage}: process {pid or '?'} runs this stage already; waiting for it", flush=True)
                    waited = True
                time.sleep(0.2)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()} {key}")
        file.flush()
        yield  # closing the file frees the lock, also when the process is killed


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _discard_recorded(home: Path) -> None:
    """Remove finished work that dvc.lock knows (by run.json), and all but the newest unfinished."""
    lock = Path("dvc.lock")
    recorded = "".join(p.read_text() for p in [lock, *Path("pipelines").glob("*/dvc.lock")] if p.is_file())
    unfinished: dict[str, list[Path]] = {}
    for folder in home.glob("*-????????????????"):
        finished = folder / "finished.json"
        if not finished.is_file():
            unfinished.setdefault(folder.name[:-17], []).append(folder)
        elif json.loads(finished.read_text())["run_json"] in recorded:
            shutil.rmtree(folder)
    for folders in unfinished.values():
        for old in sorted(folders, key=lambda f: f.stat().st_mtime)[:-2]:
            shutil.rmtree(old, ignore_errors=True)
