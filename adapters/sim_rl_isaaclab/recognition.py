"""Recognises the objects with which Isaac Lab's training scripts come to a runner."""

from __future__ import annotations

from typing import Any

from sim_rl_isaaclab.vec_env import IsaacLabVecEnv, is_isaaclab_env

_WRAPPER = "RslRlVecEnvWrapper"


def wrap(env: Any) -> IsaacLabVecEnv | None:
    """Return a ``VecEnv`` around an environment of Isaac Lab, or None for anything else.

    Its ``RslRlVecEnvWrapper`` (or a sub-class) is looked through: it counts old logs again, hands out buffers
    that are reused, and computes observations anew whenever it is asked for them. It has reset its
    environment already, its limit of the actions is kept, and so is the layout of images, which its
    ``play.py`` hands to the policy as they are.
    """
    if any(cls.__name__ == _WRAPPER for cls in type(env).__mro__) and is_isaaclab_env(env.env):
        return IsaacLabVecEnv(env.env, clip_actions=env.clip_actions, channels_first=False, reset=False)
    return IsaacLabVecEnv(env) if is_isaaclab_env(env) else None
