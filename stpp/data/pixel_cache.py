"""Decoded images and masks on disk, mapped into memory: decoding is paid for once, not in every epoch.

Never a second truth: pixels lie under the sha256 that the manifest has of their file, which is checked when they are
decoded. The folder may be removed at any time, and results are the same bits with it and without.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray

from stpp.data import images
from stpp.params.models import Runtime
from stpp.run.code import closure, source
from stpp.store.files import StppError, atomic_write, sha256

Pixels = NDArray[np.uint8]
HEADER = 128
"""Bytes of a .npy file before its values."""


class PixelCache:
    """A cache of `limit` bytes at most below a folder, for any number of processes at once.

    When it is full nothing is added, and nothing thrown out: an epoch reads every image once, in a random order, and
    what made place for another would be missed as soon as that.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder / _way()
        self.limit = limit
        self.full = False
        with self._trying():
            for other in folder.glob("*"):
                if other != self.folder:
                    shutil.rmtree(other, ignore_errors=True)
            with self._total() as total:  # counted anew: someone may have removed files, or was killed
                for half in self.folder.glob("*/.*.partial"):
                    half.unlink()
                _write(total, sum(kept.stat().st_size for kept in self.folder.glob("*/*.npy")))

    def read(self, path: Path, digest: str, decode: Callable[[BufferedReader], Pixels], kind: str = "") -> Pixels:
        """The pixels of a file, decoded now unless they are there; then read-only, and read from disk where looked at.

        digest: the file's sha256. kind: what else the pixels depend on, for a file's name.
        Raises StppError if they are not there, and the file has another sha256.
        """
        kept = self.folder / digest[:2] / f"{digest}{kind}.npy"
        try:
            return np.asarray(np.load(kept, mmap_mode="r"))
        except OSError:  # not there, as a rule
            pass
        except (ValueError, EOFError):  # of a disk that lost what it had written
            with self._trying():
                kept.unlink(missing_ok=True)
        with images.open_image(path) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise StppError(f"{path}: has changed since `prepare` read it; run `dvc repro` again, or restore it")
            file.seek(0)
            pixels = decode(file)
        if not self.full:
            self._keep(kept, pixels)
        return pixels

    def _keep(self, kept: Path, pixels: Pixels) -> None:
        with self._trying(), self._total() as total:
            size = int(total.read() or 0) + pixels.nbytes + HEADER
            self.full = size > self.limit
            if not self.full and not kept.exists():
                with atomic_write(kept) as partial, partial.open("wb") as file:
                    np.save(file, pixels)
                _write(total, size)

    @contextmanager
    def _trying(self) -> Iterator[None]:
        """What the disk refuses makes training slower, and does nothing else."""
        try:
            yield
        except OSError as error:
            self.full = True
            print(f"{self.folder}: {error}; no more decoded images are kept", flush=True)

    @contextmanager
    def _total(self) -> Iterator[IO[str]]:
        """The file that holds the sum of all sizes in bytes, locked: one process adds at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "bytes").open("a+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            file.seek(0)
            yield file


def open_cache(runtime: Runtime, home: Path) -> PixelCache | None:
    """The cache in `home`, the project's `.stpp`, if `runtime.cache_gb` asks for one."""
    return None if runtime.cache_gb is None else PixelCache(home / "decoded", int(runtime.cache_gb * 1e9))


def _way() -> str:
    """A name for how files are decoded; what was decoded in another way is of no use."""
    code = (sha256(source(name)) for name in sorted(closure("stpp.data.images")))
    parts = (*code, PIL.__version__, cv2.__version__)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _write(total: IO[str], value: int) -> None:
    total.seek(0)
    total.truncate()
    total.write(str(value))
    total.flush()
