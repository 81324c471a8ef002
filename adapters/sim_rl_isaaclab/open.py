"""Opening a task of Isaac Lab by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sim_rl_isaaclab.launch import (
    LaunchOptions,
    as_arguments,
    new_stage,
    own_device,
    own_seed,
    start_for,
    starts_before_configurations,
)
from sim_rl_isaaclab.settings import configurations, prepare
from sim_rl_isaaclab.tasks import check_task
from sim_rl_isaaclab.vec_env import IsaacLabVecEnv
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError


@contextmanager
def open_task(
    task: str,
    *,
    num_envs: int,
    device: torch.device | str = "cuda:0",
    seed: int = 0,
    render: bool = False,
    headless: bool = True,
    enable_cameras: bool | None = None,
    launcher: list[str] | None = None,
    overrides: list[str] | None = None,
    agent: str | None = None,
    final_obs: bool = True,
) -> Iterator[VecEnv]:
    """Start the simulator if it does not run, open a task, and close the task on exit.

    The simulator itself stays until the process ends: it can be started once only.

    Args:
        task: A registered task, or ``"package:Name-v0"`` for one that importing ``package`` registers.
        num_envs: Number of environments.
        device: Device of the physics and of every tensor. In a distributed run that of this process's rank.
        seed: Seed of Isaac Lab's generators; in a distributed run the rank is added.
        render: Whether ``VecEnv.render`` will be asked for frames; this needs cameras. Isaac Lab 3 does not
            give single frames: set its ``video_recorders`` by ``overrides`` instead.
        headless: Whether the simulator runs without a window.
        enable_cameras: Whether it can render; None for exactly when ``render`` is wanted.
        launcher: Further arguments of Isaac Lab's launcher, as on its command line: ``["--livestream", "2"]``.
        overrides: Changes of the environment's configuration, as Isaac Lab hands them to Hydra:
            ``["env.sim.dt=0.01"]``, and since 3.0 ``["physics=newton_mjwarp"]``.
        agent: Which of the task's training settings to take, by their keyword in ``gym.register``, such as
            ``rsl_rl_distillation_cfg_entry_point``; None for its own.
        final_obs: Whether Isaac Lab computes observations before it resets, where it can (since 3.0).

    Yields:
        The environments, just reset.

    Raises:
        UserError: No such task, or an option does not fit.
    """
    if num_envs < 1:
        raise UserError(f"num_envs is {num_envs}, expected at least 1")
    check_task(task)
    options = LaunchOptions(
        device=own_device(str(device)),
        headless=headless,
        enable_cameras=render if enable_cameras is None else enable_cameras,
        arguments=as_arguments(launcher),
    )
    prepare(options)
    cfg, _ = configurations(task, agent, overrides or ())
    cfg.scene.num_envs = num_envs
    cfg.sim.device = options.device
    cfg.seed = own_seed(seed)
    if hasattr(cfg, "compute_final_obs"):
        cfg.compute_final_obs = final_obs
    if starts_before_configurations():
        new_stage()
    else:
        start_for(cfg, options)
    env = IsaacLabVecEnv(_make(task, cfg, render), render=render)
    try:
        yield env
    finally:
        env.close()


def _make(task: str, cfg: Any, render: bool) -> Any:
    import gymnasium

    env = gymnasium.make(task.rpartition(":")[2], cfg=cfg, render_mode="rgb_array" if render else None)
    if hasattr(env.unwrapped, "possible_agents"):
        # A task with several agents is trained as if they were one, as Isaac Lab's own scripts do.
        env = importlib.import_module("isaaclab.envs").multi_agent_to_single_agent(env)
    return env
