"""Opening a Gymnasium task by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import gymnasium
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from sim_rl_gymnasium.groups import check_spaces
from sim_rl_gymnasium.tasks import resolve_task, task_spec
from sim_rl_gymnasium.vec_env import GymnasiumVecEnv, close_vector_env
from sim_rl_gymnasium.wrappers import WrapperChoice, parse_wrappers
from sim_rl_plugin.env import Term, VecEnv
from sim_rl_plugin.errors import UserError, unknown_name

Vectorization = Literal["sync", "async"]

_OURS = ("id", "render_mode", "max_episode_steps", "disable_env_checker")


@contextmanager
def open_task(
    task: str,
    *,
    num_envs: int,
    device: torch.device | str = "cpu",
    seed: int = 0,
    render: bool = False,
    vectorization: Vectorization = "sync",
    clip_actions: bool = True,
    make_options: dict[str, Any] | None = None,
    wrappers: list[str | dict[str, Any]] | None = None,
    max_episode_steps: int | None = None,
) -> Iterator[VecEnv]:
    """Open ``num_envs`` environments of one task, and close them on exit.

    Args:
        task: A registered id, with or without its version, or ``"package:Name-v0"`` for a task that
            importing ``package`` registers.
        num_envs: Number of environments.
        device: Where tensors are returned. Gymnasium itself runs on the CPU.
        seed: Environment ``i`` is seeded with ``seed + i``.
        render: Whether ``VecEnv.render`` will be asked for frames, of environment 0.
        vectorization: ``"sync"`` steps the environments one after another in this process, ``"async"``
            each in a process of its own, which pays for slow environments only.
        clip_actions: Whether actions are clipped to the bounds of the action space. They are never
            rescaled: an action is in the task's own unit.
        make_options: Keyword arguments of the environment, as ``gymnasium.make`` takes them.
        wrappers: Wrappers around each environment, innermost first: names out of ``gymnasium.wrappers``,
            ``"module:Class"``, or mappings with ``class_name`` and the wrapper's arguments.
        max_episode_steps: Control steps of an episode, or None for the registered limit.

    Yields:
        The environments, just reset.

    Raises:
        UserError: No such task, a package that it needs is missing, or it cannot be trained on.
    """
    if vectorization not in get_args(Vectorization):
        raise unknown_name("vectorization", vectorization, get_args(Vectorization))
    if num_envs < 1:
        raise UserError(f"num_envs is {num_envs}, expected at least 1")
    task_id = resolve_task(task)
    chosen = parse_wrappers(wrappers or [])
    known_limit = task_spec(task_id).max_episode_steps if max_episode_steps is None else max_episode_steps
    make_one = _MakeOne(task_id, dict(make_options or {}), chosen, known_limit if chosen else None)
    step_dt, observation_terms, action_terms = _try_out(make_one, render)
    limit = _checked_limit(task_id, known_limit)
    vector_env = _vectorize(make_one, num_envs, render, vectorization)
    try:
        env = GymnasiumVecEnv(
            vector_env,
            max_episode_length=limit,
            device=device,
            seed=seed,
            clip_actions=clip_actions,
            step_dt=step_dt,
            observation_terms=observation_terms,
            action_terms=action_terms,
            cfg={
                "task": task_id,
                "num_envs": num_envs,
                "seed": seed,
                "vectorization": vectorization,
                "clip_actions": clip_actions,
                "make_options": dict(make_options or {}),
                "wrappers": list(wrappers or []),
                "max_episode_steps": limit,
            },
        )
        yield env
    finally:
        # Also when the constructor fails: worker processes would be left behind.
        close_vector_env(vector_env)


@dataclass(frozen=True)
class _MakeOne:
    """A function that makes one environment, in whichever process calls it."""

    task_id: str
    options: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[WrapperChoice, ...] = ()
    limit: int | None = None
    """Control steps after which Gymnasium's own ``TimeLimit`` strikes; None leaves it out."""
    filmed: bool | None = None
    """Whether this one renders; None if none does, and ``render`` will not be called."""

    def __call__(self) -> gymnasium.Env:
        options = self.options | ({"render_mode": "rgb_array"} if self.filmed else {})
        # -1 leaves the time limit out: see vec_env.py for why it is counted there. Wrappers such as
        # TimeAwareObservation ask for one, which then never strikes before ours.
        env = gymnasium.make(self.task_id, max_episode_steps=self.limit or -1, disable_env_checker=True, **options)
        for wrapper in self.wrappers:
            env = wrapper(env)
        return _Unfilmed(env) if self.filmed is False else env


