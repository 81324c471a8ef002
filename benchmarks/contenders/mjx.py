"""MuJoCo Playground: its batched environment in JAX, its wrapper for rsl_rl, and our adapter.

The frozen simulator is a task whose step returns its state, compiled into the wrappers of each: everything that
these do in JAX is counted, and no physics.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import torch
from mujoco_playground import registry, wrapper, wrapper_torch
from sim_rl_mjx.vec_env import MjxVecEnv

from contenders import Contender, OurHandOver, RslRlHandOver

TASKS = {"CartpoleBalance": 256}
PEER = "Playground's RSLRLBraxWrapper"
PACKAGES = ("playground", "mujoco", "mujoco-mjx", "jax", "torch", "tensordict")


@contextmanager
def open_contenders(task: str, num_envs: int, frozen: bool) -> Iterator[dict[str, Contender]]:
    """Open the task for each contender."""
    env = registry.load(task, config_overrides={"impl": "jax"})
    limit = int(registry.get_default_config(task).episode_length)
    if frozen:
        # The wrappers count, so its episodes would end too.
        env, limit = Frozen(env), 10**6
    theirs = wrapper_torch.RSLRLBraxWrapper(env, num_envs, 1, limit, 1)
    theirs.reset()
    actions = torch.zeros(num_envs, env.action_size)
    ours = MjxVecEnv(env, name=task, num_envs=num_envs, max_episode_length=limit, seed=1)

    def let_ours_end(number: int) -> None:
        ours.episode_length_buf = ages(num_envs, number, limit)

    bare = Bare(env, num_envs, limit)
    yield {
        "bare Playground, in JAX": Contender(bare.step, lambda n: let_theirs_end(bare, n, limit)),
        PEER: Contender(lambda: theirs.step(actions), lambda n: let_theirs_end(theirs, n, limit), RslRlHandOver()),
        "ours": Contender(lambda: ours.step(actions), let_ours_end, OurHandOver()),
    }


class Frozen(wrapper.Wrapper):
    """A task that stands still."""

    def step(self, state: Any, action: jax.Array) -> Any:
        return state.replace(reward=action.sum())


class Bare:
    """Playground's batch for training, compiled, and waited for."""

    def __init__(self, env: Any, num_envs: int, limit: int) -> None:
        batch = wrapper.wrap_for_brax_training(env, episode_length=limit, action_repeat=1)
        self._step = jax.jit(batch.step)
        self.env_state = jax.jit(batch.reset)(jax.random.split(jax.random.PRNGKey(1), num_envs))
        self._actions = jnp.zeros((num_envs, env.action_size))

    def step(self) -> None:
        self.env_state = self._step(self.env_state, self._actions)
        jax.block_until_ready(self.env_state.reward)


def let_theirs_end(env: Any, number: int, limit: int) -> None:
    """Set the ages that Playground counts in; it zeroes those of environments that are done."""
    state = env.env_state
    counted = jnp.asarray(ages(state.done.shape[0], number, limit).numpy(), state.info["steps"].dtype)
    env.env_state = state.replace(info={**state.info, "steps": counted}, done=jnp.zeros_like(state.done))


def ages(num_envs: int, num_ending: int, limit: int) -> torch.Tensor:
    """Return the ages of environments of which some are at their limit in the next step."""
    values = torch.zeros(num_envs, dtype=torch.int32)
    values[:num_ending] = limit - 1
    return values
