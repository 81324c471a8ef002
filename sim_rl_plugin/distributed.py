"""The collectives that training needs, on ``torch.distributed``.

What makes k ranks the same as one rank with all of their data: means are weighted by how many samples each rank has,
and moments are those of the union.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from sim_rl_plugin.position import POSITION


def is_running() -> bool:
    """Return whether this process belongs to a process group."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


# Means


def weight_of(num_samples: int, device: torch.device | str) -> torch.Tensor:
    """Return the weight of this rank's means, a scalar: 1 where all ranks have as many samples.

    All ranks must ask together.
    """
    total = torch.tensor(float(num_samples), device=device)
    _all_reduce(total, "number of samples")
    return num_samples * torch.distributed.get_world_size() / total


def average(tensors: Sequence[torch.Tensor], bucket_mb: float, weight: torch.Tensor | None = None) -> None:
    """Replace tensors by their means over all ranks, in flat buffers of at most ``bucket_mb`` MB.

    Args:
        tensors: As many, of the same shapes, on every rank.
        bucket_mb: Largest buffer, in MB.
        weight: Of this rank, see ``weight_of``; None where all are alike.
    """
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    flat *= (1.0 if weight is None else weight) / torch.distributed.get_world_size()
    for bucket in flat.split(max(1, int(bucket_mb * 2**20) // flat.element_size())):
        _all_reduce(bucket, "average of gradients")
    offset = 0
    for tensor in tensors:
        tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
        offset += tensor.numel()


def average_gradients(
    parameters: Iterable[torch.nn.Parameter],
    bucket_mb: float,
    weight: torch.Tensor | None = None,
    riders: Sequence[torch.Tensor] = (),
) -> None:
    """Replace gradients by their mean over all ranks, see ``average``; in the same collective, some numbers more.

    Parameters without a gradient are left out, so all ranks must have the same ones.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients or riders:
        average([*gradients, *riders], bucket_mb, weight)


def reduce_gradients_in_buckets(params: Iterable[torch.nn.Parameter], world_size: int, bucket_mb: float) -> None:
    """Average gradients over all ranks: rsl_rl's name for ``average_gradients``.

    Args:
        params: Parameters; those without a gradient are left out.
        world_size: Number of ranks; it is the process group's.
        bucket_mb: Largest buffer, in MB.
    """
    average_gradients(params, bucket_mb)


# Moments


def moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return count, mean and sum of squared deviations ``(1, ...)`` of the rows of all ranks, in one collective.

    Each rank's own are merged (Chan, Golub and LeVeque 1979), in the same order everywhere, so that all ranks get the
    same numbers.

    Args:
        values: ``(samples, ...)`` of this rank.
    """
    mean = values.mean(dim=0, keepdim=True)
    squares = (values - mean).square_().sum(dim=0, keepdim=True)
    return merged_moments(len(values), mean, squares)


def merged_moments(
    count: torch.Tensor | int, mean: torch.Tensor, squares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ``moments`` of all ranks from those of each; a rank without samples may have any mean."""
    count = torch.as_tensor(count, dtype=mean.dtype, device=mean.device)
    mean = torch.where(count > 0, mean, torch.zeros_like(mean))
    own = torch.cat((count.view(1), mean.reshape(-1), squares.reshape(-1)))
    parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    with POSITION.waiting("moments of all ranks"):
        torch.distributed.all_gather(parts, own)
    table = torch.stack(parts)
    counts_k1, means_kd, squares_kd = table[:, :1], *table[:, 1:].chunk(2, dim=1)
    total = counts_k1.sum()
    merged = (counts_k1 * means_kd).sum(dim=0) / total.clamp(min=1.0)
    spread = (squares_kd + counts_k1 * (means_kd - merged).square()).sum(dim=0)
    return total.round().long(), merged.view_as(mean), spread.view_as(squares)


# Agreement


def any_rank_each(flags: list[bool], device: str) -> list[bool]:
    """Return which of some flags are true on any rank, in one question that all ranks must ask together."""
    found = torch.tensor([float(flag) for flag in flags], device=device)
    with POSITION.waiting("agreement of all ranks"):
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        return [number > 0.0 for number in found.tolist()]


def sum_over_ranks(number: int, device: str) -> int:
    """Return the sum of a number over all ranks."""
    total = torch.tensor(number, dtype=torch.long, device=device)
    _all_reduce(total, "sum over all ranks")
    return int(total.item())


# Data


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Replace every tensor by that of rank 0, in one collective per type of number."""
    by_type: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for group in by_type.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        with POSITION.waiting("parameters of rank 0"):
            torch.distributed.broadcast(flat, src=0)
        for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.view_as(tensor))


def of_rank_0(value: Any) -> Any:
    """Return what rank 0 has, plain data, on every rank."""
    box = [value]
    with POSITION.waiting("data of rank 0"):
        torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: Any) -> list[Any] | None:
    """Return the plain data of every rank on rank 0, in their order; None on the others."""
    is_first = torch.distributed.get_rank() == 0
    parts: list[Any] | None = [None] * torch.distributed.get_world_size() if is_first else None
    with POSITION.waiting("data for rank 0"):
        torch.distributed.gather_object(value, parts, dst=0)
    return parts


def of_all_ranks(value: Any) -> list[Any]:
    """Return the plain data of every rank, in their order, on every rank."""
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    with POSITION.waiting("data of all ranks"):
        torch.distributed.all_gather_object(parts, value)
    return parts


def _all_reduce(tensor: torch.Tensor, what: str) -> None:
    with POSITION.waiting(what):
        torch.distributed.all_reduce(tensor)
