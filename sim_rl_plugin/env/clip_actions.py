"""Clips actions before the environment gets them."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.env.vec_env import VecEnv
from sim_rl_plugin.env.wrapper import EnvWrapper


class ClipActions(EnvWrapper):
    """An environment whose actions are clipped to ``[-limit, limit]``; all else is the inner one's.

    Here and not in the adapters, so that ``clip_actions`` means the same with every simulator.
    """

    def __init__(self, env: VecEnv, limit: float) -> None:
        """Wrap an environment.

        Args:
            env: The environment.
            limit: Largest magnitude of an action, in the environment's own units.
        """
        super().__init__(env)
        self.limit = limit

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Step with clipped actions; ``actions``, ``(num_envs, num_actions)``, is not modified."""
        return super().step(actions.clamp(-self.limit, self.limit))
