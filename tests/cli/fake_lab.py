"""A simulator for the tests of the command line: a point that should go where the observation says."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import numpy as np
import torch
from tensordict import TensorDict

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.hooks import Entry, hookimpl

SIZES = {"Reach": (3, 2), "Crawl": (5, 4)}
"""Task to sizes of observation and action."""


class PointEnv(VecEnv):
    max_episode_length = 6
    step_dt = 0.1

    def __init__(self, task: str, num_envs: int, seed: int, interrupt_after: int | None, frames: bool) -> None:
        self.num_envs, self.device, self.cfg = num_envs, "cpu", {"task": task}
        self._size, self.num_actions = SIZES[task]
        self._generator = torch.Generator().manual_seed(seed)
        self._obs = torch.randn(num_envs, self._size, generator=self._generator)
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self.largest_action = 0.0
        self._interrupt_after, self._frames = interrupt_after, frames
        self._steps = 0

    def get_observations(self) -> TensorDict:
        return TensorDict({"policy": self._obs.clone()}, batch_size=[self.num_envs])

    def step(self, actions):
        self._steps += 1
        if self._steps == self._interrupt_after:
            os.kill(os.getpid(), signal.SIGINT)
        self.largest_action = max(self.largest_action, actions.abs().max().item())
        rewards = -(actions - self._obs[:, : self.num_actions]).square().sum(dim=1)
        self.episode_length_buf = self.episode_length_buf + 1
        dones = self.episode_length_buf >= self.max_episode_length
        self.episode_length_buf[dones] = 0
        self._obs = torch.randn(self.num_envs, self._size, generator=self._generator)
        return self.get_observations(), rewards, dones, {"time_outs": dones.clone()}

    def render(self):
        return np.full((33, 48, 3), 40 * (self._steps % 6), dtype=np.uint8) if self._frames else None

    def state_dict(self):
        return {"obs": self._obs, "ages": self.episode_length_buf, "random": self._generator.get_state()}

    def load_state_dict(self, state) -> None:
        self._obs, self.episode_length_buf = state["obs"], state["ages"]
        self._generator.set_state(state["random"])


opened: list[PointEnv] = []


@contextlib.contextmanager
def open_task(
    task: str,
    *,
    num_envs: int,
    device: str,
    seed: int,
    render: bool,
    interrupt_after: int | None = None,
    frames: bool = True,
) -> Iterator[PointEnv]:
    env = PointEnv(task, num_envs, seed, interrupt_after, frames)
    opened.append(env)
    yield env


@contextlib.contextmanager
def open_other(task: str, *, num_envs: int, device: str, seed: int, render: bool, frames: bool = True):
    with open_task(task, num_envs=num_envs, device=device, seed=seed, render=render, frames=frames) as env:
        yield env


def open_foreign(task: str, *, num_envs: int, device: str, seed: int, render: bool):
    return contextlib.nullcontext("a foreign env")


def tasks() -> list[str]:
    return list(SIZES)


@hookimpl
def sim_rl_adapters() -> list[Entry]:
    return [
        Entry("lab", "fake_lab:open_task", "A point on a plane", tasks="fake_lab:tasks"),
        Entry("other", "fake_lab:open_other", "The same elsewhere", tasks="fake_lab:tasks"),
        Entry("absent", "absent_sim:open", "Not here", requires=("absent_sim",), extra="sim-rl-plugin[absent]"),
    ]


@hookimpl
def sim_rl_default_config(adapter: str, task: str):
    if adapter not in ("lab", "other"):
        return None
    model = {"class_name": "MLPModel", "hidden_dims": [8]}
    return {
        "num_envs": 4,
        "num_steps_per_env": 8,
        "max_iterations": 3,
        "logger": ["csv"],
        "console": False,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 2},
        "actor": {**model, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 0.5}},
        "critic": model,
    }
