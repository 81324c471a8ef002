"""Statistics of episodes and of what environments log, kept on the device.

Legend of shapes: ``t`` steps of a rollout, ``n`` environments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sim_rl_plugin.errors import UserError


class EpisodeStatistics:
    """Lengths and returns of the episodes that end during a rollout.

    Nothing is read back step by step; ``finished`` makes the one transfer at the end. With intrinsic
    rewards there are three returns: their sum with the task's, the task's, and theirs.
    """

    def __init__(self, num_envs: int, device: torch.device | str) -> None:
        """Start with all environments at the beginning of an episode."""
        # Rows: length, then one row per return.
        self._running_rn = torch.zeros(2, num_envs, device=device)
        self._steps: list[torch.Tensor] = []

    def add(
        self,
        rewards_n: torch.Tensor,
        dones_n: torch.Tensor,
        intrinsic_n: torch.Tensor | None = None,
        skipped_n: torch.Tensor | None = None,
    ) -> None:
        """Count one step, rewards in the unit of the task, for all but the environments that were ``skipped``."""
        if intrinsic_n is None and len(self._running_rn) > 2:
            # Resumed from a training that had intrinsic rewards.
            intrinsic_n = torch.zeros_like(rewards_n)
        if intrinsic_n is None:
            increments = [torch.ones_like(rewards_n), rewards_n]
        else:
            increments = [torch.ones_like(rewards_n), rewards_n + intrinsic_n, rewards_n, intrinsic_n]
            self._split_returns()
        ended_n = dones_n > 0
        if skipped_n is not None:
            skipped_n = skipped_n.to(ended_n.device)
            ended_n = ended_n & ~skipped_n
            increments = [increment_n.masked_fill(skipped_n, 0.0) for increment_n in increments]
        for running_n, increment_n in zip(self._running_rn, increments, strict=True):
            running_n += increment_n
        self._steps.append(torch.cat((ended_n.to(rewards_n.dtype).unsqueeze(0), self._running_rn)))
        self._running_rn.masked_fill_(ended_n, 0.0)

    def leave_out(self, envs_n: torch.Tensor, starting_n: torch.Tensor) -> None:
        """Drop the episodes of ``envs_n``, which start anew, and those that ``starting_n`` ended in the first step.

        Both are bool ``(n,)`` and speak of the steps since the last call of ``finished``.
        """
        # First row of each step: whether an episode ended.
        for index, step_rn in enumerate(self._steps):
            step_rn[0].masked_fill_(envs_n | starting_n if index == 0 else envs_n, 0.0)
        self._running_rn = self._running_rn.masked_fill(envs_n, 0.0)

    def _split_returns(self) -> None:
        """Make room for the task's and the intrinsic returns beside their sum."""
        if len(self._running_rn) == 2:
            # Until now the task's rewards were all there were.
            lengths_n, returns_n = self._running_rn
            self._running_rn = torch.stack((lengths_n, returns_n, returns_n, torch.zeros_like(returns_n)))

    def finished(self) -> tuple[list[float], ...]:
        """Return lengths (in steps) and returns of the episodes that ended since the last call, in order.

        One list per return: two lists in all, or four with intrinsic rewards.
        """
        columns = self.finished_by_step().t().tolist()
        return tuple(columns[1:])

    def finished_by_step(self) -> torch.Tensor:
        """Return what ``finished`` does as a table ``(episodes, 1 + rows)``, on the CPU.

        Its first column holds the step, since the last call, in which the episode ended.
        """
        if not self._steps:
            return torch.zeros(0, 1 + self._running_rn.shape[0])
        ended_tn, *rows_tn = torch.stack(self._steps, dim=1).cpu()
        self._steps.clear()
        steps = (ended_tn > 0).nonzero()[:, 0].to(ended_tn.dtype)
        return torch.stack([steps, *(values_tn[ended_tn > 0] for values_tn in rows_tn)], dim=1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the episodes in progress."""
        return {"running": self._running_rn.cpu()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Continue the episodes of ``state``, if it is of as many environments."""
        self._steps.clear()
        running_rn = state["running"]
        if running_rn.ndim != 2 or len(running_rn) not in (2, 4) or not running_rn.is_floating_point():
            raise UserError(f"logger.episodes: expected 2 or 4 rows of numbers, found shape {tuple(running_rn.shape)} "
                            f"of {running_rn.dtype}")  # fmt: skip
        if running_rn.shape[1] == self._running_rn.shape[1]:
            self._running_rn = running_rn.to(self._running_rn.device, copy=True)


class EnvironmentLog:
    """Means of what environments put into ``extras["log"]``, over all values of an iteration."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor | float] = {}
        self._counts: dict[str, int] = {}
        self._only_finite = False

    def add(self, log: Mapping[str, Any]) -> None:
        """Add one step's entries: numbers, or tensors of any shape."""
        for key, value in log.items():
            is_tensor = isinstance(value, torch.Tensor)
            total = value.detach().float().sum() if is_tensor else float(value)
            self._sums[key] = self._sums.get(key, 0.0) + total
            self._counts[key] = self._counts.get(key, 0) + (value.numel() if is_tensor else 1)

    def leave_out_non_finite(self) -> None:
        """Leave out of the next means what a broken environment has spoilt."""
        self._only_finite = True

    def means(self) -> dict[str, float]:
        """Return the means since the last call, under the tags they are logged by."""
        return means_of([self.totals()])

    def totals(self) -> dict[str, tuple[float, int]]:
        """Return sums and counts since the last call, by the tags they are logged by."""
        tensors = {key: value for key, value in self._sums.items() if isinstance(value, torch.Tensor)}
        sums: dict[str, Any] = dict(self._sums)
        if tensors:
            device = next(iter(tensors.values())).device
            moved = torch.stack([value.to(device) for value in tensors.values()]).tolist()
            sums.update(zip(tensors, moved, strict=True))
        if self._only_finite:
            sums = {key: total for key, total in sums.items() if math.isfinite(total)}
        counts = self._counts
        self._sums, self._counts, self._only_finite = {}, {}, False
        return {key if "/" in key else f"Episode/{key}": (sums[key], counts[key]) for key in sums if counts[key]}


def means_of(parts: Sequence[Mapping[str, tuple[float, int]]]) -> dict[str, float]:
    """Return the means of all values out of the ``totals`` of several processes."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for part in parts:
        for key, (total, count) in part.items():
            sums[key] = sums.get(key, 0.0) + total
            counts[key] = counts.get(key, 0) + count
    return {key: sums[key] / counts[key] for key in sums}
