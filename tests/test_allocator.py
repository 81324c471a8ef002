"""The allocator keeps freed memory when it is told to, and only then."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from sim_rl_plugin.allocator import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "keep" else None)
torch.set_num_threads(1)
layers = [torch.nn.Linear(64, 512), torch.nn.ELU(), torch.nn.Linear(512, 512), torch.nn.ELU(), torch.nn.Linear(512, 8)]
network, x = torch.nn.Sequential(*layers), torch.randn(8192, 64)
faults = []
for _ in range(20):
    network(x).square().mean().backward()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[7])
"""


def said_and_faults(argument: str, tunables: str = "") -> tuple[str, int]:
    """Return what the function said, and how many pages 12 passes faulted in after the first ones."""
    command = ["env", f"GLIBC_TUNABLES={tunables}", sys.executable, "-c", SCRIPT, argument]
    said, faults = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return said, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_passes_fault_in_their_activations_once():
    said, kept = said_and_faults("keep")
    _, given_back = said_and_faults("leave")
    assert said == "True"
    # A pass allocates five activations of 16 MiB, which are 4096 pages of 4 KiB each.
    assert kept < given_back / 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_the_user_said_counts():
    assert said_and_faults("keep", "glibc.malloc.mmap_threshold=131072")[0] == "False"
