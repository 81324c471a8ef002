"""Tasks by name: Playground's registry, and factories of environments with its or Brax's interface."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
from collections.abc import Mapping
from typing import Any

from sim_rl_plugin.errors import UserError, unknown_name

_FACTORY_HINT = "(an environment of your own is written package.module:factory)"


def task_names() -> list[str]:
    """Return the names in Playground's registry, sorted."""
    from mujoco_playground import registry

    return sorted(registry.ALL_ENVS)


def is_factory(task: str) -> bool:
    """Return whether a task names a factory, ``package.module:factory``, and not an entry of the registry."""
    return ":" in task


def load_environment(
    task: str, config_overrides: Mapping[str, Any] | None = None, task_options: Mapping[str, Any] | None = None
) -> Any:
    """Return one environment, not yet batched.

    Args:
        task: A name of Playground's registry, or ``package.module:factory``.
        config_overrides: Settings of the environment's own configuration, by their dotted names. A factory
            gets them as keyword argument ``config_overrides``, if there are any.
        task_options: Keyword arguments of a factory.

    Raises:
        UserError: The task, an override or an option does not exist, or files that it needs are missing.
    """
    overrides, options = dict(config_overrides or {}), dict(task_options or {})
    _quieten_warp()
    if not is_factory(task):
        if options:
            raise UserError("task_options are for a package.module:factory: use config_overrides for Playground's")
        return _load_registered(task, overrides)
    factory = _import_factory(task)
    if overrides:
        options["config_overrides"] = overrides
    try:
        env = factory(**options)
    except TypeError as error:
        raise UserError(f"task {task!r} cannot be called with {sorted(options)}: {error}") from error
    _check_interface(task, env)
    return env


def default_config(task: str) -> Any:
    """Return the configuration that Playground's registry has for a task."""
    from mujoco_playground import registry

    return registry.get_default_config(task)


def _quieten_warp() -> None:
    """Keep MuJoCo Warp from printing a line for each of its kernels."""
    with contextlib.suppress(ImportError, AttributeError):
        import warp

        warp.config.quiet = True


def _load_registered(task: str, overrides: dict[str, Any]) -> Any:
    from mujoco_playground import registry

    if task not in registry.ALL_ENVS:
        raise unknown_name("task", task, task_names(), _FACTORY_HINT)
    _check_overrides(task, overrides)
    try:
        # It clones the robots' models from GitHub, once, and reports on that on stdout.
        return registry.load(task, config_overrides=overrides)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        raise UserError(
            f"task {task!r} needs the robot models of MuJoCo Menagerie, which Playground clones with git when they "
            f"are used for the first time: {error}"
        ) from error
    except (TypeError, ValueError, AssertionError) as error:
        if not overrides:
            raise
        raise UserError(f"task {task!r} cannot be opened with config_overrides {overrides}: {error}") from error


def _check_overrides(task: str, overrides: dict[str, Any]) -> None:
    known = _flattened(default_config(task).to_dict())
    for name in overrides:
        if name not in known:
            raise unknown_name("setting", f"config_overrides.{name}", [f"config_overrides.{key}" for key in known])


def _flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def flattened_overrides(overrides: Mapping[str, Any] | None, impl: str | None) -> dict[str, Any]:
    """Return overrides under their dotted names, nested ones too, and ``impl`` among them.

    Raises:
        UserError: ``impl`` is given twice, with different values.
    """
    flat = _flattened(overrides or {})
    if impl is not None:
        if flat.get("impl", impl) != impl:
            raise UserError(f"impl is {impl!r} and config_overrides.impl is {flat['impl']!r}: set one of them")
        flat["impl"] = impl
    return flat


def _import_factory(task: str) -> Any:
    place, _, attribute = task.partition(":")
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"task {task!r}: there is no module {error.name!r}") from error
    if not hasattr(module, attribute):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise unknown_name(f"factory in {place}", attribute, names)
    return getattr(module, attribute)


def _check_interface(task: str, env: Any) -> None:
    for name in ("reset", "step", "action_size"):
        found = None
        with contextlib.suppress(Exception):
            found = getattr(env, name)
        if found is None:
            raise UserError(
                f"task {task!r} made a {type(env).__name__} without {name!r}: expected reset(key), step(state, action) "
                "and action_size, as Playground's and Brax's environments have"
            )
