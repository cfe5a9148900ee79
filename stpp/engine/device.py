"""Where and how to compute: device, threads, memory, precision."""

import ctypes
import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from stpp.params.models import Model, Runtime
from stpp.run.distributed import local_rank, world_size
from stpp.store.files import StppError

COMPILED_FROM = 1000
"""With `runtime.compile: auto`, shorter trainings are not compiled, since they would not win back the time it takes."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in GNU's malloc.h


def setup_device(runtime: Runtime) -> torch.device:
    """Return the device that `runtime` asks for, and set torch's threads and this process's use of memory.

    With several processes, each gets the GPU with the number of its local rank. Raises StppError if `runtime` asks for
    CUDA, but there is no CUDA device.
    """
    keep_freed_memory()
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise StppError("runtime.device is `cuda`, but torch finds no CUDA device; set it to `auto` or `cpu`")
    name = runtime.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(f"cuda:{local_rank()}" if name == "cuda" and world_size() > 1 else name)


def keep_freed_memory(block: int = 2**26, free: int = 2**28) -> None:
    """Let this process keep memory that it frees, if the C library is GNU's.

    block: the memory of tensors below this size in bytes is kept. free: bytes that may stay unused at the end of the
    heap. Otherwise the kernel takes the memory back, and clears it again for every layer of every step: a quarter of
    the time of training on a CPU. Keeping more is not faster, and large images would leave gaps of gigabytes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, block)
        mallopt(M_TRIM_THRESHOLD, free)


def compiles(runtime: Runtime, device: torch.device, iterations: int) -> bool:
    """Return whether `torch.compile` is to compile the network for a training of so many iterations.

    Raises StppError if `runtime.compile` is `true`, but there are several processes or no C++ compiler.
    """
    compiler, one = shutil.which(os.environ.get("CXX", "g++")), world_size() == 1
    if runtime.compile == "auto":
        return device.type == "cuda" and compiler is not None and one and iterations >= COMPILED_FROM
    if runtime.compile and not (compiler and one):
        lacking = "there are several processes" if compiler else "there is no C++ compiler (g++)"
        raise StppError(f"runtime.compile is `true`, but {lacking}; set it to `auto` or `false`")
    return runtime.compile


def autocast(model: Model, device: torch.device) -> AbstractContextManager[object]:
    """Return a context for forward passes: autocast to bfloat16 if the model asks for it, else one without effect."""
    return torch.autocast(device.type, torch.bfloat16) if model.precision == "bfloat16" else nullcontext()


def emulates_bfloat16(device: torch.device) -> bool:
    """Return whether a device is a CPU without instructions for bfloat16: it is then several times slower than float32.

    False also if torch cannot tell.
    """
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in torch 2.6
    return device.type == "cpu" and bool(known) and not any(has for name, has in known.items() if "bf16" in name)
