"""The adapter keeps the contract on mjlab's own tasks."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.testing import VecEnvContract

pytest.importorskip("mjlab")

from sim_rl_mjlab.open import open_task

pytestmark = pytest.mark.slow


class TestCartpole(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        # 1 s at 0.05 s a step: 20 steps, so that episodes end by themselves.
        return open_task("Mjlab-Cartpole-Swingup", num_envs=6, task_options={"episode_length_s": 1.0})


class TestCartpoleWithAutoReset(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        options = {"episode_length_s": 1.0}
        return open_task("Mjlab-Cartpole-Swingup", num_envs=6, task_options=options, final_observations=False)


class TestCartpoleRendered(VecEnvContract):
    num_steps = 8

    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("Mjlab-Cartpole-Balance", num_envs=2, render=True)


class TestGo1Flat(VecEnvContract):
    num_steps = 40

    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("Mjlab-Velocity-Flat-Unitree-Go1", num_envs=4)


class TestG1Flat(VecEnvContract):
    num_steps = 40

    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("Mjlab-Velocity-Flat-Unitree-G1", num_envs=4)
