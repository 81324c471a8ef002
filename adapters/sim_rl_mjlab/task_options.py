"""Changes to a task's configuration, which is a tree of dataclasses, dicts and lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sim_rl_plugin.config.signature import shorten
from sim_rl_plugin.errors import UserError, unknown_name


def apply_options(cfg: Any, options: Mapping[str, Any], path: str = "task_options") -> None:
    """Set fields of a configuration in place.

    Args:
        cfg: A dataclass, or a dict of terms by name.
        options: Field or key to its new value; a mapping goes down into the field, None switches off a
            term (an observation, a reward, an event).
        path: Key path of ``options``, for messages.

    Raises:
        UserError: A name does not exist, or a value has another type than the one it replaces.
    """
    is_mapping = isinstance(cfg, dict)
    names = list(cfg) if is_mapping else [field.name for field in dataclasses.fields(cfg)]
    for name, value in options.items():
        where = f"{path}.{name}"
        if name not in names:
            raise unknown_name("option", where, [f"{path}.{known}" for known in names])
        old = cfg[name] if is_mapping else getattr(cfg, name)
        is_tree = isinstance(old, dict) or (dataclasses.is_dataclass(old) and not isinstance(old, type))
        if is_tree and isinstance(value, Mapping):
            apply_options(old, value, where)
            continue
        if is_tree and value is not None:
            raise UserError(f"{where}: expected a mapping of settings or null, found {shorten(value)}")
        new = _converted(old, value, where)
        if is_mapping:
            cfg[name] = new
        else:
            setattr(cfg, name, new)


def _converted(old: Any, value: Any, where: str) -> Any:
    """Return a value from YAML as the type that stands there, where that tells one."""
    if isinstance(old, tuple) and isinstance(value, list):
        return tuple(value)
    if value is None or old is None:
        return value
    if isinstance(old, bool) or isinstance(value, bool):
        fits = isinstance(old, bool) and isinstance(value, bool)
    elif isinstance(old, (int, float)):
        fits = isinstance(value, (int, float))
    elif isinstance(old, (str, list, tuple, Mapping)):
        fits = isinstance(value, type(old))
    else:
        fits = isinstance(value, type(old))
    if not fits:
        raise UserError(f"{where}: expected {type(old).__name__} as in {shorten(old)}, found {shorten(value)}")
    return value
