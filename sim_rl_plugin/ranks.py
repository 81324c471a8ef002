"""The processes of a distributed training: which of them this is, and what is its share of everything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from sim_rl_plugin import distributed
from sim_rl_plugin.errors import UserError

Made = TypeVar("Made")

_VARIABLES = {"rank": "RANK", "local_rank": "LOCAL_RANK", "world_size": "WORLD_SIZE"}
_SEED_STRIDE = 7_919
"""Between two restarts of a training, so that no start draws the random numbers of another."""


@dataclass(frozen=True)
class Place:
    """The place of this process among those of a training.

    Attributes:
        rank: Its number among all, from 0.
        local_rank: Its number among those of its machine.
        world_size: How many there are.
        local_world_size: How many there are on its machine.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @classmethod
    def here(cls) -> Place:
        """Return the place that a launcher's environment variables tell, as torchrun sets them.

        Raises:
            UserError: A variable is no number, or the numbers contradict each other.
        """
        numbers = {name: _number(variable) for name, variable in _VARIABLES.items()}
        world_size = numbers["world_size"]
        if world_size is None or world_size == 1:
            return cls()
        rank = numbers["rank"]
        if rank is None or not 0 <= rank < world_size:
            raise UserError(f"RANK: expected a number below WORLD_SIZE={world_size}, found {os.environ.get('RANK')!r}")
        local_rank = numbers["local_rank"]
        local_rank = rank if local_rank is None else local_rank
        return cls(rank, local_rank, world_size, _number("LOCAL_WORLD_SIZE") or 1)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    def multi_gpu_cfg(self) -> dict[str, int] | None:
        """Return what rsl_rl's algorithms are told of it; None for a single process."""
        if not self.is_distributed:
            return None
        return {"global_rank": self.rank, "local_rank": self.local_rank, "world_size": self.world_size}

    def share_of(self, num_envs: int) -> slice:
        """Return which of a training's environments are this rank's; the first ranks have one more if need be.

        Raises:
            UserError: There are fewer environments than ranks.
        """
        if num_envs < self.world_size:
            raise UserError(f"num_envs: {num_envs} environments are too few for {self.world_size} processes, among "
                            "which they are divided")  # fmt: skip
        each, more = divmod(num_envs, self.world_size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def seed(self, seed: int, num_envs: int, completed: int = 0) -> int:
        """Return this rank's seed: that of its first environment, so that simulators that count up do not overlap.

        Args:
            seed: The training's.
            num_envs: Environments of the training.
            completed: Iterations that are done, where a start does not go on with the random numbers of the last.
        """
        if not self.is_distributed:
            return seed
        return (seed + self.share_of(num_envs).start + _SEED_STRIDE * completed) % 2**63


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{variable}: a launcher sets it to a number, found {text!r}") from None


# Devices and cores


def pin_device(environ: MutableMapping[str, str]) -> None:
    """Let this process see one GPU only, that of its local rank, before anything has looked for GPUs.

    torch, JAX and Warp then mean the same one by their first device, whatever order each of them would have.
    ``LOCAL_RANK`` becomes 0, which is the device's number from now on. Where there are fewer devices than local
    ranks, nothing is changed.
    """
    environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    local_rank = int(environ.get("LOCAL_RANK", "0"))
    if local_rank < len(devices) > 1:
        environ["CUDA_VISIBLE_DEVICES"] = devices[local_rank]
        environ["LOCAL_RANK"] = "0"


def usable_cores() -> int:
    """Return how many cores are this process's: its share of those that it may use, if ranks divide a machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    except ValueError:
        ranks = 1
    if ranks > 1 and os.environ.get("SLURM_CPUS_PER_TASK", "").isdigit():
        return max(1, min(cores, int(os.environ["SLURM_CPUS_PER_TASK"])))
    return max(1, cores // ranks)


def device_of(name: str, place: Place) -> str:
    """Return the device of this rank: a CUDA device means that of its local rank.

    Raises:
        UserError: The machine has fewer devices than ranks.
    """
    if not place.is_distributed or not (name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())):
        return name
    if place.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"device: local rank {place.local_rank} has no GPU of its own, torch finds {torch.cuda.device_count()}: "
            "say a smaller --nproc-per-node, or --device cpu"
        )
    return f"cuda:{place.local_rank}"


# The process group


class LostRanks(UserError):
    """The other processes cannot be reached: they have not started, or are gone."""


def join() -> None:
    """Join the process group that a launcher's variables describe; nothing happens within one.

    Gradients travel by NCCL between GPUs and by gloo between CPUs; what lies on the host goes by gloo in any case.

    Raises:
        LostRanks: A variable is missing, or the others cannot be reached.
    """
    if distributed.is_running():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        torch.distributed.init_process_group(backend)
    except (ValueError, RuntimeError) as error:
        where = f"{os.environ.get('MASTER_ADDR', '(MASTER_ADDR)')}:{os.environ.get('MASTER_PORT', '(MASTER_PORT)')}"
        reason = " ".join(str(error).split())[:300]
        raise LostRanks(
            f"cannot join the other processes at {where}: {reason} (`sim-rl doctor` looks further)"
        ) from error


def join_at(place: Place, device: str) -> None:
    """Join the process group, on the GPU of the local rank or on another kind of device.

    Raises:
        UserError: It is another GPU, or the other processes cannot be reached.
    """
    if torch.device(device).type == "cuda" and device != f"cuda:{place.local_rank}":
        raise UserError(f"device: local rank {place.local_rank} learns on 'cuda:{place.local_rank}', found {device!r}")
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(torch.device(device))
    join()


def leave() -> None:
    """Leave the process group, if there is one."""
    if distributed.is_running():
        torch.distributed.destroy_process_group()


def by_rank_0(make: Callable[[], Made]) -> Made:
    """Return what rank 0 makes, plain data, on every rank.

    Raises:
        UserError: That of rank 0, on every rank.
    """
    made: Any = None
    failure: UserError | None = None
    if torch.distributed.get_rank() == 0:
        try:
            made = make()
        except UserError as error:
            failure = error
    made, message = distributed.of_rank_0((made, None if failure is None else str(failure)))
    if message is not None:
        raise failure or UserError(message)
    return made


@contextmanager
def failing_together() -> Iterator[None]:
    """Within the context, a ``UserError`` of one rank is one of all ranks; without a process group nothing changes.

    Raises:
        UserError: The first one, with its rank if others fare better.
    """
    if not distributed.is_running():
        yield
        return
    failure: UserError | None = None
    try:
        yield
    except UserError as error:
        failure = error
    messages = distributed.of_all_ranks(None if failure is None else str(failure))
    failed = [rank for rank, message in enumerate(messages) if message is not None]
    if failed:
        same = len(set(messages)) == 1
        raise UserError(messages[0] if same else f"rank {failed[0]}: {messages[failed[0]]}") from failure
