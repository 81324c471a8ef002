"""The names of the built-in tasks, without importing the simulator."""

from __future__ import annotations

import re

TASKS = {
    "HalfCheetah": "sim_rl_mujoco.gymnasium_tasks:HalfCheetah",
    "Ant": "sim_rl_mujoco.gymnasium_tasks:Ant",
    "Hopper": "sim_rl_mujoco.gymnasium_tasks:Hopper",
    "Walker2d": "sim_rl_mujoco.gymnasium_tasks:Walker2d",
    "Humanoid": "sim_rl_mujoco.gymnasium_tasks:Humanoid",
    "Swimmer": "sim_rl_mujoco.gymnasium_tasks:Swimmer",
    "Reacher": "sim_rl_mujoco.gymnasium_tasks:Reacher",
    "Pusher": "sim_rl_mujoco.gymnasium_tasks:Pusher",
    "InvertedPendulum": "sim_rl_mujoco.gymnasium_tasks:InvertedPendulum",
    "InvertedDoublePendulum": "sim_rl_mujoco.gymnasium_tasks:InvertedDoublePendulum",
}


def task_names() -> list[str]:
    """Return the names of the built-in tasks; a user's own is ``path/to/file.py:Class`` or ``module:Class``."""
    return list(TASKS)


def canonical_name(task: str) -> str:
    """Return the built-in name behind a Gymnasium id (``"Ant-v5"`` gives ``"Ant"``), others unchanged.

    Only version 5 is the same task; an older version stays as it is and is therefore unknown.
    """
    match = re.fullmatch(r"(\w+)-v5", task)
    return match[1] if match and match[1] in TASKS else task
