"""``PointEnv`` with faults: NaN or infinity where and when a test wants it."""

from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.testing import PointEnv

NAN, INF = float("nan"), float("inf")


class FaultyPoint(PointEnv):
    """Returns ``value`` in one part of what ``step`` returns, in some environments and calls.

    Args:
        part: ``policy``, ``critic``, ``rewards``, ``final``; or ``state``, which breaks the simulation itself until the
            environment is reset.
        envs: The environments.
        calls: Calls of ``step``, counted from 1.
        value: What is put there.
        can_reset: Whether single environments can be reset.
        heals: Whether a reset heals a broken state.
    """

    def __init__(
        self,
        part: str,
        envs: list[int],
        calls: Any,
        value: float = NAN,
        can_reset: bool = True,
        heals: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.part, self.envs, self.calls, self.value = part, envs, calls, value
        self.can_reset, self.heals = can_reset, heals
        self.call = 0
        self.given: list[TensorDict] = [self.get_observations()]

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        self.call += 1
        is_now = self.call in self.calls
        if is_now and self.part == "state":
            self.position = self.position.clone()
            self.position[self.envs] = self.value
        obs, rewards, dones, extras = super().step(actions)
        if is_now and self.part in ("policy", "critic"):
            obs[self.part][self.envs, 0] = self.value
        if is_now and self.part == "rewards":
            rewards[self.envs] = self.value
        if is_now and self.part == "final":
            # A time-out of these environments, whose last observation is broken.
            extras["time_outs"][self.envs] = True
            dones[self.envs] = True
            extras.setdefault("final_obs", obs.clone())["critic"][self.envs] = self.value
        self.given.append(obs)
        return obs, rewards, dones, extras

    def _reset(self, dones: torch.Tensor) -> None:
        healthy = self.position.isfinite().all(dim=-1)
        broken = self.position
        super()._reset(dones)
        if not self.heals:
            self.position = torch.where(healthy.unsqueeze(-1), self.position, broken)

    def reset_envs(self, env_ids: torch.Tensor) -> bool:
        return super().reset_envs(env_ids) if self.can_reset else False
