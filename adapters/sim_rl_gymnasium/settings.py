"""Settings for tasks that give images or several groups: which groups there are, and networks that fit.

A task with one vector needs none of this, and a task with a file in ``configs/gymnasium`` has its own.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from sim_rl_gymnasium.groups import check_spaces, image_sizes
from sim_rl_gymnasium.tasks import resolve_task
from sim_rl_plugin.config.files import merge_layers, task_file, task_settings
from sim_rl_plugin.errors import UserError

_CRITIC_ONLY = "critic"
"""Name of a group that only the critic shall see, as rsl_rl's users call it."""

_CNN = {"output_channels": [32, 64, 64], "kernel_size": [8, 4, 3], "stride": [4, 2, 1], "activation": "elu"}
"""The network of Mnih et al. 2015 (doi:10.1038/nature14236), for images of 36 pixels and more."""

_SMALL_CNN = {"output_channels": [16, 32], "kernel_size": 3, "stride": [1, 2], "activation": "elu"}
_SMALL_PIXELS = 36


def settings_of(task: str) -> dict[str, Any] | None:
    """Return a task's settings if it gives more than one vector; None for all others, and where it cannot be made."""
    if task_file("gymnasium", task) is not None:
        return None
    space = _observation_space(task)
    if space is None:
        return None
    sizes = image_sizes(space)
    if sizes == {"policy": None}:
        return None
    everything = list(sizes)
    actors = [name for name in everything if name != _CRITIC_ONLY] or everything
    layer: dict[str, Any] = {"obs_groups": {"actor": actors, "critic": everything}}
    if any(size is not None for size in sizes.values()):
        layer |= _image_settings(sizes, actors)
    return merge_layers(task_settings("gymnasium", task) or {}, layer)


def _observation_space(task: str) -> gymnasium.Space | None:
    try:
        env = gymnasium.make(resolve_task(task), disable_env_checker=True)
    except Exception:
        # A wrong name, a missing package: whoever opens the task says it better, and in any case.
        return None
    try:
        check_spaces(env.observation_space, env.action_space)
        return env.observation_space
    except UserError:
        return None
    finally:
        env.close()


def _image_settings(sizes: dict[str, int | None], actors: list[str]) -> dict[str, Any]:
    pixels = min(size for size in sizes.values() if size is not None)
    cnn = _CNN if pixels >= _SMALL_PIXELS else _SMALL_CNN

    def model(groups: list[str]) -> dict[str, Any]:
        settings = {"hidden_dims": [256], "activation": "elu", "obs_normalization": True}
        if all(sizes[group] is None for group in groups):
            return {"class_name": "MLPModel", **settings}
        return {"class_name": "CNNModel", **settings, "cnn_cfg": dict(cnn)}

    distribution = {"class_name": "GaussianDistribution", "init_std": 0.6, "std_type": "log"}
    return {
        "num_envs": 16,  # images take memory, and drawing them time
        "torch_num_threads": None,  # convolutions are worth several
        "actor": model(actors) | {"distribution_cfg": distribution},
        "critic": model(list(sizes)),
    }
