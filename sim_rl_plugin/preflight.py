"""What trainings need of a machine, tried out one by one."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch

from sim_rl_plugin import __version__, registry
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.ranks import Place

_LEAST = {"torch": (2, 7), "numpy": (1, 24), "tensordict": (0, 7), "mujoco": (3, 3)}
_SHARED_MEMORY = Path("/dev/shm")
_LEAST_SHARED_BYTES = 64 * 2**20
_DIALS_S = 5.0


@dataclass(frozen=True)
class Finding:
    """What one check has found.

    Attributes:
        subject: What was looked at.
        kind: ``ok``; ``note``, which matters to some trainings only; or ``problem``.
        found: What there is.
        advice: What to do about it.
    """

    subject: str
    kind: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


def check_everything(num_processes: int = 2, endpoint: str = "", timeout_s: float = 60.0) -> Iterator[Finding]:
    """Yield the findings, one check after the other.

    Args:
        num_processes: Processes of the trial of collectives.
        endpoint: ``host:port`` of a rendezvous to try; empty for none.
        timeout_s: Longest time of one trial.
    """
    yield from check_versions()
    yield from check_devices()
    yield check_variables()
    yield check_shared_memory(_SHARED_MEMORY)
    yield check_host_name()
    for backend in backends():
        yield check_collectives(backend, num_processes, timeout_s)
    if endpoint:
        yield check_rendezvous(endpoint)
    yield from check_simulators()


def check_versions() -> Iterator[Finding]:
    """Compare what is installed with what is needed."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("sim-rl-plugin", "ok", __version__)
    for package, least in _LEAST.items():
        wanted = ".".join(map(str, least))
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield Finding(package, "problem", "not installed", f'pip install "{package}>={wanted}"')
            continue
        numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
        is_enough = numbers >= least
        advice = "" if is_enough else f'pip install --upgrade "{package}>={wanted}"'
        yield Finding(package, "ok" if is_enough else "problem", version, advice)


def check_devices() -> Iterator[Finding]:
    """Look for GPUs, and for torch's use of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cpu", "ok", f"{cores} cores may be used")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        try:
            torch.ones(8, device=f"cuda:{index}").sum().item()
        except RuntimeError as error:
            advice = "the driver or the card is broken, or another program has taken all of its memory: see nvidia-smi"
            yield Finding(f"cuda:{index}", "problem", f"{properties.name}: {_one_line(error)}", advice)
            continue
        yield Finding(f"cuda:{index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        has_card = shutil.which("nvidia-smi") is not None and _runs(["nvidia-smi", "-L"])
        if has_card and torch.version.cuda is None:
            yield Finding("gpu", "problem", "there is one, and this torch is built for the CPU",
                          "install torch for CUDA: https://pytorch.org/get-started")  # fmt: skip
        elif has_card:
            yield Finding("gpu", "problem", f"there is one, and torch (CUDA {torch.version.cuda}) cannot use it",
                          "update the driver, or install a torch for an older CUDA")  # fmt: skip
        else:
            yield Finding("gpu", "note", "none: trainings run on the CPU")


def check_variables() -> Finding:
    """Read what a launcher has set."""
    try:
        place = Place.here()
    except UserError as error:
        return Finding("launcher's variables", "problem", str(error), "unset them, or start by a launcher")
    if not place.is_distributed:
        return Finding("launcher's variables", "ok", "none, this is the only process")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    found = f"rank {place.rank} of {place.world_size}"
    if missing:
        return Finding("launcher's variables", "problem", f"{found}, without {' and '.join(missing)}",
                       "set them to host and port of rank 0")  # fmt: skip
    return Finding("launcher's variables", "ok", found)


def check_shared_memory(folder: Path) -> Finding:
    """Look at the memory in which NCCL and simulators' worker processes exchange data."""
    if not folder.is_dir():
        return Finding("shared memory", "note", f"there is no {folder} on this system")
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**20:.0f} MiB free in {folder}"
    if free < _LEAST_SHARED_BYTES:
        return Finding("shared memory", "problem", found,
                       "in a container, start it with --shm-size=1g or --ipc=host; in Kubernetes, mount an emptyDir "
                       "with medium: Memory there")  # fmt: skip
    return Finding("shared memory", "ok", found)


