"""The PPO parameters that Playground has tuned for its tasks, in the shape of our settings.

They were tuned with Brax's PPO, whose mathematics differs from ours in a few places. ``translate`` says
for each parameter what becomes of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sim_rl_plugin.config.files import merge_layers, task_settings

BRAX_DEFAULTS: dict[str, Any] = {
    "action_repeat": 1,
    "clipping_epsilon": 0.3,
    "clipping_epsilon_value": None,
    "desired_kl": 0.01,
    "gae_lambda": 0.95,
    "max_grad_norm": None,
    "normalize_advantage": True,
    "reward_scaling": 1.0,
    "vf_loss_coefficient": 0.5,
}
"""What ``brax.training.agents.ppo.train`` takes for a parameter that Playground leaves out."""

BRAX_NETWORKS: dict[str, Any] = {
    "policy_hidden_layer_sizes": (32, 32, 32, 32),
    "value_hidden_layer_sizes": (256, 256, 256, 256, 256),
    "policy_obs_key": "state",
    "value_obs_key": "state",
}
"""The same for ``make_ppo_networks``."""

# The standard deviation of Brax's policies before training, softplus(0).
_INITIAL_STD = 0.7


def training_settings(task: str) -> dict[str, Any]:
    """Return the settings of a task: ``configs/mjx/_default.yaml``, and Playground's parameters on it.

    An environment of one's own gets ``obs_groups`` that fit its observations.
    """
    settings = task_settings("mjx", task) or {}
    parameters = playground_parameters(task)
    if parameters is None:
        return merge_layers(settings, {"obs_groups": _own_groups(task)})
    return merge_layers(settings, translate(parameters))


def playground_parameters(task: str) -> dict[str, Any] | None:
    """Return Playground's tuned parameters of Brax's PPO for a task of its registry, or None."""
    from mujoco_playground import dm_control_suite, locomotion, manipulation
    from mujoco_playground.config import dm_control_suite_params, locomotion_params, manipulation_params

    for suite, parameters in (
        (dm_control_suite, dm_control_suite_params),
        (locomotion, locomotion_params),
        (manipulation, manipulation_params),
    ):
        if task in suite.ALL_ENVS:
            try:
                return parameters.brax_ppo_config(task).to_dict()
            except (ValueError, NotImplementedError):
                return None  # a task that somebody has registered, or that has no parameters yet
    return None


def translate(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of ours for parameters of Brax's PPO.

    - A batch of Brax is ``batch_size * num_minibatches`` unrolls of ``unroll_length`` steps. Where that is
      several unrolls of every environment, Brax takes them with one policy; here an iteration is one
      unroll, with as many mini-batches fewer. So a mini-batch is as large as there, each sample is used as
      often, and the policy that acts is newer.
    - The learning rate is where the adaptive schedule starts, also where Brax keeps it fixed: its rates are
      tuned for hundreds of optimizer steps per policy, and Playground's own settings for rsl_rl adapt theirs.
    - ``reward_scaling`` becomes PPO's ``reward_scale``: what is logged stays in the task's unit.
    - Brax halves the squared error of the value before ``vf_loss_coefficient``.
    - Brax squashes actions by tanh; here they are clipped, by the adapter. The entropy bonus is that of the
      Gaussian, which has no maximum as that of a squashed one has.
    - Episodes and ``num_timesteps`` count the environment's own steps, repeated actions included.

    Args:
        parameters: As ``brax_ppo_config(task).to_dict()`` returns them.
    """
    given = {**BRAX_DEFAULTS, **parameters}
    networks = {**BRAX_NETWORKS, **given.get("network_factory", {})}
    num_envs, num_steps, num_mini_batches = _layout(given)
    repeat = given["action_repeat"]
    value_clip = given["clipping_epsilon_value"]
    limit = given["max_grad_norm"]
    normalization = bool(given["normalize_observations"])

    def network(sizes: Any) -> dict[str, Any]:
        return {
            "class_name": "MLPModel",
            "hidden_dims": list(sizes),
            "activation": "swish",
            "obs_normalization": normalization,
        }

    distribution = {"class_name": "GaussianDistribution", "init_std": _INITIAL_STD, "std_type": "log"}
    return {
        "num_envs": num_envs,
        "num_steps_per_env": num_steps,
        "max_iterations": math.ceil(given["num_timesteps"] / (num_envs * num_steps * repeat)),
        "obs_groups": {"actor": [networks["policy_obs_key"]], "critic": [networks["value_obs_key"]]},
        "env": {"action_repeat": repeat, "max_episode_steps": math.ceil(given["episode_length"] / repeat)},
        "algorithm": {
            "class_name": "PPO",
            "learning_rate": given["learning_rate"],
            "schedule": "adaptive",
            "desired_kl": given["desired_kl"],
            "gamma": given["discounting"],
            "lam": given["gae_lambda"],
            "clip_param": given["clipping_epsilon"],
            "entropy_coef": given["entropy_cost"],
            "value_loss_coef": 0.5 * given["vf_loss_coefficient"],
            # One limit serves ratio and value here; only a task that clips values in Brax does so.
            "use_clipped_value_loss": value_clip is not None,
            "max_grad_norm": math.inf if limit is None else limit,
            "normalize_advantage_per_mini_batch": bool(given["normalize_advantage"]),
            "num_learning_epochs": given["num_updates_per_batch"],
            "num_mini_batches": num_mini_batches,
            "reward_scale": given["reward_scaling"],
        },
        "actor": network(networks["policy_hidden_layer_sizes"]) | {"distribution_cfg": distribution},
        "critic": network(networks["value_hidden_layer_sizes"]),
    }


def _layout(parameters: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return environments, steps per environment, and mini-batches of one iteration."""
    num_envs, steps = parameters["num_envs"], parameters["unroll_length"]
    mini_batches = parameters["num_minibatches"]
    unrolls = max(1, parameters["batch_size"] * mini_batches // num_envs)
    if mini_batches % unrolls == 0:
        return num_envs, steps, mini_batches // unrolls
    return num_envs, steps * unrolls, mini_batches


def _own_groups(task: str) -> dict[str, list[str]]:
    """Return ``obs_groups`` for an environment of one's own, as far as it can be made without options."""
    import jax

    from sim_rl_mjx.tasks import is_factory, load_environment

    if not is_factory(task):
        return {}
    try:
        obs = jax.eval_shape(load_environment(task).reset, jax.random.PRNGKey(0)).obs
    except Exception:
        return {}  # opening the task with its options tells what is wrong, if anything is
    if not isinstance(obs, Mapping) or "state" not in obs:
        return {}
    return {"actor": ["state"], "critic": ["privileged_state" if "privileged_state" in obs else "state"]}
