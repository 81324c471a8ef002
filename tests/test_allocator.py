"""The allocator keeps freed memory when it is told to, and only then."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from sim_rl_plugin.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(keep_freed_memory() if sys.argv[1] == "keep" else None)
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(
    ("argument", "tunables", "said", "faults_again"),
    [
        ("keep", "", "True", False),
        ("leave", "", "None", True),
        ("keep", "glibc.malloc.mmap_threshold=131072", "False", True),
    ],
)
def test_large_buffers_are_faulted_in_once(argument: str, tunables: str, said: str, faults_again: bool):
    command = ["env", f"GLIBC_TUNABLES={tunables}", sys.executable, "-c", SCRIPT, argument]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert output[0] == said
    # With pages of 4 KiB there would be 16384, with huge ones 32.
    assert (int(output[1]) > 16) == faults_again
