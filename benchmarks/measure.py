"""Times two or more implementations in turn, so that other load on the machine affects all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

import torch

from stpp.engine.device import emulates_bfloat16, keep_freed_memory


def instructions() -> set[str]:
    """Return the instruction sets of the processor, by their names in Linux."""
    return next((set(line.split()) for line in cpuinfo() if line.startswith(("flags", "Features"))), set())


def cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


PRECISIONS = ["float32"]
"""The precisions to measure. A processor without bfloat16 instructions takes eight times as long in bfloat16."""
if torch.cuda.is_available() or not emulates_bfloat16(torch.device("cpu")):
    PRECISIONS.append("bfloat16")


def plain_memory() -> None:
    """Keep as much freed memory as GNU's malloc keeps by itself after a few large tensors were freed."""
    keep_freed_memory(2**25, 2**26)


class Row(TypedDict):
    """A line of the table: units per second of the reference and of stpp, their ratio, its target, and a note."""

    part: str
    unit: str
    reference: float
    ours: float
    ratio: float
    target: float
    note: str


def seconds(
    ways: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the median time of every implementation over `repeats` rounds; a round runs each of them once."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = clock()
            way()
            times[name].append(clock() - began)
    return {name: statistics.median(several) for name, several in times.items()}


def row(part: str, unit: str, units: int, reference: float, ours: float, target: float, note: str) -> Row:
    """Return a line of the table. reference, ours: seconds for `units`."""
    return Row(
        part=part,
        unit=unit,
        reference=units / reference,
        ours=units / ours,
        ratio=reference / ours,
        target=target,
        note=note,
    )
