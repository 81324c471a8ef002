"""What a launcher is asked to do, and which launcher is asked."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sim_rl_plugin import registry
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.launchers.environment import describes_several


@dataclass(frozen=True)
class LaunchRequest:
    """A function that shall run in every process of a training, and how many there shall be.

    Attributes:
        target: ``"module:function"``, which returns the exit status.
        arguments: Its keyword arguments, plain data.
        nproc_per_node: Processes on this machine.
        nnodes: Fewest and most machines.
        rdzv_endpoint: ``host:port`` where the machines find each other; empty on a single machine.
        rdzv_id: What their training is called.
        rdzv_conf: Further settings of PyTorch's rendezvous.
        local_addr: Address by which the other machines reach this one; empty for its name.
        max_restarts: How often the processes are started again after one of them has failed.
        pins_devices: Whether each process shall see one GPU only.
    """

    target: str
    arguments: Mapping[str, Any]
    nproc_per_node: int = 1
    nnodes: tuple[int, int] = (1, 1)
    rdzv_endpoint: str = ""
    rdzv_id: str = ""
    rdzv_conf: Mapping[str, Any] = field(default_factory=dict)
    local_addr: str = ""
    max_restarts: int = 0
    pins_devices: bool = True

    @property
    def wants_several(self) -> bool:
        """Whether there shall be more than this process, or somebody who starts it again."""
        return self.nproc_per_node > 1 or self.nnodes[1] > 1 or self.max_restarts > 0

    def run(self) -> int:
        """Call the function in this process, and return its exit status."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)(**self.arguments)


def choose_launcher(request: LaunchRequest, name: str, simulator: str | None) -> Any:
    """Return the launcher to call with a request.

    Args:
        request: What it will be asked for.
        name: What the user has named, or ``auto``: the processes that a launcher has started already are taken;
            several are started by the launcher that has the simulator's name, or else by torchrun's.
        simulator: Name of the simulator.

    Raises:
        UserError: There is no such launcher, or processes are to be started within those of another launcher.
    """
    is_started = describes_several(os.environ)
    if is_started and request.wants_several and name in ("auto", "torchrun"):
        raise UserError(
            "--nproc-per-node, --nnodes and --max-restarts start processes, but a launcher has started several already "
            "(WORLD_SIZE or SLURM's variables are set): leave them out"
        )
    if name == "auto":
        owner = simulator if simulator in registry.names("launchers") else None
        several = "environment" if is_started else "torchrun"
        name = (owner or several) if is_started or request.wants_several else "in-process"
    return registry.load("launchers", name)
