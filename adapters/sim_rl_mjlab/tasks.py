"""mjlab's tasks: their names, their environments' configuration, their training settings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from sim_rl_mjlab.settings import SUFFIX, as_run_settings
from sim_rl_plugin.errors import UserError, unknown_name

_NUM_ENVS_ON_A_GPU = 4096


def task_names() -> list[str]:
    """Return the ids that are registered with mjlab, sorted, without those that stand for our own runner."""
    return [name for name in _registry().list_tasks() if not name.endswith(SUFFIX)]


def default_config(task: str) -> dict[str, Any] | None:
    """Return a task's ``rl_cfg`` in our shape, or None if there is no such task.

    mjlab leaves the number of environments at 1, to be set by who trains; its settings are tuned for
    thousands. So on a machine with CUDA it is 4096, and elsewhere it stays our default.
    """
    registry = _registry()
    if task not in registry.list_tasks():
        return None
    rl_cfg = asdict(registry.load_rl_cfg(task))
    num_envs = registry.load_env_cfg(task).scene.num_envs
    if num_envs <= 1:
        num_envs = _NUM_ENVS_ON_A_GPU if torch.cuda.is_available() else None
    return as_run_settings(rl_cfg, num_envs)


def env_cfg(task: str, *, play: bool) -> Any:
    """Return a copy of a task's environment configuration.

    Args:
        task: Its id.
        play: The one for looking at a policy: endless episodes without noise, pushes and curricula.

    Raises:
        UserError: There is no such task.
    """
    registry = _registry()
    if task not in registry.list_tasks():
        raise unknown_name("task", task, task_names())
    return registry.load_env_cfg(task, play=play)


def require_motion(task: str, cfg: Any) -> None:
    """Raise for a tracking task without the motion that is to be tracked.

    Raises:
        UserError: Says which option names the file.
    """
    motion = getattr(cfg, "commands", {}).get("motion")
    if motion is not None and not getattr(motion, "motion_file", True):
        raise UserError(
            f"task {task!r} tracks a motion: set env.task_options.commands.motion.motion_file to an .npz file "
            "(mjlab's csv_to_npz writes one)"
        )


def _registry() -> Any:
    import mjlab.tasks  # noqa: F401  # fills the registry
    from mjlab.tasks import registry

    return registry
