"""The command that Playground's joystick tasks keep in ``info["command"]``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sim_rl_mjx.batch import Carry
from sim_rl_plugin.env import Command
from sim_rl_plugin.env.commands import Range

COMMAND = "command"
"""Its name, in ``info`` and for users."""

_VELOCITIES = ("lin_vel_x", "lin_vel_y", "ang_vel_yaw")


def command_of(env: Any, carry: Carry) -> Command | None:
    """Return the description of the command; None for a task without one.

    Args:
        env: One environment, whose configuration tells the ranges in one of Playground's ways.
        carry: The states of the batch.
    """
    values = carry.state.info.get(COMMAND)
    if values is None or values.ndim != 2 or not jnp.issubdtype(values.dtype, jnp.floating):
        return None
    size = values.shape[1]
    config: Any = getattr(env, "_config", None)  # Playground keeps it under this name only
    ranges = _ranges(config, size) if hasattr(config, "get") else ()
    elements = _VELOCITIES if ranges and size == len(_VELOCITIES) else tuple(map(str, range(size)))
    return Command(COMMAND, elements, ranges)


def with_command(carry: Carry, values: jax.Array) -> Carry:
    """Return states in which the command is ``values``, ``(n, size)``."""
    info = {**carry.state.info, COMMAND: values}
    return carry._replace(state=carry.state.replace(info=info))


def _ranges(config: Any, size: int) -> tuple[Range, ...]:
    for source in (config, config.get("command_config") or {}):
        if all(name in source for name in _VELOCITIES):
            return _pairs([source[name] for name in _VELOCITIES], size)
        if "a" in source:  # amplitudes, Go1's way
            return _pairs([(-value, value) for value in source["a"]], size)
        if "min" in source and "max" in source:
            return _pairs(list(zip(source["min"], source["max"], strict=False)), size)
    return ()


def _pairs(found: list[Any], size: int) -> tuple[Range, ...]:
    return tuple((float(low), float(high)) for low, high in found) if len(found) == size else ()
