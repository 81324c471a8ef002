"""Wrappers by name, as a command line can give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import gymnasium.wrappers

from sim_rl_plugin.config.signature import parameters_of, unknown_key
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
        UserError: There is no such wrapper, it does not belong here, or an argument is unknown or missing.
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
        _check_names(_find(name, path), given, path)
        # YAML has no tuples, and some wrappers take nothing else.
        choices.append(WrapperChoice(name, {key: _with_tuples(value) for key, value in given.items()}))
    return tuple(choices)


def _check_names(wrapper: Callable[..., gymnasium.Env], given: dict[str, Any], path: str) -> None:
    """Check the names of a wrapper's arguments; their types are its own business, whose annotations are too narrow."""
    parameters = parameters_of(wrapper)
    _, *settable = parameters.annotations or ["env"]
    for name in given:
        if name not in settable and not parameters.accepts_any:
            raise unknown_key(path, name, settable)
    for name in settable:
        if name in parameters.required and name not in given:
            raise UserError(f"{path}.{name} is missing: write {{class_name: ..., {name}: ...}}")


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


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
