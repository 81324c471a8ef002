"""What this package adds to sim-rl: the simulator ``mujoco``."""

from __future__ import annotations

from sim_rl_plugin.hooks import Entry, hookimpl


@hookimpl
def sim_rl_adapters() -> list[Entry]:
    """Return the adapter for MuJoCo on the CPU."""
    return [
        Entry(
            "mujoco",
            "sim_rl_mujoco.open:open_task",
            "MuJoCo's C engine, batched over threads: Gymnasium's v5 robots and your own (no GPU needed)",
            requires=("mujoco",),
            extra="sim-rl-plugin",
            tasks="sim_rl_mujoco.tasks:task_names",
        )
    ]
