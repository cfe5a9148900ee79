"""A cache of decoded images and masks on disk, memory-mapped: a file is decoded once, not in every epoch.

The cache is no second source of truth. Pixels are stored under the sha256 that the manifest gives for their file, and
the file is checked against that hash when it is decoded. The folder may be removed at any time. Results are bit for bit
the same with the cache and without it.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from stpp.data import images
from stpp.params.models import Runtime
from stpp.run.code import import_closure, source_path
from stpp.store import decoding
from stpp.store.files import StppError, atomic_write, sha256

Pixels = NDArray[np.uint8]
HEADER = 128
"""Bytes of a .npy file before its values."""


class PixelCache:
    """A cache of at most `limit` bytes below a folder, shared by any number of processes at once.

    When it is full, nothing is added and nothing is evicted. An epoch reads every image once, in a random order: an
    evicted image would be needed again just as soon as the one that replaced it.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder / _way()
        self.limit = limit
        self.full = False
        with self._trying():
            for other in folder.glob("*"):
                if other != self.folder:
                    shutil.rmtree(other, ignore_errors=True)
            with self._total() as total:  # counted anew: files may have been removed, or a process was killed
                for half in self.folder.glob("*/.*.partial"):
                    half.unlink()
                _write(total, sum(kept.stat().st_size for kept in self.folder.glob("*/*.npy")))

    def read(self, path: Path, digest: str, decode: Callable[[BufferedReader], Pixels], kind: str = "") -> Pixels:
        """Return the pixels of a file from the cache; if they are missing, decode the file and add them.

        Cached pixels are a read-only memory map: the disk is read only where the array is accessed.
        digest: the file's sha256. kind: what else the pixels depend on; it becomes part of the cached file's name.
        Raises StppError if the pixels are not in the cache and the file has another sha256.
        """
        kept = self.folder / digest[:2] / f"{digest}{kind}.npy"
        try:
            return np.asarray(np.load(kept, mmap_mode="r"))
        except OSError:  # usually: the pixels are not in the cache yet
            pass
        except (ValueError, EOFError):  # the cached file is damaged: a disk lost what it had written
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
        """Catch an OSError of the block, print it, and add nothing to the cache any more: training only gets slower."""
        try:
            yield
        except OSError as error:
            self.full = True
            print(f"{self.folder}: {error}; no more decoded images are cached", flush=True)

    @contextmanager
    def _total(self) -> Iterator[IO[str]]:
        """Open and lock the file that holds the sum of all sizes in bytes: one process adds at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "bytes").open("a+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            file.seek(0)
            yield file


def open_cache(runtime: Runtime, home: Path) -> PixelCache | None:
    """Return the cache in `home`, the project's folder `.stpp`; None if `runtime.cache_gb` is not set."""
    return None if runtime.cache_gb is None else PixelCache(home / "decoded", int(runtime.cache_gb * 1e9))


def _way() -> str:
    """Return a hash of how files are decoded: the decoding code, and the versions of the decoders.

    It names the cache's folder, since pixels that were decoded in another way must not be used.
    """
    code = (sha256(source_path(name)) for name in sorted(import_closure("stpp.data.mask_pixels")))
    return hashlib.sha256(" ".join((*code, *decoding.versions())).encode()).hexdigest()[:16]


def _write(total: IO[str], value: int) -> None:
    total.seek(0)
    total.truncate()
    total.write(str(value))
    total.flush()
