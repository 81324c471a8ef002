"""What a time limit cut off, and its value.

Legend of shapes: ``n`` environments.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.models import MLPModel
from sim_rl_plugin.modules.rnn import map_hidden_state


class TimeOuts:
    """Environments that the time limit cut off in one step, and what they saw last.

    On the CPU the rows concerned are picked out, since few environments time out at once; on other
    devices finding them would make the host wait, so all rows are evaluated and masked.
    """

    def __init__(self, step: int, mask: torch.Tensor, rows: torch.Tensor | None, final_obs: TensorDict | None) -> None:
        self.step = step
        self.mask = mask
        self.rows = rows
        self.final_obs = final_obs

    @classmethod
    def of(cls, step: int, extras: dict[str, Any], device: str) -> TimeOuts:
        """Take what ``extras`` of one step holds; copies, so the simulator may reuse its buffers."""
        # A copy: simulators reuse this buffer, and a deferred rollout reads it long after the step.
        mask = extras["time_outs"].to(device=device, dtype=torch.bool, copy=True)
        final_obs = extras.get("final_obs")
        if final_obs is None:
            return cls(step, mask, None, None)
        if mask.device.type == "cpu":
            rows = mask.nonzero().squeeze(-1)
            return cls(step, mask, rows, final_obs[rows].to(device) if rows.numel() else None)
        return cls(step, mask, None, final_obs.to(device).clone())

    def of_environments(self, env_ids: torch.Tensor) -> TimeOuts:
        """Return what belongs to some environments only, ``(R,)`` int64, in their order."""
        mask, final_obs = self.mask[env_ids], self.final_obs
        if self.rows is None:
            return TimeOuts(self.step, mask, None, None if final_obs is None else final_obs[env_ids])
        if final_obs is not None:
            final_obs = final_obs[torch.isin(self.rows, env_ids)]
        return TimeOuts(self.step, mask, mask.nonzero().squeeze(-1), final_obs)

    def values(self, critic: MLPModel, values_before: torch.Tensor) -> torch.Tensor:
        """Return the value of what was cut off, ``(n, 1)``: of the final observation, or of the one before."""
        if self.final_obs is None:
            return values_before
        with torch.no_grad():
            final_values = _values_without_a_step(critic, self.final_obs, self.rows)
        if self.rows is None:
            return final_values
        values = torch.zeros_like(values_before)
        values[self.rows] = final_values
        return values

    def added_to(self, rewards: torch.Tensor, addition: torch.Tensor) -> torch.Tensor:
        """Return rewards ``(n,)`` with ``addition`` where the time limit struck."""
        return torch.where(self.mask, rewards + addition, rewards)


def _values_without_a_step(critic: MLPModel, obs: TensorDict, rows: torch.Tensor | None) -> torch.Tensor:
    """Return the values of observations that follow the critic's last step, and leave its memory as it was.

    Args:
        critic: The critic.
        obs: Observations of all environments, or of ``rows``.
        rows: Environments, or None for all.
    """
    memory = critic.get_hidden_state()
    if rows is not None:
        critic.reset(hidden_state=map_hidden_state(lambda state: state[:, rows], memory))
    values = critic(obs)
    critic.reset(hidden_state=memory)
    return values
