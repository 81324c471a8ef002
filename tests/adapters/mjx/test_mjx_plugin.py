"""What can be said about the adapter without JAX."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from sim_rl_plugin import registry
from sim_rl_plugin.errors import UserError


def test_listing_the_adapter_imports_neither_jax_nor_torch() -> None:
    code = (
        "import sys, sim_rl_mjx.plugin as plugin\n"
        "(entry,) = plugin.sim_rl_adapters()\n"
        "assert entry.name == 'mjx'\n"
        "assert plugin.sim_rl_default_config('mujoco', 'Ant') is None\n"
        "print(sorted({'jax', 'torch', 'numpy', 'mujoco', 'mujoco_playground'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_without_playground_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from sim_rl_mjx import plugin

    monkeypatch.setattr(registry, "missing_requirements", lambda entry: ["mujoco_playground"])
    assert plugin.sim_rl_default_config("mjx", "CartpoleBalance") is None
    with pytest.raises(UserError, match=r"needs mujoco_playground, not installed: pip install .sim-rl-plugin\[mjx\]"):
        registry.check_requirements("adapters", plugin.ENTRY)


PARAMETERS = {
    "num_timesteps": 1_000_000,
    "reward_scaling": 10.0,
    "episode_length": 1000,
    "normalize_observations": True,
    "action_repeat": 4,
    "unroll_length": 30,
    "num_minibatches": 32,
    "num_updates_per_batch": 16,
    "discounting": 0.995,
    "learning_rate": 1e-3,
    "entropy_cost": 1e-2,
    "num_envs": 2048,
    "batch_size": 1024,
    "network_factory": {
        "policy_hidden_layer_sizes": (512, 256),
        "value_obs_key": "privileged_state",
    },
}


def test_tuned_parameters_become_settings() -> None:
    from sim_rl_mjx.tuned import translate

    settings = translate(PARAMETERS)
    # A batch of 1024 * 32 unrolls is 16 of each of 2048 environments, in 32 mini-batches of 1024 unrolls.
    # One unroll of each is 2048, which is 2 mini-batches of that size.
    assert settings["num_envs"] == 2048
    assert settings["num_steps_per_env"] == 30
    assert settings["algorithm"]["num_mini_batches"] == 2
    assert settings["algorithm"]["num_learning_epochs"] == 16
    # 2048 * 30 control steps of 4 environment steps each are 245 760, and 1 000 000 is 4.07 times that.
    assert settings["max_iterations"] == 5
    assert settings["env"] == {"action_repeat": 4, "max_episode_steps": 250}
    assert settings["obs_groups"] == {"actor": ["state"], "critic": ["privileged_state"]}
    assert settings["algorithm"] == {
        "class_name": "PPO",
        "learning_rate": 1e-3,
        "schedule": "adaptive",
        "desired_kl": 0.01,
        "gamma": 0.995,
        "lam": 0.95,
        "clip_param": 0.3,
        "entropy_coef": 1e-2,
        "value_loss_coef": 0.25,
        "use_clipped_value_loss": False,
        "max_grad_norm": math.inf,
        "normalize_advantage_per_mini_batch": True,
        "num_learning_epochs": 16,
        "num_mini_batches": 2,
        "reward_scale": 10.0,
    }
    assert settings["actor"]["hidden_dims"] == [512, 256]
    assert settings["critic"]["hidden_dims"] == [256] * 5
    assert settings["actor"]["obs_normalization"] is settings["critic"]["obs_normalization"] is True


def test_a_batch_that_cannot_be_divided_is_one_iteration() -> None:
    from sim_rl_mjx.tuned import translate

    # 3 * 512 unrolls are 6 of each of 256 environments; 3 mini-batches cannot be divided by 6.
    settings = translate(PARAMETERS | {"num_envs": 256, "batch_size": 512, "num_minibatches": 3})
    assert settings["num_steps_per_env"] == 6 * 30
    assert settings["algorithm"]["num_mini_batches"] == 3


def test_limits_divergence_and_clipping_that_a_task_sets_are_taken_over() -> None:
    from sim_rl_mjx.tuned import translate

    own = {
        "max_grad_norm": 1.0,
        "desired_kl": 0.02,
        "vf_loss_coefficient": 1.0,
    }
    algorithm = translate(PARAMETERS | own | {"clipping_epsilon": 0.2, "clipping_epsilon_value": 0.2})["algorithm"]
    assert algorithm["max_grad_norm"] == 1.0
    assert (algorithm["schedule"], algorithm["desired_kl"]) == ("adaptive", 0.02)
    assert algorithm["value_loss_coef"] == 0.5
    assert (algorithm["clip_param"], algorithm["use_clipped_value_loss"]) == (0.2, True)


def test_overrides_have_dotted_names() -> None:
    from sim_rl_mjx.tasks import flattened_overrides

    nested = {"reward_config": {"scales": {"orientation": -1.0}}, "noise_config.level": 0.0}
    assert flattened_overrides(nested, "jax") == {
        "reward_config.scales.orientation": -1.0,
        "noise_config.level": 0.0,
        "impl": "jax",
    }
    assert flattened_overrides(None, None) == {}
    with pytest.raises(UserError, match=r"impl is 'warp' and config_overrides.impl is 'jax': set one of them"):
        flattened_overrides({"impl": "jax"}, "warp")
