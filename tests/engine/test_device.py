"""Tests of `setup_device`: it keeps freed memory, and names a missing device."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stpp.engine.device import emulates_bfloat16, setup_device
from stpp.params.models import Runtime
from stpp.store.files import StppError

FAULTS = """
import resource, sys
import torch
from stpp.engine.device import emulates_bfloat16, setup_device
from stpp.params.models import Runtime
if sys.argv[1] == "start":
    setup_device(Runtime())
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):  # the second time places have been found
    before = faults()
    for _ in range(20):
        torch.ones(10_000_000)  # 40 MB
print(faults() - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not GNU's"
)
def test_freed_memory_is_used_again_without_the_kernel() -> None:
    def faults(way: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("start") < faults("plain") / 5


def test_the_error_names_a_missing_device() -> None:
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(StppError, match=r"runtime\.device is `cuda`"):
        setup_device(Runtime(device="cuda"))


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no list of the processor's instructions")
def test_a_cpu_emulates_bfloat16_if_the_kernel_lists_no_instruction_for_it() -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    assert emulates_bfloat16(torch.device("cpu")) == (not any("bf16" in flag for flag in flags))
    assert not emulates_bfloat16(torch.device("cuda"))
