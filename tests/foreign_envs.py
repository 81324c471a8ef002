"""Small environments in the shapes of rsl_rl's relatives, each with the habits of its model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tensordict import TensorDict


class Plain:
    """What all shapes share: points with a counter, a limit and a termination; not a ``VecEnv``."""

    num_actions = 2

    def __init__(self, num_envs: int = 6, max_episode_length: int = 16, seed: int = 0) -> None:
        self.num_envs = num_envs
        self.device = "cpu"
        self.max_episode_length: Any = max_episode_length
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self._generator = torch.Generator().manual_seed(seed)
        self.position = self._starts()
        self.extras: dict[str, Any] = {}
        # Buffers that are written to in place and returned as they are, as in legged_gym.
        self.obs_buf = torch.zeros(num_envs, 2)
        self.privileged_obs_buf = torch.zeros(num_envs, 3)
        self.rew_buf = torch.zeros(num_envs)
        self.reset_buf = torch.zeros(num_envs, dtype=torch.long)
        self.num_resets = 0

    def _starts(self) -> torch.Tensor:
        return 2.0 * torch.rand(self.num_envs, 2, generator=self._generator) - 1.0

    def reset(self) -> Any:
        self.num_resets += 1
        self._observe()
        return self.obs_buf, self.privileged_obs_buf

    def _observe(self) -> None:
        self.obs_buf[:] = self.position
        self.privileged_obs_buf[:, :2] = self.position
        self.privileged_obs_buf[:, 2] = self.episode_length_buf / self.max_episode_length

    def _simulate(self, actions: torch.Tensor) -> None:
        actions.clamp_(-1.0, 1.0)  # writes into what it was given
        self.position = self.position + 0.1 * actions
        self.episode_length_buf += 1
        self.rew_buf[:] = 1.0 - self.position.norm(dim=-1)
        terminated = self.position.abs().amax(dim=-1) > 1.5
        time_outs = (self.episode_length_buf >= self.max_episode_length) & ~terminated
        self.reset_buf[:] = terminated | time_outs
        ended = self.reset_buf.bool()
        if ended.any():
            # Only here: between resets both stay as they are.
            self.extras["time_outs"] = time_outs
            self.extras["episode"] = {"rew_distance": self.rew_buf[ended].mean()}
            self.position[ended] = self._starts()[ended]
            self.episode_length_buf[ended] = 0
        self._observe()


class LeggedGym(Plain):
    """legged_gym: tensors, five values, buffers, stale extras, a limit that is a float, zeros before ``reset``."""

    num_obs = 2
    num_privileged_obs = 3
    cfg = {"name": "legged"}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.max_episode_length = np.ceil(self.max_episode_length - 0.5)

    def get_observations(self) -> torch.Tensor:
        return self.obs_buf

    def get_privileged_observations(self) -> torch.Tensor:
        return self.privileged_obs_buf

    def step(self, actions: torch.Tensor) -> tuple:
        self._simulate(actions)
        return self.obs_buf, self.privileged_obs_buf, self.rew_buf, self.reset_buf, self.extras


class LeggedGymBlind(LeggedGym):
    """The same without privileged observations."""

    num_privileged_obs = None

    def get_privileged_observations(self) -> None:
        return None

    def step(self, actions: torch.Tensor) -> tuple:
        obs, _, *rest = super().step(actions)
        return obs, None, *rest


class Genesis(Plain):
    """Genesis as it was: four values, ``(obs, extras)`` with the critic's group in ``extras``."""

    num_obs = 2
    num_privileged_obs = None

    def get_observations(self) -> tuple:
        self.extras["observations"] = {"critic": self.obs_buf}
        return self.obs_buf, self.extras

    def get_privileged_observations(self) -> None:
        return None

    def step(self, actions: torch.Tensor) -> tuple:
        self._simulate(actions)
        self.extras["observations"] = {"critic": self.obs_buf}
        return self.obs_buf, self.rew_buf, self.reset_buf, self.extras


class IsaacLab2(Plain):
    """Isaac Lab 2.0 to 2.2: all groups in ``extras["observations"]``, the log one persistent dict."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.extras["log"] = {}

    def _extras(self) -> dict[str, Any]:
        episode = self.extras.pop("episode", None)
        if episode is not None:
            self.extras["log"] = {"Episode_Reward/distance": episode["rew_distance"]}
        groups = {"policy": self.obs_buf, "critic": self.privileged_obs_buf.double(), "rnd_state": self.obs_buf}
        return {**self.extras, "observations": groups}

    def get_observations(self) -> tuple:
        return self.obs_buf, self._extras()

    def step(self, actions: torch.Tensor) -> tuple:
        self._simulate(actions)
        return self.obs_buf, self.rew_buf, self.reset_buf, self._extras()


class GymnasiumLike(Plain):
    """Batched tensors in Gymnasium's order of values, with ``get_observations``."""

    def get_observations(self) -> dict[str, torch.Tensor]:
        return {"policy": self.obs_buf, "critic": self.privileged_obs_buf}

    def step(self, actions: torch.Tensor) -> tuple:
        self._simulate(actions)
        ended, time_outs = self.reset_buf.bool(), self.extras.get("time_outs", torch.zeros(self.num_envs))
        truncated = time_outs.bool() & ended
        return self.get_observations(), self.rew_buf, ended & ~truncated, truncated, {}


class RslRl(Plain):
    """rsl_rl from 3.0 on: a TensorDict. That is the contract, and such an environment is left alone."""

    cfg: dict = {}

    def get_observations(self) -> TensorDict:
        return TensorDict({"policy": self.position.clone()}, batch_size=[self.num_envs])

    def step(self, actions: torch.Tensor) -> tuple:
        self._simulate(actions.clone())
        flags = {"time_outs": self.extras.get("time_outs", torch.zeros(self.num_envs, dtype=torch.bool))}
        return self.get_observations(), self.rew_buf.clone(), self.reset_buf.clone(), flags


class Reset0(LeggedGymBlind):
    """Without ``reset``: it has observations from the start."""

    reset = None  # type: ignore[assignment]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._observe()
