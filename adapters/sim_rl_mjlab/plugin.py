"""What this adapter adds to sim-rl; importing it needs neither mjlab nor torch."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from sim_rl_plugin.hooks import Entry, hookimpl

if TYPE_CHECKING:
    from sim_rl_plugin.env import VecEnv

_WRAPPER = ("mjlab.rl.vecenv_wrapper", "RslRlVecEnvWrapper")
_ENVIRONMENT = ("mjlab.envs.manager_based_rl_env", "ManagerBasedRlEnv")


@hookimpl
def sim_rl_adapters() -> list[Entry]:
    """Return the adapter ``mjlab``."""
    return [
        Entry(
            "mjlab",
            "sim_rl_mjlab.open:open_task",
            "mjlab's manager-based tasks on MuJoCo Warp, with their own training settings",
            requires=("mjlab",),
            extra="sim-rl-plugin[mjlab]",
            tasks="sim_rl_mjlab.tasks:task_names",
        )
    ]


@hookimpl
def sim_rl_runners() -> list[Entry]:
    """Return the runner whose checkpoints mjlab's own runner loads with the curriculum's progress."""
    return [Entry("MjlabRunner", "sim_rl_mjlab.runner:MjlabRunner", "OnPolicyRunner that mjlab can use as its own")]


@hookimpl
def sim_rl_models() -> list[Entry]:
    """Return the model that mjlab's tasks with a camera ask for."""
    return [
        Entry(
            "SpatialSoftmaxCNNModel",
            "sim_rl_mjlab.spatial_softmax:SpatialSoftmaxCNNModel",
            "CNNModel that reduces each feature map to the place where it is strongest",
        )
    ]


@hookimpl
def sim_rl_default_config(adapter: str, task: str) -> dict[str, Any] | None:
    """Return a task's own ``rl_cfg`` in our shape."""
    if adapter != "mjlab" or importlib.util.find_spec("mjlab") is None:
        return None
    from sim_rl_mjlab.tasks import default_config

    return default_config(task)


@hookimpl
def sim_rl_wrap_env(env: Any) -> VecEnv | None:
    """Return a ``VecEnv`` around mjlab's environment, or around its wrapper for rsl_rl."""
    ancestors = {(cls.__module__, cls.__name__) for cls in type(env).__mro__}
    if not ancestors & {_WRAPPER, _ENVIRONMENT}:
        return None
    from sim_rl_mjlab.vec_env import MjlabVecEnv

    return MjlabVecEnv.around(env)
