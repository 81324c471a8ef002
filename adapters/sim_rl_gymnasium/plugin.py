"""What this adapter adds to sim-rl; importing it needs neither Gymnasium nor torch."""

from __future__ import annotations

from collections.abc import Iterable

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
