"""Opening a JAX task by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import jax
import torch

from sim_rl_mjx.tasks import flattened_overrides, load_environment
from sim_rl_mjx.transfer import Bridge
from sim_rl_mjx.vec_env import MjxVecEnv
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError


@contextmanager
def open_task(
    task: str,
    *,
    num_envs: int,
    device: torch.device | str = "cpu",
    seed: int = 0,
    render: bool = False,
    impl: Literal["jax", "warp"] | None = None,
    config_overrides: dict[str, Any] | None = None,
    task_options: dict[str, Any] | None = None,
    max_episode_steps: int | None = None,
    action_repeat: int = 1,
    full_reset: bool = False,
    clip_actions: bool = True,
    render_width: int = 320,
    render_height: int = 240,
    render_camera: str | None = None,
) -> Iterator[VecEnv]:
    """Open ``num_envs`` environments of one task.

    Args:
        task: A name of Playground's registry, or ``package.module:factory`` of an environment with
            Playground's or Brax's ``reset`` and ``step``.
        num_envs: Number of environments.
        device: Where tensors are returned; JAX simulates on the same device if it supports it.
        seed: Decides every random number.
        render: Whether frames will be asked for. Nothing is prepared for it.
        impl: Physics: ``jax`` is MJX, ``warp`` is MuJoCo Warp; None is the task's own choice. The same as
            ``config_overrides.impl``.
        config_overrides: Settings of the task's own configuration, dotted or nested:
            ``config_overrides.reward_config.tracking_sigma=0.5``.
        task_options: Keyword arguments of a factory.
        max_episode_steps: Control steps of an episode, a repeated action counting as one; None is the task's
            own ``episode_length``, which counts the repetitions.
        action_repeat: Steps of the environment per control step; their rewards are summed.
        full_reset: Begin each episode with the task's ``reset``, which draws everything anew. Otherwise an
            environment goes back to the first state that it was given, as Playground's own training does.
        clip_actions: Clip actions to -1..1, the range that Playground's and Brax's policies have.
        render_width: Pixels.
        render_height: Pixels.
        render_camera: A camera of the model.

    Yields:
        The environments, just reset.

    Raises:
        UserError: The task or an option does not exist or does not fit.
    """
    for name, value in (("num_envs", num_envs), ("action_repeat", action_repeat)):
        if value < 1:
            raise UserError(f"{name} is {value}, expected at least 1")
    overrides = flattened_overrides(config_overrides, impl)
    # On the right device from the start: a model's arrays lie where they are made.
    with jax.default_device(Bridge(torch.device(device)).jax_device):
        env = load_environment(task, overrides, task_options)
    limit = _episode_limit(task, env, max_episode_steps, action_repeat)
    yield MjxVecEnv(
        env,
        name=task,
        num_envs=num_envs,
        max_episode_length=limit,
        device=device,
        seed=seed,
        action_repeat=action_repeat,
        full_reset=full_reset,
        clip_actions=clip_actions,
        render_size=(render_height, render_width),
        render_camera=render_camera,
        cfg={
            "task": task,
            "num_envs": num_envs,
            "seed": seed,
            "max_episode_steps": limit,
            "action_repeat": action_repeat,
            "full_reset": full_reset,
            "clip_actions": clip_actions,
            "task_options": dict(task_options or {}),
            "config": _plain_config(env),
        },
    )


def _episode_limit(task: str, env: Any, max_episode_steps: int | None, action_repeat: int) -> int:
    if max_episode_steps is None:
        own = getattr(getattr(env, "_config", None), "episode_length", None)
        if own is None:
            raise UserError(f"task {task!r} has no episode_length of its own: set max_episode_steps")
        return math.ceil(own / action_repeat)
    if max_episode_steps < 1:
        raise UserError(f"max_episode_steps is {max_episode_steps}, expected at least 1")
    return max_episode_steps


def _plain_config(env: Any) -> dict[str, Any]:
    to_dict = getattr(getattr(env, "_config", None), "to_dict", None)
    return {} if to_dict is None else to_dict()
