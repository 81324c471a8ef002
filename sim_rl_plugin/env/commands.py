"""What a task tells its policy to do, such as a velocity to walk at, and how somebody else may say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sim_rl_plugin.errors import UserError, unknown_name

Range = tuple[float, float]


@dataclass(frozen=True)
class Command:
    """Numbers that the task draws for each environment, and that its policy shall follow.

    Attributes:
        name: Such as ``"twist"``, unique within the environment.
        elements: What each number is, such as ``("lin_vel_x", "lin_vel_y", "ang_vel_z")``.
        ranges: ``(low, high)`` of what the task draws each number from, in the task's own units; None for a number
            whose range is unknown. Empty if all are.
    """

    name: str
    elements: tuple[str, ...]
    ranges: tuple[Range | None, ...] = ()

    @property
    def size(self) -> int:
        """Count of its numbers."""
        return len(self.elements)

    def range_of(self, index: int) -> Range | None:
        """Return the range of one number, or None if it is unknown."""
        return self.ranges[index] if self.ranges else None


def command_terms(env: Any) -> tuple[Command, ...]:
    """Return the commands that an environment, ours or not, lets somebody hold."""
    found: Any = getattr(env, "command_terms", None)
    # Environments of other projects may have an attribute of this name with other things in it.
    is_ours = isinstance(found, Sequence) and all(isinstance(command, Command) for command in found)
    return tuple(found) if is_ours else ()


def command_named(commands: Sequence[Command], name: str) -> Command:
    """Return a command by its name.

    Raises:
        UserError: There is none.
    """
    for command in commands:
        if command.name == name:
            return command
    raise unknown_name("command", name, [command.name for command in commands])


def command_values(command: Command, values: torch.Tensor) -> torch.Tensor:
    """Return what a command shall be held at, float32 ``(size,)``, copied.

    Raises:
        UserError: It is not ``size`` finite numbers.
    """
    if not isinstance(values, torch.Tensor) or tuple(values.shape) != (command.size,):
        found = f"shape {tuple(values.shape)}" if isinstance(values, torch.Tensor) else f"a {type(values).__name__}"
        names = ", ".join(command.elements)
        raise UserError(f"command {command.name!r}: expected a tensor ({command.size},) of {names}, found {found}")
    if not bool(torch.isfinite(values).all()):
        raise UserError(f"command {command.name!r}: expected finite numbers, found {values.tolist()}")
    return values.detach().to(dtype=torch.float32, copy=True)


def fault_in_commands(commands: Any) -> str:
    """Return what is wrong with a list of commands, or nothing."""
    if not isinstance(commands, Sequence) or not all(isinstance(command, Command) for command in commands):
        return f"found {commands!r}, expected a list or tuple of sim_rl_plugin.env.Command"
    names = [command.name for command in commands]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        return f"two commands are called {twice[0]!r}"
    for command in commands:
        if not command.elements:
            return f"{command.name}: there is no number in it"
        if command.ranges and len(command.ranges) != command.size:
            return f"{command.name}: {len(command.ranges)} ranges are given for {command.size} numbers"
        for element, limits in zip(command.elements, command.ranges, strict=False):
            if limits is not None and not limits[0] <= limits[1]:
                return f"{command.name}: the range of {element} is {limits}, expected (low, high)"
    return ""
