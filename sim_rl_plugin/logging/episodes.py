"""Statistics of episodes and of what environments log, kept on the device.

Legend of shapes: ``t`` steps of a rollout, ``n`` environments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class EpisodeStatistics:
    """Returns and lengths of the episodes that end during a rollout.

    Nothing is read back step by step; ``finished`` makes the one transfer at the end.
    """

    def __init__(self, num_envs: int, device: torch.device | str) -> None:
        """Start with all environments at the beginning of an episode."""
        self.current_return_n = torch.zeros(num_envs, device=device)
        self.current_length_n = torch.zeros(num_envs, device=device)
        self._steps: list[torch.Tensor] = []

    def add(self, rewards_n: torch.Tensor, dones_n: torch.Tensor) -> None:
        """Count one step, rewards in the unit of the task."""
        ended_n = dones_n > 0
        self.current_return_n += rewards_n
        self.current_length_n += 1
        self._steps.append(torch.stack((ended_n.to(rewards_n.dtype), self.current_return_n, self.current_length_n)))
        self.current_return_n.masked_fill_(ended_n, 0.0)
        self.current_length_n.masked_fill_(ended_n, 0.0)

    def finished(self) -> tuple[list[float], list[float]]:
        """Return returns and lengths (in steps) of the episodes that ended since the last call, in order."""
        if not self._steps:
            return [], []
        ended_tn, returns_tn, lengths_tn = torch.stack(self._steps, dim=1).cpu()
        self._steps.clear()
        ended_tn = ended_tn > 0
        return returns_tn[ended_tn].tolist(), lengths_tn[ended_tn].tolist()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the episodes in progress."""
        return {"current_return": self.current_return_n.cpu(), "current_length": self.current_length_n.cpu()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Continue the episodes of ``state``, if it is of as many environments."""
        if state["current_return"].shape == self.current_return_n.shape:
            self.current_return_n.copy_(state["current_return"])
            self.current_length_n.copy_(state["current_length"])


class EnvironmentLog:
    """Means of what environments put into ``extras["log"]``, over all values of an iteration."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, log: Mapping[str, Any]) -> None:
        """Add one step's entries: numbers, or tensors of any shape."""
        for key, value in log.items():
            is_tensor = isinstance(value, torch.Tensor)
            total = value.detach().float().sum() if is_tensor else float(value)
            self._sums[key] = self._sums.get(key, 0.0) + total
            self._counts[key] = self._counts.get(key, 0) + (value.numel() if is_tensor else 1)

    def means(self) -> dict[str, float]:
        """Return the means since the last call, under the tags they are logged by."""
        tensors = {key: value for key, value in self._sums.items() if isinstance(value, torch.Tensor)}
        sums: dict[str, Any] = dict(self._sums)
        if tensors:
            device = next(iter(tensors.values())).device
            moved = torch.stack([value.to(device) for value in tensors.values()]).tolist()
            sums.update(zip(tensors, moved, strict=True))
        counts = self._counts
        self._sums, self._counts = {}, {}
        return {key if "/" in key else f"Episode/{key}": sums[key] / counts[key] for key in sums if counts[key]}
