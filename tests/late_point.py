"""A point whose environment resets itself one step late, as Gymnasium's NEXT_STEP does, and says so."""

from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.testing import PointEnv


class LatePoint(PointEnv):
    """The step after an end ignores its action, earns nothing, and is marked in ``extras["skipped"]``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.resetting = torch.zeros(self.num_envs, dtype=torch.bool)

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        skipped = self.resetting
        moved = self.position + self.step_size * actions.clamp(-1.0, 1.0)
        self.position = torch.where(skipped.unsqueeze(-1), self._start_positions(), moved)
        self.episode_length_buf = torch.where(skipped, 0, self.episode_length_buf + 1)
        rewards = torch.exp(-4.0 * self.position.square().mean(dim=-1)).masked_fill(skipped, 0.0)
        terminated = (self.position.abs().amax(dim=-1) > self.terminate_at) & ~skipped
        time_outs = (self.episode_length_buf >= self.max_episode_length) & ~terminated & ~skipped
        self.resetting = terminated | time_outs
        extras: dict[str, Any] = {"time_outs": time_outs, "skipped": skipped.clone(), "log": {}}
        if self.resetting.any():
            extras["final_obs"] = self.get_observations()
        self.episode_length_buf = torch.where(self.resetting, 0, self.episode_length_buf)
        return self.get_observations(), rewards, self.resetting | skipped, extras

    def reset_envs(self, env_ids: torch.Tensor) -> bool:
        self.resetting = self.resetting.index_fill(0, env_ids, False)
        return super().reset_envs(env_ids)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "resetting": self.resetting.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.resetting = state["resetting"].clone()
