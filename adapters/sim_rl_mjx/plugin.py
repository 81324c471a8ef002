"""What this adapter adds to sim-rl; importing it needs neither JAX nor torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from sim_rl_plugin.hooks import Entry, hookimpl

ENTRY = Entry(
    name="mjx",
    target="sim_rl_mjx.open:open_task",
    summary="MuJoCo Playground's tasks and Brax-style environments, batched in JAX (MJX, MuJoCo Warp)",
    requires=("jax", "mujoco_playground"),
    extra="sim-rl-plugin[mjx]",
    # JAX takes three quarters of the GPU's memory when it starts; the learner lives there too.
    environ={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    tasks="sim_rl_mjx.tasks:task_names",
)


@hookimpl
def sim_rl_adapters() -> Iterable[Entry]:
    """Return the adapter ``mjx``."""
    return (ENTRY,)


@hookimpl
def sim_rl_default_config(adapter: str, task: str) -> dict[str, Any] | None:
    """Return Playground's tuned PPO parameters of a task in the shape of our settings, or None."""
    if adapter != ENTRY.name:
        return None
    from sim_rl_plugin.registry import missing_requirements

    if missing_requirements(ENTRY):
        return None  # opening the task says what to install
    # The settings are asked for before the adapter is loaded, and finding them imports JAX.
    for variable, value in ENTRY.environ.items():
        os.environ.setdefault(variable, value)
    from sim_rl_mjx.tuned import training_settings

    return training_settings(task)
