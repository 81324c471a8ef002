"""A policy that is watched: one control step at a time, and what there is to see of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import Policy

HISTORY_STEPS = 500
"""Control steps whose rewards are kept."""
HISTORY_EPISODES = 200
"""Episodes whose returns and lengths are kept."""


@dataclass(frozen=True)
class Episode:
    """An episode that was seen from its beginning to its end.

    Attributes:
        total: Undiscounted sum of its rewards.
        length: Its control steps.
    """

    total: float
    length: int


class Playback:
    """Steps a policy in its environment, and watches one of the environments.

    Attributes:
        env: The environment.
        shown: Index of the environment that is watched.
        num_steps: Control steps so far.
        rewards: The last ``(step, reward)`` of the environment that is watched.
        episodes: The last episodes that ended, of all environments.
    """

    def __init__(self, policy: Policy, env: VecEnv, shown: int = 0) -> None:
        """Take over an environment that was just opened.

        Args:
            policy: Observations to actions ``(num_envs, num_actions)``.
            env: The environment.
            shown: Which environment to watch.

        Raises:
            UserError: ``env`` cannot show this one.
        """
        self._policy: Any = policy
        self.env = env
        self.shown = 0
        self.num_steps = 0
        self.rewards: deque[tuple[int, float]] = deque(maxlen=HISTORY_STEPS)
        self.episodes: deque[Episode] = deque(maxlen=HISTORY_EPISODES)
        self._obs = env.get_observations()
        self._returns = torch.zeros(env.num_envs, dtype=torch.float64)
        self._lengths = torch.zeros(env.num_envs, dtype=torch.int64)
        if shown:
            self.show(shown)

    @property
    def episode(self) -> Episode:
        """The episode in progress of the environment that is watched, as far as it has come."""
        return Episode(self._returns[self.shown].item(), int(self._lengths[self.shown]))

    def step(self) -> None:
        """Take one control step in every environment."""
        rewards, dones, skipped = self._act()
        self.num_steps += 1
        self._returns += rewards
        self._lengths += ~skipped
        if not skipped[self.shown]:
            self.rewards.append((self.num_steps, rewards[self.shown].item()))
        for index in (dones & ~skipped).nonzero().flatten().tolist():
            self.episodes.append(Episode(self._returns[index].item(), int(self._lengths[index])))
            self._returns[index], self._lengths[index] = 0.0, 0

    def reset(self) -> None:
        """Begin a new episode in every environment; those in progress are not counted."""
        env = self.env
        everyone = torch.arange(env.num_envs, device=env.device)
        if not (hasattr(env, "reset_envs") and env.reset_envs(everyone)):
            # Whoever cannot be reset can run out of time.
            counters = env.episode_length_buf
            limit = torch.as_tensor(env.max_episode_length, device=counters.device) - 1
            env.episode_length_buf = limit.expand(env.num_envs).to(counters.dtype).clone()
            self._act()
        self._obs = env.get_observations()
        if getattr(self._policy, "is_recurrent", False):
            self._policy.reset(torch.ones(env.num_envs, dtype=torch.bool, device=env.device))
        self._returns.zero_()
        self._lengths.zero_()

    def show(self, index: int) -> None:
        """Watch another environment.

        Raises:
            UserError: There is none of this index, or it cannot be drawn.
        """
        if not 0 <= index < self.env.num_envs:
            raise UserError(f"environment {index} cannot be shown: there are {self.env.num_envs}, counted from 0")
        if not (self.env.show_env(index) if hasattr(self.env, "show_env") else index == 0):
            raise UserError(f"{type(self.env).__name__} draws its environment 0 only: leave --num-envs out")
        self.shown = index
        self.rewards.clear()

    def frame(self) -> np.ndarray | None:
        """Return the picture ``(height, width, 3)`` uint8 of the environment that is watched; None if there is none."""
        frame = self.env.render() if hasattr(self.env, "render") else None
        return None if frame is None else np.ascontiguousarray(np.asarray(frame)[..., :3], dtype=np.uint8)

    def _act(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Step once; return rewards, dones, and who did nothing but reset itself, each ``(num_envs,)`` on the CPU."""
        with torch.inference_mode():
            self._obs, rewards, dones, extras = self.env.step(self._policy(self._obs).to(self.env.device))
            if getattr(self._policy, "is_recurrent", False):
                self._policy.reset(dones)
        skipped = extras.get("skipped")
        if skipped is None:
            skipped = torch.zeros(self.env.num_envs, dtype=torch.bool)
        # Clones: what was made in inference mode cannot be written to outside of it.
        return rewards.to("cpu", torch.float64).clone(), dones.cpu().bool().clone(), skipped.cpu().clone()