class _Unfilmed(gymnasium.Wrapper):
    """An environment beside a filmed one: a vector environment can only ask all of them for a frame."""

    def render(self) -> None:
        """Return None, without a warning about the missing render mode."""
        return None


def _checked_limit(task_id: str, limit: int | None) -> int:
    if limit is None:
        raise UserError(f"task {task_id!r} has no registered time limit: set max_episode_steps")
    if limit < 1:
        raise UserError(f"max_episode_steps is {limit}, expected at least 1")
    return limit


def _try_out(make_one: _MakeOne, render: bool) -> tuple[float | None, dict[str, tuple[Term, ...]], tuple[Term, ...]]:
    """Make one environment and close it again, so that what is wrong is said once and in our words.

    Returns:
        Seconds of a control step, observation terms and action terms, as far as the environment tells.
    """
    for name in make_one.options:
        if name in _OURS:
            raise UserError(f"make_options.{name} is set by the adapter: use render or max_episode_steps instead")
    try:
        env = make_one()
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise UserError(f"task {make_one.task_id!r} needs a package that is not installed: {error}") from error
    except Exception as error:
        # Options and wrappers fail in as many ways as there are environments; without any of them it is
        # no mistake of the user.
        if make_one.wrappers:
            names = ", ".join(wrapper.name for wrapper in make_one.wrappers)
            what = f"wrappers {names}" + (f" and make_options {make_one.options!r}" if make_one.options else "")
        elif make_one.options and isinstance(error, TypeError):
            # Gymnasium adds the environment's name to this one.
            what = f"make_options {make_one.options!r}"
        else:
            raise
        raise UserError(f"{what} do not fit task {make_one.task_id!r}: {type(error).__name__}: {error}") from error
    try:
        check_spaces(env.observation_space, env.action_space)
        step_dt = step_time_s(getattr(env.unwrapped, "dt", None), env.metadata)
        # Wrappers may change observations and actions without a trace.
        observation_terms, action_terms = ({}, ()) if make_one.wrappers else _terms_of(env)
    except UserError as error:
        raise UserError(f"task {make_one.task_id!r}: {error}") from None
    finally:
        env.close()
    if render:
        _try_rendering(replace(make_one, filmed=True))
    return step_dt, observation_terms, action_terms


def _terms_of(env: gymnasium.Env) -> tuple[dict[str, tuple[Term, ...]], tuple[Term, ...]]:
    """Return the terms of a task that runs on MuJoCo's own bindings; none for others."""
    if "mujoco" not in sys.modules:
        return {}, ()
    from sim_rl_gymnasium.terms import terms_of

    return terms_of(env)


def step_time_s(step_dt: Any, metadata: dict[str, Any]) -> float | None:
    """Return the simulated seconds of a control step: what MuJoCo's tasks say, or the rate to film at."""
    if isinstance(step_dt, (int, float)) and step_dt > 0:
        return float(step_dt)
    rate_hz = metadata.get("render_fps")
    return 1.0 / rate_hz if rate_hz else None


def _try_rendering(make_one: _MakeOne) -> None:
    env = make_one()
    try:
        env.reset()
        env.render()
    except Exception as error:
        # Renderers fail in as many ways as there are graphics stacks: name the cause, whatever its type.
        raise UserError(
            f"task {make_one.task_id!r} cannot render here: {type(error).__name__}: {error} "
            "(MuJoCo tasks on a machine without a screen need MUJOCO_GL=egl or MUJOCO_GL=osmesa)"
        ) from error
    finally:
        env.close()


def _vectorize(
    make_one: _MakeOne, num_envs: int, render: bool, vectorization: Vectorization
) -> SyncVectorEnv | AsyncVectorEnv:
    makers = [replace(make_one, filmed=index == 0 if render else None) for index in range(num_envs)]
    vector_class = SyncVectorEnv if vectorization == "sync" else AsyncVectorEnv
    # Without copies: every array is copied once, into a tensor, before the next call.
    return vector_class(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
