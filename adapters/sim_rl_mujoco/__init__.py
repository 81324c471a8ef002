"""MuJoCo's C engine for sim-rl: one ``MjData`` per environment, stepped by a pool of threads.

Importing this package loads neither MuJoCo nor torch; the public names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim_rl_mujoco.open import open_task
    from sim_rl_mujoco.task import MujocoTask, State
    from sim_rl_mujoco.vec_env import MujocoVecEnv

__all__ = ["MujocoTask", "MujocoVecEnv", "State", "open_task"]

_HOME = {
    "MujocoTask": "sim_rl_mujoco.task",
    "MujocoVecEnv": "sim_rl_mujoco.vec_env",
    "State": "sim_rl_mujoco.task",
    "open_task": "sim_rl_mujoco.open",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
