"""Random network distillation by hand."""

import pytest
import torch
from small_configs import ppo_cfg
from tensordict import TensorDict

from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.extensions import RandomNetworkDistillation, resolve_rnd_config
from sim_rl_plugin.modules import EmpiricalDiscountedVariationNormalization
from sim_rl_plugin.testing import PointEnv

GROUPS = {"rnd_state": ["position", "speed"]}
NETWORKS = {"num_outputs": 2, "predictor_hidden_dims": [4], "target_hidden_dims": [-1]}


def rnd(**arguments) -> RandomNetworkDistillation:
    return RandomNetworkDistillation(3, GROUPS, **{**NETWORKS, "weight": 2.0, **arguments})


def observations(num: int = 5) -> TensorDict:
    return TensorDict({"speed": torch.randn(num, 1), "position": torch.randn(num, 2)}, batch_size=[num])


def test_the_reward_is_the_weighted_distance_of_the_outputs():
    module, obs = rnd(), observations()
    assert module.target[0].out_features == 3  # -1 is the size of the state
    state = torch.cat((obs["position"], obs["speed"]), dim=-1)
    difference = module.target(state) - module.predictor(state)
    expected = 2.0 * difference.square().sum(-1).sqrt()
    reward = module.get_intrinsic_reward(obs)
    torch.testing.assert_close(reward, expected.detach())
    assert not reward.requires_grad
    torch.testing.assert_close(module.compute_loss(obs), difference.square().mean())


def test_only_the_predictor_learns():
    module, obs = rnd(), observations()
    module.compute_loss(obs).backward()
    assert all(parameter.grad is None for parameter in module.target.parameters())
    before = module.compute_loss(obs).item()
    for _ in range(50):
        module.optimizer.zero_grad()
        module.compute_loss(obs).backward()
        module.optimizer.step()
    assert module.compute_loss(obs).item() < 0.7 * before
    with pytest.raises(RuntimeError, match="get_intrinsic_reward"):
        module(obs)


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        (None, [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
        ({"mode": "constant"}, [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
        ({"mode": "step", "final_step": 3, "final_value": 0.5}, [2.0, 2.0, 0.5, 0.5, 0.5, 0.5]),
        # From 2 to 1 over three steps: a third less each, from step 2 on.
        ({"mode": "linear", "initial_step": 2, "final_step": 5, "final_value": 1.0}, [2, 2, 5 / 3, 4 / 3, 1, 1]),
        ({"mode": "linear", "initial_step": 3, "final_step": 3, "final_value": 1.0}, [2, 2, 1, 1, 1, 1]),
    ],
)
def test_schedules_go_by_control_steps(schedule: dict | None, weights: list[float]):
    module, seen = rnd(weight_schedule=schedule), []
    for _ in range(6):
        module.get_intrinsic_reward(observations())
        seen.append(module.weight)
    assert seen == pytest.approx(weights)
    assert module.update_counter == 6


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"mode": "liner"}, r"weight_schedule\.mode 'liner': did you mean 'linear'"),
        ({"mode": "step", "final_step": 3}, r"weight_schedule\.final_value is missing"),
        ({"mode": "step", "final_step": 0.5, "final_value": 1.0}, r"weight_schedule\.final_step: expected an integer"),
    ],
)
def test_an_incomplete_schedule_is_refused(schedule: dict, message: str):
    with pytest.raises(ValueError, match=message):
        rnd(weight_schedule=schedule)


def test_states_are_normalised_by_what_was_seen_before():
    module, obs = rnd(state_normalization=True), observations(100)
    module.update_normalization(obs)
    state = torch.cat((obs["position"], obs["speed"]), dim=-1)
    normalised = (state - state.mean(0)) / (state.std(0, unbiased=False) + 0.01)
    expected = 2.0 * torch.linalg.norm(module.target(normalised) - module.predictor(normalised), dim=1)
    torch.testing.assert_close(module.get_intrinsic_reward(obs), expected.detach(), rtol=1e-4, atol=1e-5)
    module.eval()
    module.update_normalization(observations(100))
    assert module.state_normalizer.count == 100


