"""The launcher for processes that are there already: torchrun's, or a scheduler's, which says so in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sim_rl_plugin.errors import UserError

if TYPE_CHECKING:
    from sim_rl_plugin.launchers.request import LaunchRequest

DEFAULT_PORT = 29400
_SLURM = {"WORLD_SIZE": "SLURM_STEP_NUM_TASKS", "RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID"}
_OPEN_MPI = {
    "WORLD_SIZE": "OMPI_COMM_WORLD_SIZE",
    "RANK": "OMPI_COMM_WORLD_RANK",
    "LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_RANK",
    "LOCAL_WORLD_SIZE": "OMPI_COMM_WORLD_LOCAL_SIZE",
}


def launch(request: LaunchRequest) -> int:
    """Be one of the processes that the environment describes.

    Raises:
        UserError: It does not say where they meet.
    """
    from sim_rl_plugin.ranks import pin_device

    os.environ.update(torchruns_variables(os.environ))
    for variable in ("MASTER_ADDR", "MASTER_PORT"):
        if variable not in os.environ:
            raise UserError(
                f"{variable} is not set: the processes meet at MASTER_ADDR:MASTER_PORT, host and port of rank 0"
            )
    if request.pins_devices:
        pin_device(os.environ)
    return request.run()


def describes_several(environ: Mapping[str, str]) -> bool:
    """Return whether the environment is that of one process among several."""
    size = {**environ, **torchruns_variables(environ)}.get("WORLD_SIZE", "1")
    return size.isdigit() and int(size) > 1


def torchruns_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a scheduler's variables mean in torchrun's; nothing where those are set already.

    Of SLURM, a step (``srun``) is taken: in a batch script outside of one, the number of tasks is set, too, but there
    is one process only.
    """
    if "WORLD_SIZE" in environ or "RANK" in environ:
        return {}
    for names in (_SLURM, _OPEN_MPI):
        if names["WORLD_SIZE"] in environ and names["RANK"] in environ:
            found = {ours: environ[theirs] for ours, theirs in names.items() if theirs in environ}
            break
    else:
        return {}
    if names is _SLURM:
        per_node = environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0].partition(",")[0]
        found |= {"LOCAL_WORLD_SIZE": per_node} if per_node.isdigit() else {}
        hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST")
        if hosts and "MASTER_ADDR" not in environ:
            found["MASTER_ADDR"] = first_host(hosts)
    if "MASTER_PORT" not in environ:
        # Two jobs on one machine shall not meet each other.
        job = environ.get("SLURM_JOB_ID", "0")
        found["MASTER_PORT"] = str(DEFAULT_PORT + (int(job) % 10_000 if job.isdigit() else 0))
    return found


def first_host(hosts: str) -> str:
    """Return the first of SLURM's list of hosts, such as ``gpu[03-07,12],cpu1``."""
    match = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\])?([^,]*)", hosts)
    return hosts if match is None else match[1] + (match[2] or "") + match[3]
