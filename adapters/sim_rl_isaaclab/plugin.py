"""What this package adds to sim-rl; importing it needs neither Isaac Lab nor torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from sim_rl_plugin.hooks import Entry, hookimpl

NAME = "isaaclab"

ENTRY = Entry(
    name=NAME,
    target="sim_rl_isaaclab.open:open_task",
    summary="Isaac Lab's tasks, 2.2 to 3.x, on Isaac Sim or, from 3.0 on, on Newton",
    requires=("isaaclab",),
    extra="sim-rl-plugin[isaaclab]",
    tasks="sim_rl_isaaclab.tasks:task_names",
)


@hookimpl
def sim_rl_adapters() -> Iterable[Entry]:
    """Return the adapter ``isaaclab``."""
    return (ENTRY,)


@hookimpl
def sim_rl_launchers() -> Iterable[Entry]:
    """Return the launcher of trainings in several processes, which has the simulator's name."""
    return (Entry(NAME, "sim_rl_isaaclab.launcher:launch", "Isaac Lab chooses the GPU of each process"),)


@hookimpl
def sim_rl_default_config(adapter: str, task: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a task's own training settings; up to Isaac Lab 2.3 this starts the simulator."""
    if adapter != NAME:
        return None
    from sim_rl_plugin.registry import check_requirements

    check_requirements("adapters", ENTRY)
    from sim_rl_plugin.errors import UserError

    try:
        from sim_rl_isaaclab.settings import training_settings

        return training_settings(task, settings)
    except UserError:
        raise
    except Exception as error:
        # Going on with other settings than the task's would be worse than not going on.
        reason = " ".join(str(error).split())
        raise UserError(
            f"the settings of Isaac Lab's task {task!r} cannot be read: {type(error).__name__}: {reason}"
        ) from error


@hookimpl
def sim_rl_wrap_env(env: Any) -> Any:
    """Return a ``VecEnv`` around an environment of Isaac Lab or around its own ``RslRlVecEnvWrapper``."""
    if "gymnasium" not in sys.modules:
        return None  # then it is no environment of Isaac Lab
    from sim_rl_isaaclab.recognition import wrap

    return wrap(env)