def test_rewards_are_divided_by_the_deviation_of_their_discounted_sum():
    normalizer = EmpiricalDiscountedVariationNormalization([], gamma=0.5)
    first, second = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 0.0])
    # The sums are [1, 3], of deviation 1, and then [0.5 + 2, 1.5 + 0]: [1, 3, 2.5, 1.5] deviate by 0.7906 from 2.
    torch.testing.assert_close(normalizer(first), first / 1.0)
    torch.testing.assert_close(normalizer(second), second / torch.tensor(0.7905694))
    normalizer.eval()
    torch.testing.assert_close(normalizer(first), first / torch.tensor(0.7905694))
    torch.testing.assert_close(normalizer.disc_avg.avg, torch.tensor([2.5, 1.5]))


def test_the_weight_is_per_second_where_the_time_step_is_known():
    obs = observations()
    cfg = {"rnd_cfg": {**NETWORKS, "weight": 3.0}}
    env = PointEnv()
    resolve_rnd_config(cfg, obs, GROUPS, env)
    assert (cfg["rnd_cfg"]["num_states"], cfg["rnd_cfg"]["weight"]) == (3, 3.0)
    env.step_dt = 0.02
    cfg = {"rnd_cfg": {**NETWORKS, "weight": 3.0}}
    assert resolve_rnd_config(cfg, obs, GROUPS, env)["rnd_cfg"]["weight"] == pytest.approx(0.06)
    assert resolve_rnd_config({}, obs, GROUPS, env) == {"rnd_cfg": None}
    images = TensorDict({"position": torch.zeros(5, 1, 2, 2), "speed": torch.zeros(5, 1)}, batch_size=[5])
    with pytest.raises(ValueError, match=r"obs_groups\.rnd_state: .* 'position' has shape \(5, 1, 2, 2\)"):
        resolve_rnd_config({"rnd_cfg": {**NETWORKS}}, images, GROUPS, env)


def ppo(**rnd_cfg) -> tuple[PPO, PointEnv]:
    env = PointEnv(num_envs=4)
    cfg = ppo_cfg(rnd_cfg={**NETWORKS, "weight": 1.0, **rnd_cfg})
    cfg["obs_groups"]["rnd_state"] = ["policy"]
    return PPO.construct_algorithm(env.get_observations(), env, cfg, "cpu"), env


def test_ppo_adds_the_reward_and_trains_the_predictor_alone():
    algorithm, env = ppo()
    obs = env.get_observations()
    algorithm.act(obs)
    algorithm.process_env_step(obs, torch.arange(4.0), torch.zeros(4), {})
    expected = algorithm.rnd.target(obs["policy"]) - algorithm.rnd.predictor(obs["policy"])
    torch.testing.assert_close(algorithm.intrinsic_rewards, expected.norm(dim=1).detach())
    torch.testing.assert_close(algorithm.storage.rewards[0, :, 0], torch.arange(4.0) + algorithm.intrinsic_rewards)
    for _ in range(15):
        algorithm.act(obs)
        algorithm.process_env_step(obs, torch.zeros(4), torch.zeros(4), {})
    algorithm.compute_returns(obs)
    target = [parameter.clone() for parameter in algorithm.rnd.target.parameters()]
    predictor = [parameter.clone() for parameter in algorithm.rnd.predictor.parameters()]
    assert algorithm.update()["rnd"] > 0.0
    assert all(torch.equal(a, b) for a, b in zip(algorithm.rnd.target.parameters(), target, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(algorithm.rnd.predictor.parameters(), predictor, strict=True))


def test_the_discounted_sums_of_other_environments_are_not_continued():
    first, _ = ppo(reward_normalization=True)
    first.rnd.get_intrinsic_reward(PointEnv(num_envs=4).get_observations())
    other, _ = ppo(reward_normalization=True)
    other.rnd.load_training_state(first.rnd.training_state(), num_envs=7)
    assert other.rnd.reward_normalizer.disc_avg.avg is None
    assert other.rnd.update_counter == 1
    other.rnd.load_training_state(first.rnd.training_state(), num_envs=4)
    assert torch.equal(other.rnd.reward_normalizer.disc_avg.avg, first.rnd.reward_normalizer.disc_avg.avg)
