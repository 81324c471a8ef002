"""What this adapter adds to sim-rl; importing it needs neither Gymnasium nor torch."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from typing import Any

from sim_rl_plugin.hooks import Entry, hookimpl


@hookimpl
def sim_rl_adapters() -> Iterable[Entry]:
    """Return the adapter ``gymnasium``."""
    return (
        Entry(
            name="gymnasium",
            target="sim_rl_gymnasium.open:open_task",
            summary="Gymnasium environments with continuous actions, stepped in turn or in processes",
            requires=("gymnasium",),
            extra="sim-rl-plugin[gymnasium]",
            tasks="sim_rl_gymnasium.tasks:task_names",
        ),
    )


@hookimpl
def sim_rl_wrap_env(env: Any) -> Any:
    """Return one of Gymnasium's environments behind our contract; None for anything else."""
    if "gymnasium" not in sys.modules:
        return None  # nobody has made one
    from sim_rl_gymnasium.ready_made import wrap

    return wrap(env)


@hookimpl
def sim_rl_default_config(adapter: str, task: str) -> dict[str, Any] | None:
    """Return settings that name the task's observation groups, for tasks that give more than a vector."""
    if adapter != "gymnasium" or importlib.util.find_spec("gymnasium") is None:
        return None
    from sim_rl_gymnasium.settings import settings_of

    return settings_of(task)
