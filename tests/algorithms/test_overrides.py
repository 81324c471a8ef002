"""What somebody's class does its own way is used: no faster route goes around it, and the result is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_configs import GRU, MLP, distillation_cfg, ppo_cfg_with

from sim_rl_plugin.algorithms import PPO, Distillation
from sim_rl_plugin.extensions import RandomNetworkDistillation
from sim_rl_plugin.storage import RolloutStorage
from sim_rl_plugin.testing import PointEnv

RND = {"num_outputs": 3, "predictor_hidden_dims": [8], "target_hidden_dims": [8], "weight": 0.1}


def build(cfg: dict) -> tuple[Any, PointEnv]:
    torch.manual_seed(0)
    env = PointEnv(num_envs=8)
    algorithm_class: Any = {"PPO": PPO, "Distillation": Distillation}[cfg["algorithm"]["class_name"]]
    algorithm = algorithm_class.construct_algorithm(env.get_observations(), env, cfg, "cpu")
    algorithm.train_mode()
    return algorithm, env


def learn(algorithm: Any, env: PointEnv) -> torch.Tensor:
    """Play and learn once, as a runner does; return the parameters."""
    torch.manual_seed(1)
    obs = env.get_observations()
    algorithm.begin_rollout()
    with torch.inference_mode():
        for _ in range(algorithm.storage.num_transitions_per_env):
            obs, rewards, dones, extras = env.step(algorithm.act(obs))
            algorithm.process_env_step(obs, rewards, dones, extras)
        algorithm.compute_returns(obs)
    algorithm.update()
    return torch.nn.utils.parameters_to_vector(algorithm.get_policy().parameters()).detach()


def overriding(base: type, method: str, calls: list[str]) -> type:
    """Return a sub-class that notes the calls of a method."""

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(method)
        return getattr(base, method)(self, *args, **kwargs)

    return type("Somebodys", (base,), {method: noted})


@pytest.mark.parametrize(
    ("cfg", "method"),
    [
        (ppo_cfg_with(MLP), "mini_batch_generator"),
        (ppo_cfg_with(GRU), "recurrent_mini_batch_generator"),
        (ppo_cfg_with(MLP), "add_transition"),
        (distillation_cfg(), "generator"),
        (distillation_cfg(student=GRU, num_learning_epochs=2), "generator"),
    ],
    ids=["mini-batches", "recurrent mini-batches", "transitions", "steps", "steps of a memory"],
)
def test_of_a_storage(cfg: dict, method: str):
    expected = learn(*build(cfg))
    algorithm, env = build(cfg)
    calls: list[str] = []
    algorithm.storage.__class__ = overriding(RolloutStorage, method, calls)
    torch.testing.assert_close(learn(algorithm, env), expected)
    assert calls


def test_of_random_network_distillation():
    cfg = ppo_cfg_with(MLP, rnd_cfg=RND)
    cfg["obs_groups"]["rnd_state"] = ["critic"]
    expected, env = build(cfg)
    learn(expected, env)
    algorithm, env = build(cfg)
    calls: list[str] = []
    algorithm.rnd.__class__ = overriding(RandomNetworkDistillation, "compute_loss", calls)
    learn(algorithm, env)
    assert len(calls) == algorithm.num_learning_epochs * algorithm.num_mini_batches
    for ours, theirs in zip(algorithm.rnd.parameters(), expected.rnd.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_of_a_loss_that_is_no_mean():
    """A maximum over several steps at once would be another one than the sum of each step's."""
    shapes = []
    algorithm, env = build(distillation_cfg())
    algorithm.loss_fn = lambda actions, labels: (shapes.append(actions.shape[0]), (actions - labels).abs().max())[1]
    learn(algorithm, env)
    assert set(shapes) == {env.num_envs}
