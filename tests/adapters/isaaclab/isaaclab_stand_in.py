"""A stand-in for Isaac Lab's environments: no physics, but their habits, those that mislead a learner included.

Written after ``DirectRLEnv`` of 2.3.2 and 3.0.0 and ``ManagerBasedRLEnv``: buffers that are written in place, one
dict of extras for life, a log that is only written on a reset, noise that is drawn whenever observations are
computed, flags that may both be true, no kept observations after the first reset.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import torch


def task_cfg(**changes: Any) -> SimpleNamespace:
    """Return a configuration of the stand-in, shaped as Isaac Lab's."""
    cfg = SimpleNamespace(
        scene=SimpleNamespace(num_envs=6),
        sim=SimpleNamespace(device="cpu"),
        seed=0,
        is_finite_horizon=False,
        compute_final_obs=True,
        noise=0.001,
        graded_terrain=False,
        groups="plain",
        episode_steps=20,
    )
    vars(cfg).update(changes)
    return cfg


class StandInEnv(gymnasium.Env):
    """Points on a line that are pushed; terminates at the border, truncates after ``episode_steps``."""

    def __init__(self, cfg: Any, render_mode: str | None = None, **kwargs: Any) -> None:
        self.cfg = cfg
        self.render_mode = render_mode
        self.num_envs = cfg.scene.num_envs
        self.device = cfg.sim.device
        self.step_dt = 0.02
        self.max_episode_length = cfg.episode_steps
        self.single_observation_space = gymnasium.spaces.Dict({"policy": gymnasium.spaces.Box(-9, 9, (3,))})
        self.single_action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
        torch.manual_seed(cfg.seed)
        self.extras: dict[str, Any] = {}
        self.position = torch.zeros(self.num_envs, 2)
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long)
        self.reset_terminated = torch.zeros(self.num_envs, dtype=torch.bool)
        self.reset_time_outs = torch.zeros(self.num_envs, dtype=torch.bool)
        self.reward_buf = torch.zeros(self.num_envs)
        self.common_step_counter = 0
        self._sim_step_counter = 0
        self.num_computed = 0
        self.last_action: torch.Tensor | None = None
        self.scene = SimpleNamespace(terrain=None)
        if cfg.graded_terrain:
            self.scene.terrain = SimpleNamespace(
                terrain_levels=torch.zeros(self.num_envs, dtype=torch.long),
                terrain_types=torch.arange(self.num_envs) % 2,
                terrain_origins=torch.arange(60.0).view(10, 2, 3),
                env_origins=torch.zeros(self.num_envs, 3),
            )

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self._reset_idx(torch.arange(self.num_envs))
        return self._get_observations(), self.extras

    def step(self, action: torch.Tensor) -> tuple[dict, torch.Tensor, torch.Tensor, torch.Tensor, dict]:
        self.last_action = action
        self._sim_step_counter += 2
        self.position += 0.1 * action
        self.episode_length_buf += 1
        self.common_step_counter += 1
        self.reset_terminated[:] = self.position.abs().amax(dim=-1) > 1.0
        self.reset_time_outs[:] = self.episode_length_buf >= self.max_episode_length
        # In place, as the reward manager does.
        self.reward_buf[:] = 1.0 - self.position.abs().mean(dim=-1)
        ended = (self.reset_terminated | self.reset_time_outs).nonzero().squeeze(-1)
        if len(ended):
            if self.cfg.compute_final_obs:
                self.extras["final_obs"] = self._get_observations()
            self._reset_idx(ended)
        self.obs_buf = self._get_observations()
        return self.obs_buf, self.reward_buf, self.reset_terminated, self.reset_time_outs, self.extras

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        return np.full((24, 32, 3), int(self.common_step_counter), dtype=np.uint8)

    def _reset_idx(self, ended: torch.Tensor) -> None:
        self.extras["log"] = {
            "Episode_Termination/time_out": int(self.reset_time_outs[ended].sum()),
            "Metrics/length": self.episode_length_buf[ended].float().mean(),
            "Curriculum/note": "not a number",
        }
        if self.scene.terrain is not None:
            # A curriculum moves on with every reset.
            self.scene.terrain.terrain_levels[ended] = (self.scene.terrain.terrain_levels[ended] + 1) % 10
        self.position[ended] = torch.rand(len(ended), 2) - 0.5
        self.episode_length_buf[ended] = 0

    def _get_observations(self) -> dict[str, Any]:
        self.num_computed += 1
        noisy = self.position + self.cfg.noise * torch.randn_like(self.position)
        policy = torch.cat((noisy, self.episode_length_buf.unsqueeze(-1) / self.max_episode_length), dim=-1)
        if self.cfg.groups == "plain":
            return {"policy": policy}
        pictures = (self.position.abs().amax(dim=-1) * 100).clamp(0, 255).view(-1, 1, 1, 1).expand(-1, 6, 8, 3)
        terms = {
            "rgb": pictures.to(torch.uint8),
            "depth": pictures[..., :1] / 100,
            "range": self.position[:, 0].double(),
        }
        return {"policy": policy, "camera": terms}


class RslRlVecEnvWrapper:
    """What Isaac Lab 2.3's class of this name does, under the same attributes."""

    def __init__(self, env: gymnasium.Env, clip_actions: float | None = None) -> None:
        self.env = env
        self.clip_actions = clip_actions
        self.num_envs = self.unwrapped.num_envs
        self.device = self.unwrapped.device
        self.max_episode_length = self.unwrapped.max_episode_length
        self.num_actions = 2
        self.env.reset()

    @property
    def unwrapped(self) -> StandInEnv:
        return self.env.unwrapped  # type: ignore[return-value]

    @property
    def cfg(self) -> Any:
        return self.unwrapped.cfg

    @property
    def episode_length_buf(self) -> torch.Tensor:
        return self.unwrapped.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self.unwrapped.episode_length_buf = value

    def get_observations(self) -> Any:
        from tensordict import TensorDict

        return TensorDict(self.unwrapped._get_observations(), batch_size=[self.num_envs])

    def step(self, actions: torch.Tensor) -> Any:
        from tensordict import TensorDict

        if self.clip_actions is not None:
            actions = torch.clamp(actions, -self.clip_actions, self.clip_actions)
        obs, rewards, terminated, truncated, extras = self.env.step(actions)
        if not self.unwrapped.cfg.is_finite_horizon:
            extras["time_outs"] = truncated
        return TensorDict(obs, batch_size=[self.num_envs]), rewards, (terminated | truncated).long(), extras
