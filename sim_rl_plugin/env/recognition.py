"""From whatever somebody has to an environment that keeps our contract."""

from __future__ import annotations

from typing import Any

from sim_rl_plugin.env.foreign import REQUIRED, missing_members
from sim_rl_plugin.env.vec_env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.plugins import get_manager


def as_vec_env(env: Any) -> VecEnv:
    """Return an environment that the learner can train on.

    A ``VecEnv`` is returned as it is. Anything else is offered to the plugins
    (``sim_rl_wrap_env``), ours last, which knows the shapes of rsl_rl, legged_gym, Isaac Lab and Genesis.

    Raises:
        UserError: Nobody recognises it; the message names what is missing.
    """
    if isinstance(env, VecEnv):
        return env
    manager = get_manager()
    wrapped = manager.first("sim_rl_wrap_env", env=env)
    if wrapped is not None:
        return wrapped
    missing = missing_members(env)
    # A plugin that recognised it and then failed is the likelier reason than what is missing.
    failed = [f"{f.plugin!r} failed ({f.message})" for f in manager.failures if f.where == "sim_rl_wrap_env"]
    raise UserError(
        f"{type(env).__name__} is no environment that can be trained on: it has no {', '.join(missing)}. Expected "
        f"{', '.join(REQUIRED)}, as rsl_rl's VecEnv has, or an object that an installed plugin recognises "
        "(docs/adapters.md)" + "".join(f"; the plugin {failure}" for failure in failed)
    )