def check_host_name() -> Finding:
    """Resolve this machine's name, by which others look for it."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        return Finding("host name", "note", f"{name} has no address",
                       "for several machines, add it to /etc/hosts, or set MASTER_ADDR or --rdzv-endpoint to an "
                       "address")  # fmt: skip
    if address.startswith("127."):
        return Finding("host name", "note", f"{name} is {address}, which no other machine reaches",
                       "for several machines, name this one by its address in the network")  # fmt: skip
    return Finding("host name", "ok", f"{name} is {address}")


def backends() -> list[str]:
    """Return the backends that this machine's trainings would use."""
    return ["gloo", *(["nccl"] if torch.cuda.is_available() and torch.distributed.is_nccl_available() else [])]


_TRIAL = """
import os, sys, time
from datetime import timedelta
import torch
backend, rank = sys.argv[1], int(os.environ["RANK"])
if backend == "nccl":
    torch.cuda.set_device(rank)
torch.distributed.init_process_group(backend, timeout=timedelta(seconds=float(sys.argv[2])))
numbers = torch.full((250_000,), float(rank), device="cuda" if backend == "nccl" else "cpu")
torch.distributed.all_reduce(numbers)
size = torch.distributed.get_world_size()
assert numbers[0].item() == size * (size - 1) / 2, numbers[0].item()
start_s = time.perf_counter()
for _ in range(10):
    torch.distributed.all_reduce(numbers)
numbers.sum().item()
if rank == 0:
    print("ms", (time.perf_counter() - start_s) * 100)
torch.distributed.destroy_process_group()
"""


def check_collectives(backend: str, num_processes: int, timeout_s: float) -> Finding:
    """Let processes meet on this machine and add numbers up."""
    subject = f"collectives ({backend})"
    if backend == "nccl":
        num_processes = min(num_processes, torch.cuda.device_count())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num_processes)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _TRIAL, backend, str(timeout_s)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_processes)
    ]
    try:
        results = [process.communicate(timeout=timeout_s + 30.0) for process in processes]
    except subprocess.TimeoutExpired:
        return Finding(subject, "problem", f"{num_processes} processes did not meet within {timeout_s:.0f} s",
                       f"a firewall on the loopback, or the wrong network card: set {_interface(backend)}")  # fmt: skip
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(processes, results, strict=True):
        if process.returncode != 0:
            lines = errors.strip().splitlines() or [f"status {process.returncode}"]
            return Finding(subject, "problem", _one_line(lines[-1]),
                           f"set {_interface(backend)} to the network card (`ip address` lists them), or set "
                           "NCCL_DEBUG=INFO and look again")  # fmt: skip
    took = re.search(r"ms ([\d.]+)", results[0][0])
    speed = f", 1 MB in {float(took[1]):.1f} ms" if took else ""
    return Finding(subject, "ok", f"{num_processes} processes{speed}")


def check_rendezvous(endpoint: str) -> Finding:
    """Dial a rendezvous."""
    host, colon, port = endpoint.rpartition(":")
    if not colon or not port.isdigit():
        return Finding("rendezvous", "problem", f"{endpoint!r} is no host:port", "such as node0:29400")
    try:
        with socket.create_connection((host, int(port)), timeout=_DIALS_S):
            return Finding("rendezvous", "ok", f"{endpoint} answers")
    except ConnectionRefusedError:
        return Finding("rendezvous", "note", f"{host} can be reached, and nobody listens on port {port}",
                       "so it is before the first machine has started its training")  # fmt: skip
    except OSError as error:
        return Finding("rendezvous", "problem", f"{endpoint}: {error.strerror or error}",
                       "is the name right, and does a firewall let this port through?")  # fmt: skip


def check_simulators() -> Iterator[Finding]:
    """Say which simulators are installed; what is missing is a note, for one is enough."""
    for owned in registry.owned_entries("adapters"):
        entry = owned.entry
        missing = registry.missing_requirements(entry)
        if missing:
            yield Finding(f"simulator {entry.name}", "note", f"{', '.join(missing)} not installed",
                          registry.install_command(entry))  # fmt: skip
            continue
        try:
            registry.load("adapters", entry.name)
        except (UserError, ImportError, RuntimeError, OSError) as error:
            yield Finding(f"simulator {entry.name}", "problem", _one_line(error),
                          registry.install_command(entry))  # fmt: skip
        else:
            yield Finding(f"simulator {entry.name}", "ok", "can be imported")


def _interface(backend: str) -> str:
    return "NCCL_SOCKET_IFNAME" if backend == "nccl" else "GLOO_SOCKET_IFNAME"


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
