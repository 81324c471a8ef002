"""The adapter keeps the contract on real tasks of Playground and Brax, with both kinds of physics."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

pytest.importorskip("mujoco_playground")

from sim_rl_mjx.open import open_task

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.testing import VecEnvContract

pytestmark = pytest.mark.slow


class TestCartpoleBalance(VecEnvContract):
    num_steps = 32

    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("CartpoleBalance", num_envs=6, impl="jax")


class TestCartpoleSwingupWithWarp(VecEnvContract):
    num_steps = 32

    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("CartpoleSwingup", num_envs=6, impl="warp")


class TestCartpoleWithFullResetAndActionRepeat(VecEnvContract):
    num_steps = 32

    def open_env(self) -> AbstractContextManager[VecEnv]:
        options = {"full_reset": True, "action_repeat": 2, "max_episode_steps": 12}
        return open_task("CartpoleSwingup", num_envs=6, impl="jax", **options)


class TestCheetahWithOneContactPerEnvironment(VecEnvContract):
    """Warp's list of contacts is as long as there are environments, and belongs to none of them."""

    num_steps = 16

    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("CheetahRun", num_envs=64, impl="warp", config_overrides={"naconmax": 64})


@pytest.mark.usefixtures("go1")
class TestGo1(VecEnvContract):
    """Dict observations, noise, commands; with limits so short that falls and time-outs both occur."""

    num_steps = 50

    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("Go1JoystickFlatTerrain", num_envs=4, max_episode_steps=24)


class TestBrax(VecEnvContract):
    num_steps = 32

    def open_env(self) -> AbstractContextManager[VecEnv]:
        options = {"env_name": "inverted_pendulum", "backend": "spring"}
        return open_task("brax.envs:get_environment", num_envs=6, task_options=options, max_episode_steps=40)


class TestFactory(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("jax_tasks:Line", num_envs=6, task_options={"wall": 3.0})


class TestFactoryWithFullReset(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("jax_tasks:Line", num_envs=6, full_reset=True, task_options={"typed_keys": True})
