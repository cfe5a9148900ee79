"""Distributed work of one stage: one process per device, started by torchrun, with broadcast, barrier and all-reduce.

The main process (rank 0) alone writes shared files and tracks in MLflow. A single process has rank 0 of 1.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stpp.store.files import StppError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""How long processes wait for each other. If one dies, torchrun ends the others at once, without this wait."""
PATIENCE_S = 20.0
"""Seconds that a process waits before it raises an error that another process may have caused or reports, too."""


def rank() -> int:
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def local_rank() -> int:
    """Return the rank of this process on its machine, which is also the index of its device."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """Return how many processes work together, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_main() -> bool:
    return rank() == 0


def shard(items: Sequence[T]) -> list[T]:
    """Return this process's share of `items`: every `world_size()`-th, from index `rank()`."""
    return list(items[rank() :: world_size()])


@contextmanager
def process_group() -> Iterator[None]:
    """Open the process group that `broadcast`, `barrier` and `all_reduce` need; a single process needs none.

    Inside it, only the main process (rank 0) prints to standard output.
    """
    if world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        with Path(os.devnull).open("w") as silence, nullcontext() if is_main() else redirect_stdout(silence):
            yield
    except (StppError, RuntimeError) as error:
        # An error that all processes find is reported by the main process. A process that lost a peer has nothing to
        # report. Both wait here: torchrun ends them when the process with the real error exits.
        if (
            (isinstance(error, StppError) and not is_main())
            or isinstance(error, dist.DistError)
            or "gloo" in str(error)
        ):
            time.sleep(PATIENCE_S)
        raise
    dist.destroy_process_group()  # not after an error: it would wait for the other processes


def broadcast(value: T) -> T:
    """Return the `value` of the main process (rank 0) in every process; `value` must be picklable."""
    if world_size() == 1:
        return value
    import torch
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def barrier() -> None:
    """Wait until all processes have called this; files written before it can be read after it."""
    if world_size() > 1:
        import torch
        import torch.distributed as dist

        dist.all_reduce(torch.zeros(1))


def all_reduce(value: "Tensor") -> "Tensor":
    """Return the sum of a tensor over all processes, without changing `value`."""
    if world_size() == 1:
        return value
    import torch.distributed as dist

    total = value.clone()
    dist.all_reduce(total)
    return total
