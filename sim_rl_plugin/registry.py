"""From a name to the object behind it, which is imported when somebody asks for it."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.hooks import Entry
from sim_rl_plugin.plugins import OwnedEntry, get_manager

KINDS = {
    "algorithms": "algorithm",
    "models": "model",
    "runners": "runner",
    "log_writers": "log writer",
    "adapters": "simulator",
    "pipelines": "pipeline",
    "launchers": "launcher",
    "commands": "command",
}
"""Every kind of entry (its hook is ``sim_rl_<kind>``) and what one of them is called in messages."""

_CLASS_KINDS = ("algorithms", "models", "runners", "log_writers")
_NAMESPACES = ("algorithms", "models", "modules", "storage", "runners", "extensions", "utils")


def owned_entries(kind: str) -> tuple[OwnedEntry, ...]:
    """Return every entry of a kind with its owner, duplicates included."""
    return get_manager().entries(f"sim_rl_{kind}")


def names(kind: str) -> list[str]:
    """Return the names of a kind, sorted, each once."""
    return sorted({owned.entry.name for owned in owned_entries(kind)})


def duplicates() -> Iterator[tuple[str, str, list[str]]]:
    """Yield ``(kind, name, owners)`` for every name that is handed over more than once."""
    for kind in KINDS:
        for name in names(kind):
            owners = [owned.owner for owned in owned_entries(kind) if owned.entry.name == name]
            if len(owners) > 1:
                yield kind, name, owners


def get_entry(kind: str, name: str) -> Entry:
    """Return the entry of a name without importing its target.

    Raises:
        UserError: The name is unknown (the message suggests one), or several plugins claim it.
    """
    return _get_owned(kind, name).entry


def _get_owned(kind: str, name: str) -> OwnedEntry:
    if kind == "adapters" and is_own_function(name):
        return _own_function(name)
    found = [owned for owned in owned_entries(kind) if owned.entry.name == name]
    if not found:
        hint = "" if kind == "commands" else "(`sim-rl plugins` lists what is installed)"
        raise unknown_name(KINDS[kind], name, names(kind), hint)
    if len(found) > 1:
        owners = " and ".join(repr(owned.owner) for owned in found)
        raise UserError(
            f"the {KINDS[kind]} {name!r} is claimed by the plugins {owners}: uninstall one, "
            "or leave it out of SIM_RL_PLUGINS"
        )
    return found[0]


def is_own_function(simulator: str) -> bool:
    """Say whether a simulator's name is ``module:function``, a function of the user's that opens environments."""
    return ":" in simulator


def packages_of_simulator(simulator: str | None, env: Any) -> tuple[str, ...]:
    """Return the import names of the packages that simulate: what the adapter requires, or what ``env`` comes from."""
    found = [owned.entry.requires for owned in owned_entries("adapters") if owned.entry.name == simulator]
    inner = getattr(env, "unwrapped", env)
    return found[0] if found else (type(inner).__module__.partition(".")[0],)


def _own_function(target: str) -> OwnedEntry:
    """Return an entry for a simulator that is a function of the user's, ``module:function``."""
    # The command does not look into the current folder by itself, `python -m` does.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return OwnedEntry("command line", Entry(target, target))


def missing_requirements(entry: Entry) -> list[str]:
    """Return the import names that an entry needs and that are not installed."""
    return [requirement for requirement in entry.requires if not _is_installed(requirement)]


def check_requirements(kind: str, entry: Entry) -> None:
    """Raise the one line that says what to install.

    Raises:
        UserError: A package that the entry needs is missing.
    """
    missing = missing_requirements(entry)
    if missing:
        raise UserError(
            f"the {KINDS[kind]} {entry.name!r} needs {', '.join(missing)}, not installed: {install_command(entry)}"
        )


def install_command(entry: Entry) -> str:
    """Return the command that installs what an entry needs; empty if it names no extra and nothing is missing."""
    if entry.extra:
        return f'pip install "{entry.extra}"'
    missing = missing_requirements(entry)
    return f"pip install {' '.join(missing)}" if missing else ""


def load(kind: str, name: str) -> Any:
    """Return the object behind a name.

    Args:
        kind: One of ``KINDS``.
        name: The entry's name.

    Raises:
        UserError: The name is unknown or ambiguous, a package it needs is missing, or its target
            cannot be imported.
    """
    owned = _get_owned(kind, name)
    return _load_target(kind, owned, owned.entry.target)


