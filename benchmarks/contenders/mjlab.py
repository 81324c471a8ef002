"""mjlab: its environment, its wrapper for rsl_rl, and our adapter in both of its modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import mjlab.tasks  # noqa: F401
import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.rl import RslRlVecEnvWrapper
from mjlab.tasks.registry import load_env_cfg
from sim_rl_mjlab.vec_env import MjlabVecEnv

from contenders import Contender, OurHandOver, RslRlHandOver, nothing

TASKS = {"Mjlab-Cartpole-Balance": 256, "Mjlab-Velocity-Flat-Unitree-Go1": 64}
PEER = "mjlab's RslRlVecEnvWrapper"
PACKAGES = ("mjlab", "mujoco", "mujoco-warp", "warp-lang", "torch", "tensordict", "rsl-rl-lib")


@contextmanager
def open_contenders(task: str, num_envs: int, frozen: bool) -> Iterator[dict[str, Contender]]:
    """Open an environment for each contender."""
    kinds: dict[str, tuple[bool, Any, Any]] = {
        # auto_reset, what wraps the environment, what hands its results over
        "bare mjlab": (True, Bare, nothing),
        PEER: (True, RslRlVecEnvWrapper, RslRlHandOver()),
        "ours": (True, lambda env: MjlabVecEnv(env, reset=True), OurHandOver()),
        "bare mjlab, auto_reset=False": (False, ResetByHand, nothing),
        "ours with final_obs": (False, lambda env: MjlabVecEnv(env, reset=True), OurHandOver()),
    }
    with ExitStack() as stack:
        contenders = {}
        for name, (auto_reset, wrap, hand_over) in kinds.items():
            cfg = load_env_cfg(task)
            cfg.scene.num_envs, cfg.seed, cfg.auto_reset = num_envs, 1, auto_reset
            env = stack.enter_context(closing(ManagerBasedRlEnv(cfg, device="cpu")))
            contenders[name] = contender(env, wrap(env), hand_over, frozen)
        yield contenders


class Bare:
    """The environment as it is."""

    def __init__(self, env: Any) -> None:
        env.reset()
        self.step = env.step


class ResetByHand:
    """The environment, and the reset that it leaves to its caller."""

    def __init__(self, env: Any) -> None:
        self._env = env
        env.reset()

    def step(self, actions: torch.Tensor) -> None:
        _, _, terminated, truncated, _ = self._env.step(actions)
        env_ids = (terminated | truncated).nonzero().squeeze(-1)
        if len(env_ids):
            self._env.reset(env_ids=env_ids)


def contender(env: Any, wrapped: Any, hand_over: Any, frozen: bool) -> Contender:
    actions = torch.zeros(env.num_envs, env.action_manager.total_action_dim)

    def let_end(number: int) -> None:
        env.episode_length_buf.fill_(0)
        env.episode_length_buf[:number] = env.max_episode_length - 1

    if frozen:
        let_end(0)
        result = env.step(actions)
        env.step = lambda actions: result
        if isinstance(wrapped, Bare):
            wrapped.step = env.step
    return Contender(lambda: wrapped.step(actions), let_end, hand_over)
