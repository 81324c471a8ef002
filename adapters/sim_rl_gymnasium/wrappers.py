"""Wrappers by name, as a command line can give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import gymnasium.wrappers

from sim_rl_plugin.config.signature import check_arguments
from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.registry import resolve_callable

_OURS = {
    "TimeLimit": "the adapter counts the time itself: set env.max_episode_steps",
    "Autoreset": "the adapter resets environments itself, in the step in which they end",
}


@dataclass(frozen=True)
class WrapperChoice:
    """A wrapper and its arguments, as plain data that every process can build from.

    Attributes:
        name: A class of ``gymnasium.wrappers``, or ``"module:Class"``.
        arguments: Its keyword arguments beside the environment.
    """

    name: str
    arguments: dict[str, Any]

    def __call__(self, env: gymnasium.Env) -> gymnasium.Env:
        """Return the wrapped environment."""
        return _find(self.name, "env.wrappers")(env, **self.arguments)


def parse_wrappers(wrappers: Sequence[str | dict[str, Any]]) -> tuple[WrapperChoice, ...]:
    """Return the wrappers that a setting means, innermost first.

    Args:
        wrappers: Names, or mappings with ``class_name`` and the wrapper's arguments.

    Raises:
        UserError: There is no such wrapper, it does not belong here, or an argument is unknown or ill-typed.
    """
    choices = []
    for index, item in enumerate(wrappers):
        path = f"env.wrappers.{index}"
        given = {"class_name": item} if isinstance(item, str) else dict(item)
        name = given.pop("class_name", None)
        if not isinstance(name, str):
            raise UserError(f"{path}: expected a wrapper's name, or a mapping with class_name, found {item!r}")
        if name in _OURS:
            raise UserError(f"{path}: {name} does not belong here: {_OURS[name]}")
        check_arguments(_find(name, path), given, path, provided=("env",))
        choices.append(WrapperChoice(name, given))
    return tuple(choices)


def _find(name: str, path: str) -> Callable[..., gymnasium.Env]:
    if ":" in name:
        try:
            return resolve_callable(name)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    if name not in gymnasium.wrappers.__all__:
        known = [known for known in gymnasium.wrappers.__all__ if known[0].isupper()]
        raise unknown_name(f"wrapper in {path}:", name, known, "(one of your own is written module:Class)")
    return getattr(gymnasium.wrappers, name)
