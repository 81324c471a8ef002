"""Commands of environments with a command manager, as Isaac Lab's and mjlab's have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sim_rl_plugin.env.commands import Command, Range, command_named, command_values

_ANGLES = ("roll", "pitch", "yaw")


class ManagerCommands:
    """The terms of a command manager that somebody can hold.

    A term can be held if ``term.command`` is the buffer that the term writes to, as it is for velocities and poses;
    one that is put together anew at every access, such as the motion that a robot imitates, cannot. Of a pose, whose
    orientation is drawn as angles and kept as a quaternion, the position can be held.
    """

    def __init__(self, base: Any) -> None:
        """Look at an environment; nothing of it is changed before a command is held.

        Args:
            base: The simulator's own environment, with or without a ``command_manager``.
        """
        self._manager: Any = getattr(base, "command_manager", None)
        self._held: dict[str, torch.Tensor] = {}
        self._followed: set[str] = set()

    @property
    def terms(self) -> tuple[Command, ...]:
        """The commands, with the ranges that they are drawn from now."""
        names = getattr(self._manager, "active_terms", None) or ()
        found = (_command_of(name, self._manager.get_term(name)) for name in names)
        return tuple(command for command in found if command is not None)

    def get(self, name: str) -> torch.Tensor:
        """See ``VecEnv.get_command``."""
        command = command_named(self.terms, name)
        return self._manager.get_term(name).command[:, : command.size].to(torch.float32, copy=True)

    def hold(self, name: str, values: torch.Tensor | None) -> None:
        """See ``VecEnv.hold_command``."""
        command = command_named(self.terms, name)
        if values is None:
            self._held.pop(name, None)
            return
        term = self._manager.get_term(name)
        self._held[name] = command_values(command, values).to(term.command.device)
        if name not in self._followed:
            self._followed.add(name)
            # On this one object: these two are all that a manager calls on its terms while it steps and resets.
            for method in ("compute", "reset"):
                setattr(term, method, self._held_after(getattr(term, method), name, term))
        self._write(name, term)

    def _held_after(self, method: Callable[..., Any], name: str, term: Any) -> Callable[..., Any]:
        def held(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            self._write(name, term)
            return result

        return held

    def _write(self, name: str, term: Any) -> None:
        values = self._held.get(name)
        if values is not None:
            # What was created within this mode can only be written to in it.
            with torch.inference_mode():
                term.command[:, : len(values)] = values


def _command_of(name: str, term: Any) -> Command | None:
    """Return the description of a term; None if it cannot be held."""
    first, second = term.command, term.command
    is_buffer = isinstance(first, torch.Tensor) and first.ndim == 2 and first.is_floating_point()
    if not is_buffer or first.shape[1] == 0 or first.data_ptr() != second.data_ptr():
        return None
    size = first.shape[1]
    ranges = _ranges(getattr(term.cfg, "ranges", None))
    if len(ranges) < size:
        angles = [index for index, element in enumerate(ranges) if element in _ANGLES]
        ranges = dict(list(ranges.items())[: angles[0]]) if angles else {}
    if not ranges:
        return Command(name, tuple(str(index) for index in range(size)))
    return Command(name, tuple(ranges)[:size], tuple(ranges.values())[:size])


def _ranges(settings: Any) -> dict[str, Range]:
    """Return the pairs of numbers among a term's ranges, in their order."""
    found = vars(settings) if hasattr(settings, "__dict__") else {}
    return {str(name): (float(value[0]), float(value[1])) for name, value in found.items() if _is_range(value)}


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(item, (int, float)) for item in value)
    )
