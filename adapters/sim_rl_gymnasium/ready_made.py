"""Gymnasium environments that somebody has made already: recognised and wrapped as they are."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from sim_rl_gymnasium.open import step_time_s
from sim_rl_gymnasium.vec_env import GymnasiumVecEnv, autoreset_mode
from sim_rl_plugin.errors import UserError


def wrap(env: Any) -> GymnasiumVecEnv | None:
    """Return a ready-made environment behind our contract, or None for what is not Gymnasium's.

    Args:
        env: A ``gymnasium.vector.VectorEnv`` in any mode of automatic resets, or one ``gymnasium.Env``,
            which becomes a batch of one. It is reset, and keeps its random states: seed it beforehand
            with ``env.reset(seed=...)``.

    Raises:
        UserError: It is Gymnasium's, and cannot be trained on.
    """
    if isinstance(env, gymnasium.Env) and not hasattr(env.unwrapped, "num_envs"):
        # An Env with num_envs is a batch by its own rules: its simulator's plugin knows them.
        env = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.DISABLED)
    if not isinstance(env, VectorEnv):
        return None
    limit = _episode_limit(env)
    if limit is None:
        raise UserError(
            f"{env} has no time limit that could be found: make its environments with max_episode_steps, or hand over "
            "sim_rl_gymnasium.vec_env.GymnasiumVecEnv(env, max_episode_length=1000)"
        )
    cfg = {"environment": str(env), "max_episode_steps": limit, "autoreset_mode": autoreset_mode(env).name}
    return GymnasiumVecEnv(env, max_episode_length=limit, step_dt=_step_time_s(env), cfg=cfg)


def _episode_limit(vector_env: VectorEnv) -> int | None:
    """Return the largest time limit of the environments, control steps."""
    limits = [vector_env.spec.max_episode_steps] if vector_env.spec is not None else []
    # What the environments themselves say goes first: they may have been made with another limit.
    for name in ("_max_episode_steps", "spec"):
        values = _attributes(vector_env, name)
        limits = [getattr(value, "max_episode_steps", value) for value in values] or limits
        if any(limits):
            break
    return max((limit for limit in limits if limit), default=None)


def _attributes(vector_env: VectorEnv, name: str) -> tuple[Any, ...]:
    """Return an attribute of every environment, or nothing where they do not have it."""
    base = vector_env.unwrapped
    if not isinstance(base, (SyncVectorEnv, AsyncVectorEnv)):
        return ()
    # Asked for beforehand: a worker process that is asked for what it does not have ends.
    return base.get_attr(name) if all(base.call("has_wrapper_attr", name)) else ()


def _step_time_s(vector_env: VectorEnv) -> float | None:
    found = _attributes(vector_env, "dt")
    return step_time_s(found[0] if found else None, vector_env.metadata)
