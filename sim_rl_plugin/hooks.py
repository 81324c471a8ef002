"""Hook specifications: everything a plugin can add to sim-rl, and nothing else.

This module needs the standard library and pluggy only, so a plugin that imports it costs no torch
and no simulator. A plugin is a module (or object) whose functions are marked with ``hookimpl``;
it is found through the entry-point group ``sim_rl_plugin``. Hooks hand over ``Entry`` objects:
what something is called and where it lies, not the thing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from sim_rl_plugin.env import VecEnv

PROJECT = "sim_rl_plugin"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class Entry:
    """A name, and where to find the object behind it once somebody asks for it.

    Attributes:
        name: What users type, unique within its kind (``"PPO"``, ``"mujoco"``, ``"train"``).
        target: ``"module:attribute"`` of the object; imported on first use.
        summary: One line for ``sim-rl plugins`` and ``sim-rl --help``.
        requires: Import names that must be installed before ``target`` can be imported.
        extra: What to install when one of ``requires`` is missing, as pip takes it
            (``"sim-rl-plugin[mjlab]"``).
        environ: Environment variables that must be set before ``target`` is imported. They are
            defaults: a variable that the user has set stays.
        tasks: Adapters only: ``"module:attribute"`` of a function without arguments that returns
            the names of the tasks which the adapter can open.
    """

    name: str
    target: str
    summary: str = ""
    requires: tuple[str, ...] = ()
    extra: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    tasks: str = ""


@hookspec
def sim_rl_algorithms() -> Iterable[Entry]:
    """Return algorithms: classes with the public methods of ``sim_rl_plugin.algorithms.PPO``."""
    return ()


@hookspec
def sim_rl_models() -> Iterable[Entry]:
    """Return models: ``torch.nn.Module`` classes with the interface of ``sim_rl_plugin.models.MLPModel``."""
    return ()


@hookspec
def sim_rl_runners() -> Iterable[Entry]:
    """Return runners: classes with the interface of ``sim_rl_plugin.runners.OnPolicyRunner``."""
    return ()


@hookspec
def sim_rl_log_writers() -> Iterable[Entry]:
    """Return log writers: subclasses of ``sim_rl_plugin.logging.LogWriter``."""
    return ()


@hookspec
def sim_rl_adapters() -> Iterable[Entry]:
    """Return simulator adapters.

    The target is called as ``target(task, num_envs=..., device=..., seed=..., render=..., **options)``
    and returns a context manager that yields a ``VecEnv`` and closes the simulator on exit.
    ``render`` is true when frames will be asked for; ``options`` are the keyword parameters of the
    target, checked against its signature.
    """
    return ()


@hookspec
def sim_rl_pipelines() -> Iterable[Entry]:
    """Return pipelines: targets are ``sim_rl_plugin.pipelines.Pipeline`` objects."""
    return ()


@hookspec
def sim_rl_launchers() -> Iterable[Entry]:
    """Return launchers: targets are functions that run a ``LaunchRequest`` in all processes of a training.

    The target is called as ``target(request)`` in the process that the user has started, and returns its exit
    status. One that has the name of a simulator is taken for its trainings in several processes.
    """
    return ()


@hookspec
def sim_rl_commands() -> Iterable[Entry]:
    """Return sub-commands of ``sim-rl``: targets are ``click.Command`` objects."""
    return ()


@hookspec(firstresult=True)
def sim_rl_wrap_env(env: Any) -> VecEnv | None:
    """Return a ``VecEnv`` around an object that this plugin recognises, or None."""


@hookspec(firstresult=True)
def sim_rl_default_config(adapter: str, task: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the task's own tuned settings in the shape of a training config, or None.

    ``settings`` are those that the user has made, in files and on the command line, not yet checked: for
    simulators that have to be started before they can tell their tasks' settings. Read, do not modify.
    """


@hookspec(firstresult=True)
def sim_rl_load_foreign_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return a checkpoint dict with our keys, read from somebody else's file, or None."""


@hookspec
def sim_rl_run_start(runner: Any) -> None:
    """Be told that a training is about to start; ``runner.cfg`` holds its settings."""


@hookspec
def sim_rl_iteration_end(runner: Any, iteration: int, metrics: Mapping[str, float]) -> None:
    """Be told that an iteration ended; ``metrics`` are what the log writers get."""


@hookspec
def sim_rl_checkpoint_saved(runner: Any, path: Path, iteration: int) -> None:
    """Be told that a checkpoint is complete on disk."""


@hookspec
def sim_rl_run_end(runner: Any) -> None:
    """Be told that a training ended as planned or was stopped by the user."""


@hookspec
def sim_rl_run_error(runner: Any, error: BaseException) -> None:
    """Be told that a training ended with an error, which is raised after this hook."""
