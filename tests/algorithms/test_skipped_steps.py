"""Steps that an environment spends on its reset: nothing is learnt from them, and nobody counts them."""

from typing import Any

import pytest
import torch
from late_point import LatePoint
from small_configs import ppo_cfg

from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.algorithms.returns import leave_out, normalize
from sim_rl_plugin.env import check_env
from sim_rl_plugin.evaluation import evaluate
from sim_rl_plugin.logging.episodes import EpisodeStatistics
from sim_rl_plugin.runners import OnPolicyRunner

RECURRENT = {"class_name": "RNNModel", "rnn_type": "gru", "rnn_hidden_dim": 8}


def roll_out(fast: bool, recurrent: bool = False, told: bool = True, spoilt: bool = False) -> tuple[PPO, torch.Tensor]:
    """Return an algorithm with a rollout whose skipped rows may be ``spoilt``, and which rows they are."""
    torch.manual_seed(0)
    env = LatePoint(num_envs=4, max_episode_length=5)
    cfg = ppo_cfg()
    if recurrent:
        for model in ("actor", "critic"):
            cfg[model] = cfg[model] | RECURRENT
    algorithm = PPO.construct_algorithm(env.get_observations(), env, cfg, "cpu")
    obs = env.get_observations()
    if fast:
        algorithm.begin_rollout()
    skipped = []
    for _ in range(algorithm.storage.num_transitions_per_env):
        obs, rewards, dones, extras = env.step(algorithm.act(obs))
        skipped.append(extras["skipped"])
        if spoilt:
            rewards = rewards.masked_fill(extras["skipped"], 1000.0)
        if not told:
            del extras["skipped"]
        algorithm.process_env_step(obs, rewards, dones, extras)
    algorithm.compute_returns(obs)
    return algorithm, torch.stack(skipped).unsqueeze(-1)


def test_left_out_advantages_by_hand():
    advantages = torch.tensor([1.0, 9.0, 3.0]).view(3, 1, 1)
    skipped = torch.tensor([False, True, False]).view(3, 1, 1)
    # The others' mean is (1 + 3) / 2 = 2, and normalising (1, 2, 3) gives (-1, 0, 1).
    left = leave_out(advantages, skipped)
    assert left.flatten().tolist() == [1.0, 2.0, 3.0]
    torch.testing.assert_close(normalize(left).flatten(), torch.tensor([-1.0, 0.0, 1.0]))


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
def test_what_stands_in_skipped_rows_changes_nothing(fast: bool, recurrent: bool):
    (clean, skipped), (spoilt, _) = (roll_out(fast, recurrent, spoilt=spoilt) for spoilt in (False, True))

    # 16 steps of episodes of 5 steps and their resets: two resets each, at least.
    assert int(skipped.sum()) >= 8
    for name in ("advantages", "returns"):
        assert torch.equal(getattr(clean.storage, name), getattr(spoilt.storage, name))
    assert clean.storage.advantages[skipped].abs().max() < 1e-5
    assert torch.equal(clean.storage.returns[skipped], clean.storage.values[skipped])
    assert clean.storage.advantages[~skipped].abs().max() > 0.5


def test_untold_they_would_change_everything():
    (clean, _), (spoilt, _) = (roll_out(True, told=False, spoilt=spoilt) for spoilt in (False, True))
    assert not torch.allclose(clean.storage.advantages, spoilt.storage.advantages)


def test_nothing_is_carried_into_the_next_rollout():
    algorithm, _ = roll_out(True)
    algorithm.update()
    env = LatePoint(num_envs=4, max_episode_length=100)
    obs = env.get_observations()
    algorithm.begin_rollout()
    for _ in range(algorithm.storage.num_transitions_per_env):
        obs, rewards, dones, extras = env.step(algorithm.act(obs))
        algorithm.process_env_step(obs, rewards, dones, extras)
    algorithm.compute_returns(obs)
    assert not torch.equal(algorithm.storage.returns, algorithm.storage.values)
    assert (algorithm.storage.advantages.abs() > 1e-6).all()


def test_statistics_do_not_count_them():
    episodes = EpisodeStatistics(2, "cpu")
    false, first = torch.tensor([False, False]), torch.tensor([True, False])
    episodes.add(torch.tensor([1.0, 1.0]), first, None, false)  # environment 0 ends after one step
    episodes.add(torch.tensor([7.0, 1.0]), first, None, first)  # and resets itself
    episodes.add(torch.tensor([2.0, 1.0]), false, None, false)
    episodes.add(torch.tensor([2.0, 1.0]), torch.tensor([True, True]), None, false)
    # Environment 0: one step of 1, then two steps of 2. Environment 1: four steps of 1.
    lengths, returns = episodes.finished()
    assert lengths == [1.0, 2.0, 4.0]
    assert returns == [1.0, 4.0, 4.0]


def test_an_evaluation_does_not_count_them():
    env = LatePoint(num_envs=2, max_episode_length=5, terminate_at=None)
    result = evaluate(lambda obs: torch.zeros(2, 2), env, 6)
    assert result.lengths == (5,) * 6


def test_the_examination_accepts_a_late_reset_only_where_it_is_said():
    class Silent(LatePoint):
        def step(self, actions: torch.Tensor) -> Any:
            obs, rewards, dones, extras = super().step(actions)
            del extras["skipped"]
            return obs, rewards, dones, extras

    assert check_env(LatePoint()) == []
    assert "reset-late" in [problem.code for problem in check_env(Silent())]


def test_a_training_on_late_resets_learns(tmp_path):
    env = LatePoint(num_envs=32, max_episode_length=16)
    cfg = ppo_cfg(learning_rate=3e-3, entropy_coef=0.0)
    runner = OnPolicyRunner(env, cfg, log_dir=str(tmp_path))
    runner.learn(25, init_at_random_ep_len=True)
    policy = runner.get_inference_policy()
    fresh = LatePoint(num_envs=32, max_episode_length=16, seed=7)
    # Standing still earns about 0.34 a step; the origin, which takes some 7 steps to get to, 1.
    assert evaluate(policy, fresh, 32).mean > 0.6 * 16
