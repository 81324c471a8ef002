"""Gymnasium: its batch stepped by hand, Stable-Baselines3's, and our adapter, all in one process.

Environments are reset by their caller (``AutoresetMode.DISABLED``), who sees final observations. What is done by
hand here is what a script for rsl_rl would have to do to hand over the same, means of reward terms included.
Stable-Baselines3 resets inside its batch; it gets what its own rollouts do, without the ``Monitor`` that they
want, and is no part of the frozen measurements, since its batch is its adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from sim_rl_gymnasium.vec_env import GymnasiumVecEnv
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv

from contenders import Contender, OurHandOver, Result, RslRlHandOver, as_batch

TASKS = {"Pendulum-v1": 64, "HalfCheetah-v5": 64}
PEER = "by hand, for rsl_rl"
PACKAGES = ("gymnasium", "mujoco", "numpy", "torch", "tensordict", "stable-baselines3")


@contextmanager
def open_contenders(task: str, num_envs: int, frozen: bool) -> Iterator[dict[str, Contender]]:
    """Open a batch for each contender."""
    # The adapters count, so a frozen simulator's episodes would end too.
    limit = 10**9 if frozen else gymnasium.spec(task).max_episode_steps
    batches = [batch_of(task, num_envs) for _ in range(3)]
    bare, by_hand = ByHand(batches[0], limit), ByHand(batches[1], limit)
    ours = GymnasiumVecEnv(batches[2], max_episode_length=limit, seed=1)
    actions = torch.zeros(num_envs, ours.num_actions)
    array = actions.numpy()

    def let_ours_end(number: int) -> None:
        ours.episode_length_buf = torch.from_numpy(ages(num_envs, number, limit))

    contenders = {
        "bare Gymnasium, in NumPy": Contender(lambda: bare.step_arrays(array), bare.let_end),
        PEER: Contender(lambda: by_hand.step(actions), by_hand.let_end, RslRlHandOver()),
        "ours": Contender(lambda: ours.step(actions), let_ours_end, OurHandOver()),
    }
    if frozen:
        for batch in batches:
            freeze(batch, array)
    else:
        peer = StableBaselines3(task, num_envs, limit)
        contenders["Stable-Baselines3"] = Contender(lambda: peer.step(actions), peer.let_end)
    yield contenders
    for batch in batches:
        batch.close()


def batch_of(task: str, num_envs: int) -> Any:
    options = {"autoreset_mode": AutoresetMode.DISABLED}
    return gymnasium.make_vec(task, num_envs, "sync", options, max_episode_steps=-1, disable_env_checker=True)


def freeze(batch: Any, array: np.ndarray) -> None:
    """Let a batch repeat a step in which nothing ended."""
    result = batch.step(array)
    batch.step = lambda array: result


class ByHand:
    """What a script does around Gymnasium's batch: clip, count, reset, and, for a learner in torch, convert."""

    def __init__(self, batch: Any, limit: int) -> None:
        self._batch = batch
        self._limit = limit
        self._ages = np.zeros(batch.num_envs, dtype=np.int64)
        self._space = batch.single_action_space
        batch.reset(seed=1)

    def let_end(self, number: int) -> None:
        self._ages = ages(self._batch.num_envs, number, self._limit)

    def step_arrays(self, actions: np.ndarray) -> tuple[Any, ...]:
        """Return observations, rewards, dones, time-outs, final observations and infos of a step."""
        obs, rewards, terminated, truncated, infos = self._batch.step(actions)
        self._ages += 1
        dones = terminated | truncated | (self._ages >= self._limit)
        final_obs = None
        if dones.any():
            final_obs = obs
            obs, _ = self._batch.reset(options={"reset_mask": dones})
            self._ages[dones] = 0
        return obs, rewards, dones, dones & ~terminated, final_obs, infos

    def step(self, actions: torch.Tensor) -> Result:
        clipped = np.clip(actions.numpy(), self._space.low, self._space.high)
        obs, rewards, dones, time_outs, final_obs, infos = self.step_arrays(clipped)
        log = {f"Step/{name}": float(infos[name].mean()) for name in infos if name.startswith("reward")}
        extras = {"time_outs": torch.from_numpy(time_outs), "log": log}
        if final_obs is not None:
            extras["final_obs"] = self._groups(final_obs)
        return self._groups(obs), torch.from_numpy(rewards).float(), torch.from_numpy(dones), extras

    def _groups(self, obs: np.ndarray) -> Any:
        return as_batch({"policy": torch.from_numpy(obs).float()}, self._batch.num_envs)


class StableBaselines3:
    """Its batch, and what its rollouts do around it: clip, look for time-outs, and observations to tensors."""

    def __init__(self, task: str, num_envs: int, limit: int) -> None:
        self._batch = DummyVecEnv([lambda: gymnasium.make(task, disable_env_checker=True)] * num_envs)
        self._batch.reset()
        self._clocks = [clock_of(env) for env in self._batch.envs]
        self._limit = limit

    def let_end(self, number: int) -> None:
        for clock, age in zip(self._clocks, ages(len(self._clocks), number, self._limit).tolist(), strict=True):
            clock._elapsed_steps = age

    def step(self, actions: torch.Tensor) -> None:
        space = self._batch.action_space
        obs, _, dones, infos = self._batch.step(np.clip(actions.numpy(), space.low, space.high))
        for done, info in zip(dones, infos, strict=True):
            if done and info.get("TimeLimit.truncated"):
                obs_as_tensor(info["terminal_observation"], "cpu").float()
        obs_as_tensor(obs, "cpu").float()


def clock_of(env: Any) -> Any:
    """Return the wrapper that counts steps."""
    while not isinstance(env, gymnasium.wrappers.TimeLimit):
        env = env.env
    return env


def ages(num_envs: int, num_ending: int, limit: int) -> np.ndarray:
    """Return the ages of environments of which some are at their limit in the next step."""
    values = np.zeros(num_envs, dtype=np.int64)
    values[:num_ending] = limit - 1
    return values
