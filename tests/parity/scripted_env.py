"""An environment for runners of both sides: the same story in every process, but for what the actions earn."""

from __future__ import annotations

from typing import Any

import torch
from parity.harness import GROUPS, NUM_ACTIONS, Row
from tensordict import TensorDict

from sim_rl_plugin.env import VecEnv


class ScriptedEnv(VecEnv):
    """Observations, ends and a part of the rewards come out of the number of the step.

    Each step sets torch's global seed, too: the reference draws random numbers in an update that it does
    not use, so from then on both sides would draw different noise.
    """

    max_episode_length = 20
    step_dt = 0.02
    device = "cpu"

    def __init__(self, row: Row) -> None:
        self.num_envs = row.num_envs
        self.num_actions = NUM_ACTIONS
        self.cfg: dict[str, Any] = {}
        self.episode_length_buf = torch.zeros(row.num_envs, dtype=torch.long)
        self._groups = row.groups
        self._step = 0

    @property
    def unwrapped(self) -> ScriptedEnv:
        return self

    def get_observations(self) -> TensorDict:
        generator = torch.Generator().manual_seed(self._step)
        drawn = {
            group: 3.0 * torch.randn(self.num_envs, *GROUPS[group], generator=generator) + 1.0 for group in self._groups
        }
        return TensorDict(drawn, batch_size=[self.num_envs])

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        self._step += 1
        torch.manual_seed(self._step)
        generator = torch.Generator().manual_seed(10_000 + self._step)
        rewards = torch.randn(self.num_envs, generator=generator) + 0.3 * actions.mean(dim=-1)
        dones = torch.rand(self.num_envs, generator=generator) < 0.1
        time_outs = dones & (torch.rand(self.num_envs, generator=generator) < 0.5)
        return self.get_observations(), rewards, dones, {"time_outs": time_outs}
