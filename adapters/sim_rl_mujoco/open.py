"""Open a task by name: the adapter's entry."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sim_rl_mujoco.driver import Driver
from sim_rl_mujoco.gymnasium_tasks import GymnasiumTask
from sim_rl_mujoco.render import Camera
from sim_rl_mujoco.task import MujocoTask, TaskDriver
from sim_rl_mujoco.tasks import TASKS, canonical_name, task_names
from sim_rl_mujoco.vec_env import MujocoVecEnv
from sim_rl_plugin.config import check_arguments
from sim_rl_plugin.errors import UserError, unknown_name


@contextlib.contextmanager
def open_task(
    task: str,
    *,
    num_envs: int,
    device: str | torch.device = "cpu",
    seed: int = 0,
    render: bool = False,
    num_threads: int | None = None,
    max_episode_steps: int | None = None,
    clip_actions: bool = True,
    task_options: Mapping[str, Any] | None = None,
    observation_groups: Mapping[str, Sequence[str]] | None = None,
    render_width: int = 320,
    render_height: int = 240,
    render_camera: str | None = None,
) -> Iterator[MujocoVecEnv]:
    """Open a task, and close it on exit.

    Args:
        task: A built-in robot (``HalfCheetah``, also as ``HalfCheetah-v5``), or a class of your own
            derived from ``MujocoTask``: ``path/to/file.py:Class`` or ``package.module:Class``.
        num_envs: Number of environments.
        device: Where observations and rewards go; the simulation runs on the CPU.
        seed: Decides every random number.
        render: Open the renderer now, so that a missing camera is an error before the training.
        num_threads: Threads that step; None means every core that the process may use.
        max_episode_steps: Episode limit in control steps, instead of the task's own.
        clip_actions: Clip actions to the actuators' control range.
        task_options: Keyword arguments of the task's class, such as Gymnasium's reward weights.
        observation_groups: Groups that a built-in robot gives beside ``policy``, which is its whole
            observation: name to some of the observation's terms, such as ``{"joints": ["position"]}``.
            The robots' terms are those of ``observation_terms`` in ``gymnasium_tasks``; a wrong one is
            answered with the list. A task of your own has the groups that its ``observations`` returns.
        render_width: Pixels.
        render_height: Pixels.
        render_camera: A camera of the model; None follows the robot.

    Yields:
        The environment.

    Raises:
        UserError: The task, an option or the camera does not exist.
    """
    task = canonical_name(task)
    with _blamed_on(task_options or {}, task):
        driver = _driver(task, dict(task_options or {}))
    if observation_groups:
        if not isinstance(driver, GymnasiumTask):
            raise UserError(f"observation_groups: the task {task!r} makes its own groups, in its method `observations`")
        driver.add_observation_groups(observation_groups)
    for name, value in (("render_width", render_width), ("render_height", render_height)):
        if value < 1:
            raise UserError(f"env.{name} must be at least 1, found {value}")
    with _blamed_on(task_options or {}, task):
        env = MujocoVecEnv(
            driver,
            # Without the path: a run folder that moved to another machine must still resume.
            name=task.rpartition(":")[2],
            num_envs=num_envs,
            device=device,
            seed=seed,
            num_threads=num_threads,
            max_episode_steps=max_episode_steps,
            clip_actions=clip_actions,
            camera=Camera(render_width, render_height, render_camera),
        )
    try:
        if render:
            env.render()
        yield env
    finally:
        env.close()


def _driver(task: str, options: dict[str, Any]) -> Driver:
    own = task not in TASKS
    if own and ":" not in task:
        raise unknown_name(
            "task", task, task_names(), hint="(a task of your own is written path/to/file.py:Class or module:Class)"
        )
    cls = _load(task if own else TASKS[task])
    if own and not (isinstance(cls, type) and issubclass(cls, MujocoTask)):
        raise UserError(f"task {task!r} is not a class derived from sim_rl_mujoco.MujocoTask")
    check_arguments(cls, options, "env.task_options")
    instance = cls(**options)
    return TaskDriver(instance, options) if own else instance


@contextlib.contextmanager
def _blamed_on(options: Mapping[str, Any], task: str) -> Iterator[None]:
    """Turn what numbers out of range lead to in a built-in robot into one line; other tasks raise what they raise."""
    try:
        yield
    except UserError:
        raise
    except (OverflowError, TypeError, ValueError) as error:
        if not options or task not in TASKS:
            raise
        given = ", ".join(f"{name}: {value!r}" for name, value in options.items())
        raise UserError(f"env.task_options: {task} cannot be made with {given} ({error})") from error


def _load(target: str) -> Any:
    """Import ``path/to/file.py:attribute`` or ``module:attribute``."""
    place, _, attribute = target.rpartition(":")
    if place.endswith(".py"):
        module = _load_file(Path(place))
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise
            raise UserError(f"task {target!r}: there is no module {error.name!r}") from error
    if not hasattr(module, attribute):
        raise unknown_name(f"class in {place}", attribute, [name for name, v in vars(module).items() if _is_task(v)])
    return getattr(module, attribute)


def _is_task(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, MujocoTask) and value is not MujocoTask


def _load_file(path: Path) -> Any:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"the task file {path} does not exist")
    # Registered under its path, so that two files of one name do not become one module.
    name = f"sim_rl_mujoco_task_{path.stem}_{abs(hash(str(path))):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
