"""Rollouts of recurrent models: cut where episodes end, padded to one length, and put back together.

Legend of shapes: ``t`` steps, ``n`` environments, ``j`` trajectories (pieces of an episode within one rollout).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from tensordict import TensorDict

TensorOrDict = TypeVar("TensorOrDict", torch.Tensor, TensorDict)


def trajectory_starts(dones: torch.Tensor) -> torch.Tensor:
    """Return where trajectories begin, bool ``(t, n)``: in the first step, and after each end of an episode.

    Args:
        dones: ``(t, n)`` or ``(t, n, 1)``, non-zero where an episode ended with that step.
    """
    starts_tn = torch.ones(dones.shape[:2], dtype=torch.bool, device=dones.device)
    starts_tn[1:] = dones.reshape(dones.shape[:2])[:-1] > 0
    return starts_tn


def split_and_pad_trajectories(tensor: TensorOrDict, dones: torch.Tensor) -> tuple[TensorOrDict, torch.Tensor]:
    """Cut a rollout where episodes end, and lay the pieces side by side, padded with zeros.

    Pieces are ordered by environment, then by time. With two environments of three steps, where the
    first environment ends an episode with its second step, ``[[a, b], [c, d], [e, f]]`` becomes
    ``[[a, e, b], [c, 0, d], [0, 0, f]]``.

    Args:
        tensor: ``(t, n, ...)``, or a TensorDict of batch size ``[t, n]``.
        dones: ``(t, n)`` or ``(t, n, 1)``.

    Returns:
        The pieces ``(t, j, ...)``, and a bool mask ``(t, j)`` that is true where they are not padding.
    """
    starts_tn = trajectory_starts(dones)
    num_steps, num_envs = starts_tn.shape
    starts_nt = starts_tn.t().contiguous()
    trajectory_of_nt = starts_nt.flatten().cumsum(0).view(num_envs, num_steps) - 1
    num_trajectories = int(trajectory_of_nt[-1, -1]) + 1  # waits for the device: the shape depends on it
    step_t = torch.arange(num_steps, device=dones.device)
    first_step_nt = torch.where(starts_nt, step_t, 0).cummax(dim=1).values
    place_nt = (step_t - first_step_nt) * num_trajectories + trajectory_of_nt

    def scattered(values: torch.Tensor) -> torch.Tensor:
        padded = values.new_zeros(num_steps * num_trajectories, *values.shape[2:])
        padded[place_nt.t()] = values
        return padded.view(num_steps, num_trajectories, *values.shape[2:])

    masks = scattered(torch.ones_like(starts_tn))
    if isinstance(tensor, torch.Tensor):
        return scattered(tensor), masks
    groups = {key: scattered(value) for key, value in tensor.items()}
    padded = TensorDict(groups, batch_size=[num_steps, num_trajectories], device=tensor.device)
    return padded, masks


def unpad_trajectories(trajectories: TensorOrDict, masks: torch.Tensor) -> TensorOrDict:
    """Undo ``split_and_pad_trajectories``: ``(t, j, ...)`` becomes ``(t, n, ...)``.

    The pieces must make up whole environments: those of a rollout, or of some of its environments.
    """
    valid = trajectories.transpose(0, 1)[masks.transpose(0, 1)]
    num_steps = trajectories.shape[0]
    if isinstance(trajectories, torch.Tensor):
        return valid.view(-1, num_steps, *trajectories.shape[2:]).transpose(0, 1)
    return valid.view(-1, num_steps).transpose(0, 1)
