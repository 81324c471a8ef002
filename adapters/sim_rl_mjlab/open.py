"""Open a task by name: the adapter's entry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from sim_rl_mjlab.task_options import apply_options
from sim_rl_mjlab.tasks import env_cfg, require_motion
from sim_rl_mjlab.vec_env import MjlabVecEnv
from sim_rl_plugin.errors import UserError


@contextlib.contextmanager
def open_task(
    task: str,
    *,
    num_envs: int,
    device: str | torch.device = "cpu",
    seed: int = 0,
    render: bool = False,
    play: bool = False,
    final_observations: bool = True,
    task_options: Mapping[str, Any] | None = None,
) -> Iterator[MjlabVecEnv]:
    """Open a task of mjlab's registry, and close it on exit.

    mjlab draws its random numbers from the global generators of torch, NumPy and Python, which opening
    a task therefore seeds.

    Args:
        task: Its id, such as ``Mjlab-Velocity-Flat-Unitree-Go1``.
        num_envs: Number of environments.
        device: Where the simulation runs and tensors live.
        seed: Decides every random number.
        render: Open the renderer (off screen, OpenGL by EGL unless ``MUJOCO_GL`` says otherwise).
        play: Take the task's configuration for looking at a policy, in which episodes do not end.
        final_observations: Hand out the observation before each reset, with which the learner
            bootstraps a time-out from what followed. It costs one more ``forward`` of the physics, and
            one more observation, in each step in which an environment ends.
        task_options: Changes to the task's configuration, as mjlab's ``--env.`` options:
            ``episode_length_s: 10``, ``commands: {twist: {ranges: {lin_vel_x: [-1, 1]}}}``; null
            switches off a term.

    Yields:
        The environment.

    Raises:
        UserError: The task or an option does not exist, a motion file is missing, or there is no
            OpenGL to render with.
    """
    cfg = env_cfg(task, play=play)
    apply_options(cfg, task_options or {})
    require_motion(task, cfg)
    cfg.scene.num_envs = num_envs
    cfg.seed = seed
    if hasattr(cfg, "auto_reset"):
        cfg.auto_reset = not final_observations
    env = MjlabVecEnv(_make(task, cfg, str(device), render), name=task, reset=True)
    try:
        if render:
            _try_rendering(task, env)
        yield env
    finally:
        env.close()


def _make(task: str, cfg: Any, device: str, render: bool) -> Any:
    from mjlab.envs import ManagerBasedRlEnv

    if not render:
        return ManagerBasedRlEnv(cfg, device=device)
    try:
        return ManagerBasedRlEnv(cfg, device=device, render_mode="rgb_array")
    except Exception as error:
        # The renderer is opened inside. Its failures are of every type; a task that cannot be opened
        # without it either says so by itself.
        ManagerBasedRlEnv(cfg, device=device).close()
        raise _no_renderer(task, error) from error


def _try_rendering(task: str, env: MjlabVecEnv) -> None:
    try:
        env.render()
    except Exception as error:
        raise _no_renderer(task, error) from error


def _no_renderer(task: str, error: Exception) -> UserError:
    return UserError(
        f"task {task!r} cannot render here: {type(error).__name__}: {error} "
        "(without a screen, MuJoCo needs MUJOCO_GL=egl or MUJOCO_GL=osmesa and their libraries)"
    )
