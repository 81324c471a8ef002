"""PPO with models that have a memory: what is stored, what the update sees, and time-outs."""

import copy

import pytest
import torch
from small_configs import CNN, GRU, MLP, CameraEnv, ppo_cfg_with
from tensordict import TensorDict

from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.testing import PointEnv

RECURRENT = pytest.mark.parametrize("kind", ["gru", "lstm"])


def build(cfg: dict, env: PointEnv | None = None) -> tuple[PPO, PointEnv]:
    env = env or PointEnv(num_envs=6, max_episode_length=5)
    algorithm = PPO.construct_algorithm(env.get_observations(), env, cfg, "cpu")
    algorithm.train_mode()
    return algorithm, env


def play(algorithm: PPO, env: PointEnv, fast: bool = False) -> TensorDict:
    obs = env.get_observations()
    if fast:
        algorithm.begin_rollout()
    for _ in range(algorithm.storage.num_transitions_per_env):
        obs, rewards, dones, extras = env.step(algorithm.act(obs))
        algorithm.process_env_step(obs, rewards, dones, extras)
    return obs


def parts(memory) -> tuple[torch.Tensor, ...]:
    return memory if isinstance(memory, tuple) else (memory,)


@RECURRENT
def test_before_the_first_step_of_the_optimizer_the_policy_is_that_of_the_rollout(kind: str):
    """Log-probabilities over padded trajectories are those of the steps, so the probability ratio is 1."""
    algorithm, env = build(ppo_cfg_with({**GRU, "rnn_type": kind}, learning_rate=0.0, schedule="fixed"))
    for model in (algorithm.actor, algorithm.critic):
        model.obs_normalizer.eval()  # the statistics stay as they are
    for rollout in range(2):  # the second begins in the midst of episodes, with memories
        algorithm.compute_returns(play(algorithm, env))
        assert algorithm.storage.dones.any()
        seen = []
        for batch in algorithm._mini_batches():
            batch.actor.describe_distribution(algorithm.actor)
            log_prob = algorithm.actor.get_output_log_prob(batch.samples.actions)
            torch.testing.assert_close(log_prob, batch.samples.old_actions_log_prob.squeeze(-1), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(batch.critic.values(algorithm.critic), batch.samples.values)
            seen.append(log_prob.numel())
        assert seen == [24, 24] * 2, rollout
        algorithm.update()


@RECURRENT
def test_an_update_moves_the_network_and_leaves_the_memory_of_the_episodes(kind: str):
    algorithm, env = build(ppo_cfg_with({**GRU, "rnn_type": kind}))
    algorithm.compute_returns(play(algorithm, env))
    memories = [algorithm.actor.get_hidden_state(), algorithm.critic.get_hidden_state()]
    before = copy.deepcopy(algorithm.actor.state_dict())
    algorithm.update()
    assert not torch.equal(algorithm.actor.rnn.rnn.weight_hh_l0, before["rnn.rnn.weight_hh_l0"])
    for model, memory in zip((algorithm.actor, algorithm.critic), memories, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(parts(model.get_hidden_state()), parts(memory), strict=True))


@RECURRENT
def test_returns_leave_the_critics_memory_for_the_next_rollout(kind: str):
    algorithm, env = build(ppo_cfg_with({**GRU, "rnn_type": kind}))
    last = play(algorithm, env)
    memory = [part.clone() for part in parts(algorithm.critic.get_hidden_state())]
    algorithm.compute_returns(last)
    assert all(torch.equal(a, b) for a, b in zip(parts(algorithm.critic.get_hidden_state()), memory, strict=True))


@RECURRENT
def test_a_time_out_adds_what_the_critic_says_of_the_final_observation_after_its_episode(kind: str):
    algorithm, env = build(ppo_cfg_with({**GRU, "rnn_type": kind}, gamma=0.9))
    obs = env.get_observations()
    for _ in range(2):
        algorithm.act(obs)
        algorithm.process_env_step(obs, torch.zeros(6), torch.zeros(6), {})
    algorithm.act(obs)
    final_obs = TensorDict({key: torch.randn_like(value) for key, value in obs.items()}, batch_size=[6])
    critic = copy.deepcopy(algorithm.critic)
    ended = torch.tensor([False, True, False, True, False, False])
    memory = [part.clone() for part in parts(algorithm.critic.get_hidden_state())]
    algorithm.process_env_step(obs, torch.zeros(6), ended, {"time_outs": ended, "final_obs": final_obs})
    expected = torch.where(ended, 0.9 * critic(final_obs).squeeze(-1), 0.0)
    torch.testing.assert_close(algorithm.storage.rewards[2, :, 0], expected.detach())
    # Evaluating it was no step: the others go on, and those that ended begin anew.
    for part, before in zip(parts(algorithm.critic.get_hidden_state()), memory, strict=True):
        assert not part[:, ended].any()
        assert torch.equal(part[:, ~ended], before[:, ~ended])


@pytest.mark.parametrize(("actor", "critic"), [(GRU, MLP), (MLP, GRU), (CNN, GRU), (GRU, CNN)])
def test_models_with_and_without_memory_train_together(actor: dict, critic: dict):
    cfg = ppo_cfg_with(CNN, entropy_coef=0.0)
    cfg["actor"] = {**copy.deepcopy(actor), "distribution_cfg": cfg["actor"]["distribution_cfg"]}
    cfg["critic"] = copy.deepcopy(critic)
    for section, model in (("actor", actor), ("critic", critic)):
        cfg["obs_groups"][section] = ["policy", "camera", "depth"] if model is CNN else ["policy"]
    algorithm, env = build(cfg, CameraEnv(num_envs=6, max_episode_length=5))
    before = [copy.deepcopy(model.state_dict()) for model in (algorithm.actor, algorithm.critic)]
    for fast in (False, True):
        algorithm.compute_returns(play(algorithm, env, fast))
        losses = algorithm.update()
    assert all(value == value for value in losses.values())
    for model, old in zip((algorithm.actor, algorithm.critic), before, strict=True):
        assert all(not torch.equal(p, old[name]) for name, p in model.named_parameters())


def test_the_deferred_route_of_a_critic_without_memory_beside_a_recurrent_actor():
    storages = []
    for fast in (False, True):
        torch.manual_seed(3)
        cfg = ppo_cfg_with(GRU)
        cfg["critic"] = dict(MLP)
        algorithm, env = build(cfg)
        algorithm.compute_returns(play(algorithm, env, fast))
        storages.append(algorithm.storage)
    for name in ("actions", "values", "rewards", "returns"):
        torch.testing.assert_close(getattr(storages[1], name), getattr(storages[0], name), rtol=1e-5, atol=1e-6)


@RECURRENT
def test_mixed_precision_trains_and_plays_on(kind: str):
    algorithm, env = build(ppo_cfg_with({**GRU, "rnn_type": kind}, use_mixed_precision=True))
    before = copy.deepcopy(algorithm.actor.state_dict())
    for _ in range(2):
        algorithm.compute_returns(play(algorithm, env))
        algorithm.update()
    assert all(not torch.equal(p, before[name]) for name, p in algorithm.actor.named_parameters())


def test_more_mini_batches_than_environments():
    algorithm, env = build({**ppo_cfg_with(GRU), "algorithm": {"class_name": "PPO", "num_mini_batches": 7}})
    algorithm.compute_returns(play(algorithm, env))
    with pytest.raises(ValueError, match=r"algorithm\.num_mini_batches: 7 mini-batches of 6 environments"):
        algorithm.update()


def test_a_policy_without_a_distribution_is_refused_before_the_training():
    cfg = ppo_cfg_with(GRU)
    del cfg["actor"]["distribution_cfg"]
    with pytest.raises(ValueError, match=r"actor\.distribution_cfg is missing"):
        build(cfg)
