"""Where and how to compute: device, threads, precision."""

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from stpp.params.models import Model, Runtime
from stpp.run.distributed import local_rank, world_size
from stpp.store.files import StppError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in GNU's malloc.h


def start(runtime: Runtime) -> torch.device:
    """The device asked for, of several processes each its own, with torch's threads set.

    Raises StppError if it is not there.
    """
    keep_memory()
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise StppError("runtime.device is `cuda`, but torch finds no CUDA device; set it to `auto` or `cpu`")
    name = runtime.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(f"cuda:{local_rank()}" if name == "cuda" and world_size() > 1 else name)


def keep_memory(block: int = 2**26, free: int = 2**28) -> None:
    """Let this process keep memory that it frees, where the C library is GNU's.

    block: bytes below which a tensor's memory is kept; free: bytes of it that may lie unused at the end of the heap.
    Otherwise the kernel takes it back and clears it anew for every layer of every step: a quarter of the time of
    training on a CPU. Keeping more is no sooner, and large images would leave gaps of gigabytes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, block)
        mallopt(M_TRIM_THRESHOLD, free)


def precision(model: Model, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where the model asks for it."""
    return torch.autocast(device.type, torch.bfloat16) if model.precision == "bfloat16" else nullcontext()