def load_tasks(name: str) -> list[str]:
    """Return the names of the tasks that an adapter lists, in its order.

    Raises:
        UserError: As for ``load``.
    """
    owned = _get_owned("adapters", name)
    if not owned.entry.tasks:
        return []
    return [str(task) for task in _load_target("adapters", owned, owned.entry.tasks)()]


def _load_target(kind: str, owned: OwnedEntry, target: str) -> Any:
    entry = owned.entry
    check_requirements(kind, entry)
    for variable, value in entry.environ.items():
        os.environ.setdefault(variable, value)
    try:
        return _import_attribute(target)
    except Exception as error:
        raise UserError(
            f"the {KINDS[kind]} {entry.name!r} of plugin {owned.owner!r} cannot be loaded from {target}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _import_attribute(target: str) -> Any:
    module, _, path = target.rpartition(":")
    found = importlib.import_module(module)
    for attribute in path.split("."):
        found = getattr(found, attribute)
    return found


def resolve_callable(callable_or_name: Any) -> Any:
    """Return the class or function that a config means.

    Args:
        callable_or_name: A callable, returned as it is; ``"module:Attribute.Nested"``;
            ``"module.path.Class"``; or a simple name: a registered algorithm, model, runner or log
            writer, else a public name of our sub-packages. A name that begins with ``rsl_rl.``
            means our object at the same path.

    Raises:
        TypeError: It is neither a callable nor a string.
        UserError: Nothing of that name can be found or imported.
    """
    if callable(callable_or_name):
        return callable_or_name
    if not isinstance(callable_or_name, str):
        raise TypeError(f"expected a class, a function or a name, found {callable_or_name!r}")
    name = callable_or_name.strip()
    if name.startswith("rsl_rl."):
        name = "sim_rl_plugin." + name.removeprefix("rsl_rl.")
    found = _resolve_qualified(name) if ":" in name or "." in name else _resolve_simple(name)
    if not callable(found):
        raise UserError(f"{callable_or_name!r} is no class or function but {type(found).__name__}")
    return found


def resolve_class(cfg: dict[str, Any], *, path: str = "config") -> tuple[type, dict[str, Any]]:
    """Return the class that a config names, and a deep copy of its other keys.

    Args:
        cfg: A config with ``class_name``; not modified.
        path: Its key path, for messages (``"actor.distribution_cfg"``).

    Raises:
        UserError: ``class_name`` is missing, or names no class; the message begins with the key path.
    """
    if not isinstance(cfg, dict) or cfg.get("class_name") is None:
        raise UserError(f"{path}: expected a mapping with 'class_name', found {cfg!r}")
    try:
        found = resolve_callable(cfg["class_name"])
    except (UserError, TypeError) as error:
        raise UserError(f"{path}.class_name: {error}") from error
    kwargs = copy.deepcopy({key: value for key, value in cfg.items() if key != "class_name"})
    return found, kwargs


def _resolve_simple(name: str) -> Any:
    for kind in _CLASS_KINDS:
        if name in names(kind):
            return load(kind, name)
    known = {registered for kind in _CLASS_KINDS for registered in names(kind)}
    for namespace in _NAMESPACES:
        package = f"sim_rl_plugin.{namespace}"
        if not _is_installed(package):
            continue
        module = importlib.import_module(package)
        public = getattr(module, "__all__", ())
        if name in public:
            return getattr(module, name)
        known.update(public)
    raise unknown_name("class", name, known, "(a class of your own is written 'module:Class')")


def _resolve_qualified(name: str) -> Any:
    if ":" in name:
        splits = [name.rpartition(":")[::2]]
    else:
        parts = name.split(".")
        splits = [(".".join(parts[:cut]), ".".join(parts[cut:])) for cut in range(len(parts) - 1, 0, -1)]
    for module, path in splits:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            # The module itself does not exist: a shorter one may. A module that exists and misses
            # one of its own imports is the real cause, and is reported below.
            if error.name and (module == error.name or module.startswith(error.name + ".")):
                continue
            raise UserError(f"cannot import {module!r} for {name!r}: {error}") from error
        except Exception as error:
            raise UserError(f"cannot import {module!r} for {name!r}: {type(error).__name__}: {error}") from error
        for attribute in path.split("."):
            if not hasattr(found, attribute):
                raise unknown_name(f"name in {name!r}:", attribute, _public_names(found))
            found = getattr(found, attribute)
        return found
    raise UserError(f"cannot find {name!r}: no module {splits[-1][0]!r} is installed")


def _public_names(found: Any) -> list[str]:
    return list(getattr(found, "__all__", None) or [name for name in dir(found) if not name.startswith("_")])
