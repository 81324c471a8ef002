"""A simulator for the viewer's test: points that are steered, and that need no training to obey."""

from __future__ import annotations

import torch

from sim_rl_plugin.testing import SteeredPointEnv


class Obedient(SteeredPointEnv):
    """Points that go to their goal by themselves; the policy's actions change nothing."""

    step_dt = 0.05

    def step(self, actions: torch.Tensor):
        return super().step(-10.0 * self._from_goal())


def make(num_envs: int, device: str, seed: int) -> Obedient:
    return Obedient(num_envs=num_envs, device=device, seed=seed, max_episode_length=40)
