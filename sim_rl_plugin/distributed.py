"""The collectives that training needs, on ``torch.distributed``."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def all_reduce_mean(tensor: torch.Tensor) -> None:
    """Replace ``tensor`` by its mean over all ranks."""
    torch.distributed.all_reduce(tensor)
    tensor /= torch.distributed.get_world_size()


def any_rank(flag: bool, device: str) -> bool:
    """Return whether ``flag`` is true on any rank; all ranks must ask together."""
    return any_rank_each([flag], device)[0]


def any_rank_each(flags: list[bool], device: str) -> list[bool]:
    """Return which of some flags are true on any rank, in one question that all ranks must ask together."""
    found = torch.tensor([float(flag) for flag in flags], device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return [number > 0.0 for number in found.tolist()]


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Replace every tensor by that of rank 0."""
    for tensor in tensors:
        torch.distributed.broadcast(tensor, src=0)


def reduce_gradients_in_buckets(params: Iterable[torch.nn.Parameter], world_size: int, bucket_mb: float) -> None:
    """Average gradients over all ranks: rsl_rl's name for ``average_gradients``.

    Args:
        params: Parameters; those without a gradient are left out.
        world_size: Number of ranks; it is the process group's.
        bucket_mb: Largest buffer, in MB.
    """
    average_gradients(params, bucket_mb)


def average_gradients(parameters: Iterable[torch.nn.Parameter], bucket_mb: float) -> None:
    """Replace gradients by their mean over all ranks, in flat buffers of at most ``bucket_mb`` MB.

    Parameters without a gradient are left out, so all ranks must have the same ones.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    for bucket in flat.split(max(1, int(bucket_mb * 2**20) // flat.element_size())):
        all_reduce_mean(bucket)
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
