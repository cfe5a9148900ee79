"""Resumable stages: a stage works in a folder below `.stpp/` and finds it again after a kill.

DVC deletes a stage's outs before it runs the stage, so the state is kept outside them, in `.stpp/` at the project's
root. The folder's key is a hash of the stage's parameters, inputs and code, which are also what DVC watches. Finished
work stays there until dvc.lock records it. So a stage that is killed before that restores its outs at once.
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
from stpp.run.code import import_closure, source_path
from stpp.run.lineage import Content, contents_of, lock_files
from stpp.store.files import StppError, alive, atomic_write, publish, read_bytes, sha256, write_json
from stpp.store.records import Finished, read


def root() -> Path:
    """Return the root of the DVC project, from DVC_ROOT, or the current folder.

    In the temporary copy of `dvc exp run --queue` it is the root of the original project.
    """
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


@dataclass(frozen=True)
class Job:
    """The work folder of one stage with one key; it is locked while the stage runs."""

    stage: str
    key: str
    folder: Path
    inputs: tuple[Content, ...] = ()
    """The inputs with their hashes when the stage began. Only the main process (rank 0) has them."""
    finished: bool = False
    """Whether an earlier attempt has completed the work."""

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the path of the file `name` in this job; call `make` to write it unless an earlier attempt did."""
        path = self.folder / name
        if not path.exists():
            with atomic_write(path) as partial:
                make(partial)
        return path


@contextmanager
def open_job(
    stage: str, *, module: str, sections: dict[str, Any], inputs: Iterable[Path], outs: dict[str, Path]
) -> Iterator[Job]:
    """Open the stage's job, and copy its results to their final paths at the end of the block.

    The caller does the work inside the block unless the job is finished. With several processes, all do the work; only
    the main process (rank 0) locks, cleans up and publishes results.

    module: the stage's module; it and its imports are the code in the key. sections: the parameters in the key. inputs:
    paths whose hashes are in the key. outs: name in the job's folder -> final path; they include "run.json", which the
    work must write and which names this execution. Results stay unpublished if the dvc that started the stage is gone.

    Raises StppError if another process runs this stage with another key in this working directory. Waits for a process
    that runs it with the same key.
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
    # The first lock guards the outs: another working directory (DVC's queue) has outs of its own. The second guards
    # the job's folder, which all working directories share.
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
            print(f"{stage}: already finished, but not recorded in dvc.lock; restoring its results", flush=True)
        yield job
        if not job.finished:
            # run.json names exactly this execution: once dvc.lock holds its md5, this execution is recorded.
            write_json(record, {"key": key, "run_json": _md5(folder / "run.json")})
        if "DVC_STAGE" in os.environ and _caller() != parent:
            print(f"{stage}: dvc has exited; the next `dvc repro` will restore the results", flush=True)
            return
        ours = outs["run.json"].exists()  # then an earlier run of the stage wrote these outs
        for name, out in outs.items():
            publish(folder / name, out, ours=ours)


def _caller() -> int:
    """Return the id of the process that called the stage, or 1 if that process is gone."""
    if not (caller := os.environ.get(launch.CALLER)):
        return os.getppid()
    return int(caller) if alive(caller) else 1


def _key(module: str, sections: dict[str, Any], inputs: Iterable[Content]) -> str:
    """Return the key of a job: a hash of parameters, code and the inputs' contents, without the inputs' names."""
    return hashlib.sha256(json.dumps([recipe_hash(module, sections), *(c.sha256 for c in inputs)]).encode()).hexdigest()


def recipe_hash(module: str, sections: dict[str, Any]) -> str:
    """Return a hash of what turns a stage's inputs into its results: its parameters and code."""
    code = [(name, sha256(source_path(name))) for name in sorted(import_closure(module))]
    return hashlib.sha256(json.dumps([sections, code], sort_keys=True).encode()).hexdigest()


@contextmanager
def _lock(path: Path, stage: str, key: str) -> Iterator[None]:
    """Hold a file lock; wait if its holder has the same key, raise StppError if the holder has another key.

    It is a record lock (fcntl): it ends with the process that took it, even if children of that process live on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        waited = False
        while not _taken(file):
            file.seek(0)
            pid, _, held = file.read().partition(" ")
            if alive(pid) and held != key:
                raise StppError(
                    f"{stage}: process {pid} is still running this stage with other inputs or parameters: "
                    f"wait for it, or stop it with `kill {pid}`"
                )
            if alive(pid) and not waited:
                print(f"{stage}: process {pid} is already running this stage; waiting for it", flush=True)
                waited = True
            time.sleep(0.2)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()} {key}")
        file.flush()
        yield  # closing the file frees the lock


def _taken(file: IO[str]) -> bool:
    """Try to take the lock without waiting, and return whether this process now holds it."""
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
    """Remove job folders that are no longer needed, except those that another process works on.

    Two kinds are removed: finished jobs of any stage whose run.json a dvc.lock records, and unfinished jobs of this
    stage except the two newest. keep: the folder of the current job. It is removed, so that the work starts again, only
    if dvc.lock records it with all `outs`. In a dvc.lock that a kill has cut, some outs may be missing.
    """
    recorded = "".join(read_bytes(path).decode(errors="replace") for path in lock_files(Path()))
    unfinished = []
    for folder in home.glob(f"*-{'[0-9a-f]' * 16}"):
        finished = folder / "finished.json"
        if finished.is_file():
            try:
                known = read(finished, Finished)["run_json"] in recorded
            except StppError:
                finished.unlink()  # it is damaged: the job counts as unfinished and continues
                continue
            if not known:
                continue
            if folder == keep and all(f"path: {out.as_posix()}\n" in recorded for out in outs):
                shutil.rmtree(folder)  # DVC asks for the same work again (`repro -f`); we hold its lock, which stays
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
