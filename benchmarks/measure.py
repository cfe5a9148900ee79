"""Timing of two or more ways to do the same, in turn, so that what else the machine does falls on all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

import torch

from stpp.engine.device import keep_freed_memory


def instructions() -> set[str]:
    """What the processor can do, by the names that Linux has for it."""
    return next((set(line.split()) for line in cpuinfo() if line.startswith(("flags", "Features"))), set())


def cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


PRECISIONS = ["float32"]
"""In which networks are measured. Without instructions for bfloat16 a processor takes eight times as long for it."""
if torch.cuda.is_available() or instructions() & {"avx512_bf16", "amx_bf16", "bf16"}:
    PRECISIONS.append("bfloat16")


def plain_memory() -> None:
    """Keep no more than GNU's malloc comes to by itself once a few large tensors were freed."""
    keep_freed_memory(2**25, 2**26)


class Row(TypedDict):
    """A line of the table: how many units a second, ours as a multiple of the reference, and what bounds it."""

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
    """The median time of every way over `repeats` rounds in which each has its turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = clock()
            way()
            times[name].append(clock() - began)
    return {name: statistics.median(several) for name, several in times.items()}


def row(part: str, unit: str, units: int, reference: float, ours: float, target: float, note: str) -> Row:
    """reference, ours: seconds for `units`."""
    return Row(
        part=part,
        unit=unit,
        reference=units / reference,
        ours=units / ours,
        ratio=reference / ours,
        target=target,
        note=note,
    )
