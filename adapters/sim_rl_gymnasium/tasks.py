"""Names of Gymnasium tasks: which there are, and which one a user means."""

from __future__ import annotations

import importlib

import gymnasium
from gymnasium.envs.registration import EnvSpec

from sim_rl_plugin.errors import UserError, unknown_name

# Whether an environment takes continuous actions shows only when it is made, which needs its
# simulator. Of Gymnasium's own, these are known to.
_CONTINUOUS_MODULES = ("gymnasium.envs.mujoco.",)
_CONTINUOUS_NAMES = (
    "BipedalWalker",
    "BipedalWalkerHardcore",
    "CarRacing",
    "LunarLanderContinuous",
    "MountainCarContinuous",
    "Pendulum",
)


def task_names() -> list[str]:
    """Return the newest version of each of Gymnasium's own tasks with continuous actions, sorted.

    Any other registered task with a ``Box`` action space can be opened too.
    """
    return sorted(
        spec.id
        for spec in _newest_specs().values()
        if spec.name in _CONTINUOUS_NAMES or str(spec.entry_point).startswith(_CONTINUOUS_MODULES)
    )


def resolve_task(task: str) -> str:
    """Return the registered id for a name with or without version.

    Args:
        task: ``"Hopper-v5"``, ``"Hopper"`` for its newest version, or ``"package:Name-v0"`` for a task
            that importing ``package`` registers.

    Returns:
        The id as ``gymnasium.make`` takes it, with its package if one was given.

    Raises:
        UserError: The package cannot be imported, or no task has that name.
    """
    package, colon, name = task.rpartition(":")
    if package:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(f"task {task!r}: importing {package!r} failed: {error}") from error
    if name in gymnasium.registry:
        return package + colon + name
    newest = _newest_specs()
    if name in newest:
        return package + colon + newest[name].id
    raise unknown_name("task", task, [spec.id for spec in newest.values()])


def task_spec(task_id: str) -> EnvSpec:
    """Return what is registered under an id that ``resolve_task`` returned."""
    return gymnasium.registry[task_id.rpartition(":")[2]]


def _newest_specs() -> dict[str, EnvSpec]:
    """Return the newest version of every registered task, by its id without the version."""
    newest: dict[str, EnvSpec] = {}
    for spec in gymnasium.registry.values():
        name = f"{spec.namespace}/{spec.name}" if spec.namespace else spec.name
        if name not in newest or (spec.version or 0) > (newest[name].version or 0):
            newest[name] = spec
    return newest
