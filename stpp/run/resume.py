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
from typing import IO, Any

from stpp.run import distributed, launch
from stpp.run.code import closure, source
from stpp.run.lineage import Content, contents_of, lock_files
from stpp.store.files import StppError, alive, atomic_write, publish, read_bytes, sha256, write_json


def root() -> Path:
    """The project's root: DVC's, also when `dvc exp run --queue` works in a temporary copy."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


@dataclass(frozen=True)
class Job:
    """The folder of one stage's work, held by a lock while the stage runs."""

    stage: str
    key: str
    folder: Path
    inputs: tuple[Content, ...] = ()
    """What the stage's inputs were when it began; of several processes, the first alone knows."""
    finished: bool = False
    """Whether an earlier attempt has done all of the work."""

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """The file `name` of this job, made now unless an earlier attempt finished it."""
        path = self.folder / name
        if not path.exists():
            with atomic_write(path) as partial:
                make(partial)
        return path


@contextmanager
def job_of(
    stage: str, *, module: str, sections: dict[str, Any], inputs: Iterable[Path], outs: dict[str, Path]
) -> Iterator[Job]:
    """The stage's job, to be done here unless it is finished; at the end its results take their final names.

    Of several processes all do the work, and the first alone does the rest.

    module: the stage's own, whose imports are the code that counts. sections: the parameters that count.
    outs: name in the job's folder -> final path; "run.json" is written by the work and names this execution.
    Raises StppError if another process runs this stage with other parameters; waits for one with the same.
    """
    home = root() / ".stpp"
    if not distributed.is_main():
        key, finished = distributed.broadcast(("", True))
        yield Job(stage, key, home / f"{stage}-{key[:16]}", finished=finished)
        return
    contents = contents_of(list(inputs), Path())
    key = _key(module, sections, contents)
    parent = _caller()
    folder = home / f"{stage}-{key[:16]}"
    # Outs below another working directory (DVC's queue) are other outs; equal work is the same work wherever it runs.
    place = hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:8]
    with _lock(home / f"{stage}-{place}.lock", stage, key), _lock(_lock_of(folder), stage, key):
        _discard(home, stage, keep=folder, outs=list(outs.values()))
        folder.mkdir(parents=True, exist_ok=True)
        for half in folder.rglob(".*.partial"):
            half.unlink()
        record = folder / "finished.json"
        job = Job(stage, key, folder, tuple(contents), finished=record.exists())
        distributed.broadcast((key, job.finished))
        if job.finished:
            print(f"{stage}: finished before it was recorded; its results are put back", flush=True)
        yield job
        if not job.finished:
            # run.json names this very execution; its md5 is what dvc.lock will say of it.
            write_json(record, {"key": key, "run_json": _md5(folder / "run.json")})
        if "DVC_STAGE" in os.environ and _caller() != parent:
            print(f"{stage}: dvc is gone; the next `dvc repro` will put the results in place", flush=True)
            return
        ours = outs["run.json"].exists()  # beside what an earlier run of the stage wrote
        for name, out in outs.items():
            publish(folder / name, out, ours=ours)


def _caller() -> int:
    """The process that called the stage; 1 if it is gone."""
    if not (caller := os.environ.get(launch.CALLER)):
        return os.getppid()
    return int(caller) if alive(caller) else 1


def _key(module: str, sections: dict[str, Any], inputs: Iterable[Content]) -> str:
    """Whatever the inputs' names, equal work is the same work."""
    return hashlib.sha256(json.dumps([recipe_hash(module, sections), *(c.sha256 for c in inputs)]).encode()).hexdigest()


def recipe_hash(module: str, sections: dict[str, Any]) -> str:
    """Hash of how a stage comes from its inputs to its results: the parameters and the code that count."""
    code = [(name, sha256(source(name))) for name in sorted(closure(module))]
    return hashlib.sha256(json.dumps([sections, code], sort_keys=True).encode()).hexdigest()


@contextmanager
def _lock(path: Path, stage: str, key: str) -> Iterator[None]:
    """Hold the lock; wait for a process that does the same work, refuse to run beside one that does other work.

    A record lock: it ends with the process that took it, whatever children that leaves behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        waited = False
        while not _taken(file):
            file.seek(0)
            pid, _, held = file.read().partition(" ")
            if alive(pid) and held != key:
                raise StppError(
                    f"{stage}: process {pid} still runs this stage with other inputs or parameters: "
                    f"wait for it, or stop it with `kill {pid}`"
                )
            if alive(pid) and not waited:
                print(f"{stage}: process {pid} runs this stage already; waiting for it", flush=True)
                waited = True
            time.sleep(0.2)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()} {key}")
        file.flush()
        yield  # closing the file frees the lock


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _discard(home: Path, stage: str, keep: Path, outs: list[Path]) -> None:
    """Remove finished work of any stage that dvc.lock records (by run.json), and all but the two newest unfinished
    of this one. What another process works on stays; `keep` is begun anew if it is recorded with all its outs, which
    in a dvc.lock that a kill has cut it need not be."""
    from stpp.store.records import Finished, read

    recorded = "".join(read_bytes(path).decode(errors="replace") for path in lock_files(Path()))
    unfinished = []
    for folder in home.glob(f"*-{'[0-9a-f]' * 16}"):
        finished = folder / "finished.json"
        if finished.is_file():
            try:
                known = read(finished, Finished)["run_json"] in recorded
            except StppError:
                finished.unlink()  # the work goes on from what is there
                continue
            if not known:
                continue
            if folder == keep and all(f"path: {out.as_posix()}\n" in recorded for out in outs):
                shutil.rmtree(folder)  # its lock is ours, and stays; DVC asks for the work once more (`repro -f`)
            elif folder != keep:
                _remove(folder)
        elif folder.name[:-17] == stage and folder != keep:
            unfinished.append(folder)
    for old in sorted(unfinished, key=lambda f: f.stat().st_mtime)[:-2]:
        _remove(old)


def _remove(folder: Path) -> None:
    """Remove a job's folder unless a process holds its lock."""
    lock = _lock_of(folder)
    with lock.open("a+") as file:
        if not _taken(file):
            return
        shutil.rmtree(folder)
        lock.unlink()
