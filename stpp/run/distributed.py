"""Several processes that do one stage's work together, one on each device, as torchrun starts them.

The first one alone writes what they have in common, and tracks. Alone, a process is the first of one.
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
"""How long processes wait for each other; one that dies ends the others at once."""
PATIENCE_S = 20.0
"""After an error that may be another process's, until this one says it."""


def rank() -> int:
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def local_rank() -> int:
    """The number of the process on its machine, and of its device."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """How many processes work together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_main() -> bool:
    return rank() == 0


def shard(items: Sequence[T]) -> list[T]:
    """The items that fall to this process."""
    return list(items[rank() :: world_size()])


@contextmanager
def process_group() -> Iterator[None]:
    """The group in which `broadcast`, `barrier` and `all_reduce` work."""
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
        # What all find the first one says; and who lost a peer is ended with it, and has nothing to say.
        if (
            (isinstance(error, StppError) and not is_main())
            or isinstance(error, dist.DistError)
            or "gloo" in str(error)
        ):
            time.sleep(PATIENCE_S)
        raise
    dist.destroy_process_group()  # not after an error, where it would wait for the others


def broadcast(value: T) -> T:
    """What the first process has for `value`."""
    if world_size() == 1:
        return value
    import torch
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def barrier() -> None:
    """Wait until every process is here: what they wrote before can be read after."""
    if world_size() > 1:
        import torch
        import torch.distributed as dist

        dist.all_reduce(torch.zeros(1))


def all_reduce(value: "Tensor") -> "Tensor":
    """The sum of a tensor over all processes."""
    if world_size() == 1:
        return value
    import torch.distributed as dist

    total = value.clone()
    dist.all_reduce(total)
    return total
