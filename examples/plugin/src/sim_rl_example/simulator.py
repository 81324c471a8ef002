"""A torque-limited pendulum in torch.

Legend of shapes: ``n`` environments.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_example.plugin import task_names
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import unknown_name

_TIME_STEP_S = 0.05
_GRAVITY = 9.81
_LENGTH_M = 1.0


@contextlib.contextmanager
def open_task(
    task: str,
    *,
    num_envs: int,
    device: str = "cpu",
    seed: int = 0,
    render: bool = False,
    max_torque: float = 2.0,
) -> Iterator["PendulumEnv"]:
    """Open the task; ``max_torque`` in N m for a pendulum of 1 kg and 1 m."""
    if task not in task_names():
        raise unknown_name("task", task, task_names())
    yield PendulumEnv(num_envs, device, seed, max_torque)


class PendulumEnv(VecEnv):
    """Swing the pendulum up and hold it; the group ``policy`` is cos, sin and velocity."""

    def __init__(self, num_envs: int, device: str, seed: int, max_torque: float) -> None:
        """Start from random angles."""
        self.num_envs = num_envs
        self.num_actions = 1
        self.max_episode_length = 200
        self.device = device
        self.cfg = {"max_torque": max_torque}
        self.max_torque = max_torque
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long, device=device)
        self._generator = torch.Generator().manual_seed(seed)
        self.angle_n, self.velocity_n = self._start()

    def _start(self) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = torch.rand(2, self.num_envs, generator=self._generator) * 2.0 - 1.0
        angle_n, velocity_n = numbers.to(self.device)
        return math.pi * angle_n, velocity_n

    def get_observations(self) -> TensorDict:
        """Return the group ``policy``, ``(n, 3)``."""
        policy = torch.stack((self.angle_n.cos(), self.angle_n.sin(), self.velocity_n), dim=-1)
        return TensorDict({"policy": policy}, batch_size=[self.num_envs], device=self.device)

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Apply a torque for 50 ms; the reward is 1 upright and at rest, and falls with angle, speed and torque."""
        torque_n = actions.squeeze(-1).clamp(-1.0, 1.0) * self.max_torque
        acceleration_n = 1.5 * _GRAVITY / _LENGTH_M * self.angle_n.sin() + 3.0 * torque_n
        self.velocity_n = (self.velocity_n + _TIME_STEP_S * acceleration_n).clamp(-8.0, 8.0)
        self.angle_n = torch.remainder(self.angle_n + _TIME_STEP_S * self.velocity_n + math.pi, 2 * math.pi) - math.pi
        rewards_n = 1.0 - 0.1 * self.angle_n.square() - 0.01 * self.velocity_n.square() - 0.001 * torque_n.square()
        self.episode_length_buf = self.episode_length_buf + 1

        time_outs_n = self.episode_length_buf >= self.max_episode_length
        extras: dict[str, Any] = {"time_outs": time_outs_n, "log": {"upright": (self.angle_n.abs() < 0.2).float()}}
        if time_outs_n.any():
            extras["final_obs"] = self.get_observations()
            angle_n, velocity_n = self._start()
            self.angle_n = torch.where(time_outs_n, angle_n, self.angle_n)
            self.velocity_n = torch.where(time_outs_n, velocity_n, self.velocity_n)
            self.episode_length_buf = torch.where(time_outs_n, 0, self.episode_length_buf)
        return self.get_observations(), rewards_n, time_outs_n, extras

    def state_dict(self) -> dict[str, Any]:
        """Return angles, velocities, ages and the random state."""
        return {
            "angle": self.angle_n,
            "velocity": self.velocity_n,
            "age": self.episode_length_buf,
            "random": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.angle_n = state["angle"].to(self.device)
        self.velocity_n = state["velocity"].to(self.device)
        self.episode_length_buf = state["age"].to(self.device)
        self._generator.set_state(state["random"].cpu())
