"""PPO: the documented methods one by one, the faster route of the runner, and that it learns."""

import copy
import inspect
import math

import pytest
import torch
from small_configs import ppo_cfg
from tensordict import TensorDict

from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.models import MLPModel
from sim_rl_plugin.testing import PointEnv

DOCUMENTED = {
    "num_learning_epochs": 5, "num_mini_batches": 4, "clip_param": 0.2, "gamma": 0.99, "lam": 0.95,
    "value_loss_coef": 1.0, "entropy_coef": 0.01, "learning_rate": 0.001, "max_grad_norm": 1.0, "optimizer": "adam",
    "use_clipped_value_loss": True, "schedule": "adaptive", "desired_kl": 0.01,
    "normalize_advantage_per_mini_batch": False, "device": "cpu", "rnd_cfg": None, "symmetry_cfg": None,
    "multi_gpu_cfg": None,
}  # fmt: skip


def build(env: PointEnv | None = None, **algorithm) -> tuple[PPO, PointEnv]:
    env = env or PointEnv(num_envs=8, max_episode_length=6)
    return PPO.construct_algorithm(env.get_observations(), env, ppo_cfg(**algorithm), "cpu"), env


def play(algorithm: PPO, env: PointEnv, fast: bool = False) -> TensorDict:
    obs = env.get_observations()
    if fast:
        algorithm.begin_rollout()
    for _ in range(algorithm.storage.num_transitions_per_env):
        obs, rewards, dones, extras = env.step(algorithm.act(obs))
        algorithm.process_env_step(obs, rewards, dones, extras)
    return obs


def test_signature_is_the_documented_one():
    parameters = list(inspect.signature(PPO.__init__).parameters.values())[1:]
    positional = [p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional] == ["actor", "critic", "storage", *DOCUMENTED]
    assert {p.name: p.default for p in positional[3:]} == DOCUMENTED
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[len(positional) :])
    for name, names in {
        "act": ["obs"], "process_env_step": ["obs", "rewards", "dones", "extras"], "compute_returns": ["obs"],
        "update": [], "train_mode": [], "eval_mode": [], "save": [], "load": ["loaded_dict", "load_cfg", "strict"],
        "get_policy": [], "construct_algorithm": ["obs", "env", "cfg", "device"], "broadcast_parameters": [],
        "reduce_parameters": [],
    }.items():  # fmt: skip
        assert [n for n in inspect.signature(getattr(PPO, name)).parameters if n != "self"] == names


def test_act_leaves_what_a_caller_of_rsl_rl_finds():
    algorithm, env = build()
    obs = env.get_observations()
    actions = algorithm.act(obs)
    transition = algorithm.transition
    assert transition.actions is actions
    assert actions.shape == (8, 2)
    assert not actions.requires_grad
    assert transition.observations is obs
    torch.testing.assert_close(transition.values, algorithm.critic(obs).detach())
    mean, std = transition.distribution_params
    expected = torch.distributions.Normal(mean, std).log_prob(actions).sum(-1)
    torch.testing.assert_close(transition.actions_log_prob, expected)


def test_a_time_out_adds_the_value_of_the_final_observation():
    algorithm, env = build(gamma=0.9)
    obs = env.get_observations()
    algorithm.act(obs)
    final_obs = TensorDict({key: torch.randn_like(value) for key, value in obs.items()}, batch_size=[8])
    time_outs = torch.tensor([True] + 7 * [False])
    rewards = torch.arange(8.0)
    before = rewards.clone()
    algorithm.process_env_step(obs, rewards, time_outs, {"time_outs": time_outs, "final_obs": final_obs})
    expected = before.clone()
    expected[0] += 0.9 * algorithm.critic(final_obs)[0, 0].item()
    torch.testing.assert_close(algorithm.storage.rewards[0].squeeze(-1), expected)
    assert torch.equal(rewards, before)


def test_the_reward_scale_concerns_the_learner_alone():
    algorithm, env = build(gamma=0.9, reward_scale=10.0)
    obs = env.get_observations()
    algorithm.act(obs)
    time_outs = torch.tensor([True] + 7 * [False])
    rewards = torch.arange(8.0)
    extras = {"time_outs": time_outs, "final_obs": obs}
    algorithm.process_env_step(obs, rewards, time_outs, extras)
    assert rewards.tolist() == list(range(8))  # what the logger counts
    # Ten times 0..7, and the value of what was cut off as it is: the critic speaks in the scaled unit.
    expected = torch.arange(0.0, 80.0, 10.0)
    expected[0] += 0.9 * algorithm.critic(obs)[0, 0].item()
    torch.testing.assert_close(algorithm.storage.rewards[0].squeeze(-1), expected)
    with pytest.raises(ValueError, match=r"algorithm.reward_scale: expected a number of 0 or more, found -1"):
        build(reward_scale=-1.0)


def test_a_time_out_without_final_observation_adds_the_value_before_as_rsl_rl_does():
    algorithm, env = build(gamma=0.9)
    obs = env.get_observations()
    algorithm.act(obs)
    values = algorithm.transition.values.clone()
    time_outs = torch.tensor([True] + 7 * [False])
    algorithm.process_env_step(obs, torch.zeros(8), torch.ones(8), {"time_outs": time_outs})
    expected = torch.zeros(8)
    expected[0] = 0.9 * values[0, 0]
    torch.testing.assert_close(algorithm.storage.rewards[0].squeeze(-1), expected)


def test_a_transition_filled_by_hand_is_taken_as_it_is():
    algorithm, env = build()
    obs = env.get_observations()
    algorithm.act(obs)
    algorithm.transition.values = torch.full((8, 1), 5.0)
    algorithm.transition.actions_log_prob = torch.full((8,), -3.0)
    algorithm.process_env_step(obs, torch.zeros(8), torch.zeros(8), {})
    assert (algorithm.storage.values[0] == 5.0).all()
    assert (algorithm.storage.actions_log_prob[0] == -3.0).all()


@pytest.mark.parametrize("final_obs", [False, True])
def test_the_deferred_route_gives_the_same_storage(final_obs: bool):
    storages = []
    for fast in (False, True):
        torch.manual_seed(3)
        algorithm, env = build(PointEnv(num_envs=8, max_episode_length=6, final_obs=final_obs))
        last = play(algorithm, env, fast)
        algorithm.compute_returns(last)
        storages.append(algorithm.storage)
    assert storages[0].dones.sum() > 8  # time-outs in every environment
    for name in ("observations", "actions", "actions_log_prob", "values", "rewards", "returns", "advantages"):
        torch.testing.assert_close(getattr(storages[1], name), getattr(storages[0], name), rtol=1e-5, atol=1e-6)


def test_a_reused_time_out_buffer_is_read_in_time():
    """Simulators write their flags into one tensor; a deferred rollout must not see the last step's in all."""
    rewards = []
    for reused in (False, True):
        torch.manual_seed(3)
        algorithm, env = build(PointEnv(num_envs=8, max_episode_length=6))
        buffer, step = torch.zeros(8, dtype=torch.bool), env.step

        def step_with_buffer(actions, step=step, buffer=buffer):
            obs, rewards, dones, extras = step(actions)
            return obs, rewards, dones, {**extras, "time_outs": buffer.copy_(extras["time_outs"])}

        if reused:
            env.step = step_with_buffer
        algorithm.compute_returns(play(algorithm, env, fast=True))
        rewards.append(algorithm.storage.rewards)
    assert torch.equal(rewards[0], rewards[1])


def test_a_rollout_that_broke_off_leaves_nothing_behind():
    algorithm, env = build()
    with torch.inference_mode():
        obs = env.get_observations()
        algorithm.begin_rollout()
        obs, rewards, dones, extras = env.step(algorithm.act(obs))
        algorithm.process_env_step(obs, rewards, dones, extras)
        algorithm.begin_rollout()
    assert algorithm.storage.step == 0
    # And the documented methods work outside inference mode afterwards.
    algorithm.compute_returns(play(algorithm, env, fast=True))
    algorithm.compute_returns(play_again(algorithm, env))
    assert torch.isfinite(algorithm.storage.returns).all()


def play_again(algorithm: PPO, env: PointEnv) -> TensorDict:
    algorithm.storage.clear()
    return play(algorithm, env)


def test_each_step_statistics_are_not_deferred():
    storages = []
    for fast in (False, True):
        torch.manual_seed(3)
        algorithm, env = build(normalizer_update="each_step")
        algorithm.compute_returns(play(algorithm, env, fast))
        storages.append(algorithm.storage)
    assert torch.equal(storages[0].values, storages[1].values)


def test_a_policy_that_became_nan_is_an_error():
    algorithm, env = build(learning_rate=1e30, schedule="fixed", max_grad_norm=1e30)

    def train():
        for _ in range(3):
            algorithm.compute_returns(play(algorithm, env))
            algorithm.update()

    with pytest.raises(ValueError, match=r"the update made .* NaN or infinite"):
        train()


def test_another_optimizers_state_is_named():
    adam, _ = build()
    sgd, _ = build(optimizer="sgd")
    with pytest.raises(ValueError, match=r"not algorithm.optimizer \(SGD\): its state has no"):
        sgd.load(adam.save(), None, True)


def test_a_subclass_that_overrides_a_documented_method_is_not_deferred():
    class Shaped(PPO):
        def process_env_step(self, obs, rewards, dones, extras):
            assert self.transition.values is not None
            super().process_env_step(obs, 2.0 * rewards, dones, extras)

    env = PointEnv(num_envs=8)
    cfg = {**ppo_cfg(), "algorithm": {"class_name": Shaped}}
    algorithm = Shaped.construct_algorithm(env.get_observations(), env, cfg, "cpu")
    assert isinstance(algorithm, Shaped)
    algorithm.compute_returns(play(algorithm, env, fast=True))
    assert torch.isfinite(algorithm.storage.values).all()


def test_statistics_take_effect_when_the_update_ends():
    algorithm, env = build()
    last = play(algorithm, env)
    assert algorithm.actor.obs_normalizer.count == 0
    algorithm.compute_returns(last)
    observations = algorithm.storage.observations["policy"].flatten(0, 1).clone()
    algorithm.update()
    assert algorithm.actor.obs_normalizer.count == observations.shape[0]
    torch.testing.assert_close(algorithm.actor.obs_normalizer.mean, observations.mean(0))


def test_statistics_may_take_effect_at_each_step():
    algorithm, env = build(normalizer_update="each_step")
    last = play(algorithm, env)
    count = algorithm.storage.num_transitions_per_env * 8
    assert algorithm.critic.obs_normalizer.count == count
    algorithm.compute_returns(last)
    algorithm.update()
    assert algorithm.critic.obs_normalizer.count == count


def test_update_empties_the_storage_and_returns_finite_means():
    algorithm, env = build()
    algorithm.compute_returns(play(algorithm, env))
    losses = algorithm.update()
    assert set(losses) == {"value", "surrogate", "entropy"}
    assert all(isinstance(value, float) and value == value for value in losses.values())
    assert algorithm.storage.step == 0


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("mixed", [False, True])
def test_every_optimizer_moves_the_policy(optimizer: str, mixed: bool):
    algorithm, env = build(optimizer=optimizer, use_mixed_precision=mixed)
    before = copy.deepcopy(algorithm.actor.state_dict())
    algorithm.compute_returns(play(algorithm, env))
    algorithm.update()
    moved = [name for name, value in algorithm.actor.state_dict().items() if not torch.equal(value, before[name])]
    assert {"mlp.0.weight", "mlp.4.bias", "distribution.std_param"} <= set(moved)


def test_two_seeded_trainings_are_identical():
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        algorithm, env = build()
        for _ in range(3):
            algorithm.compute_returns(play(algorithm, env, fast=True))
            algorithm.update()
        states.append(algorithm.save())
    for model in ("actor_state_dict", "critic_state_dict"):
        for name, value in states[0][model].items():
            assert torch.equal(value, states[1][model][name])


def test_learning_rate_reads_back_as_given_and_can_be_set():
    algorithm, _ = build(learning_rate=0.001)
    assert algorithm.learning_rate == 0.001
    algorithm.learning_rate = 3e-4
    assert algorithm.learning_rate == 3e-4


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_saved_state_restores_models_optimizer_and_learning_rate(optimizer: str):
    algorithm, env = build(optimizer=optimizer)
    algorithm.compute_returns(play(algorithm, env))
    algorithm.update()
    algorithm.learning_rate = 4.5e-4
    saved = copy.deepcopy(algorithm.save())
    other, _ = build(optimizer=optimizer)
    assert other.load(saved, None, True) is True
    assert saved["optimizer_state_dict"]["param_groups"][0]["lr"] == 4.5e-4
    assert isinstance(saved["optimizer_state_dict"]["param_groups"][0]["lr"], float)
    assert other.load(saved, {"actor": True}, True) is False
    for name, value in algorithm.actor.state_dict().items():
        assert torch.equal(other.actor.state_dict()[name], value)
    algorithm.compute_returns(play(algorithm, env))
    other.storage = copy.deepcopy(algorithm.storage)
    for each in (algorithm, other):
        torch.manual_seed(6)
        each.update()
    for name, value in algorithm.actor.state_dict().items():
        torch.testing.assert_close(other.actor.state_dict()[name], value)


def test_a_second_checkpoint_gives_the_critic():
    student, teacher, algorithm = (build()[0] for _ in range(3))
    distilled = {"student_state_dict": student.save()["actor_state_dict"], "teacher_state_dict": {}}
    algorithm.start_from([distilled, teacher.save()])
    for model, source in ((algorithm.actor, student.actor), (algorithm.critic, teacher.critic)):
        for name, value in source.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name
    with pytest.raises(ValueError, match="one checkpoint, or from an actor's and a critic's, found 3"):
        algorithm.start_from([distilled, teacher.save(), teacher.save()])
    with pytest.raises(ValueError, match="the checkpoint has no critic_state_dict"):
        algorithm.start_from([teacher.save(), distilled])


def test_parts_that_a_checkpoint_lacks_are_named():
    algorithm, _ = build()
    with pytest.raises(ValueError, match="no critic_state_dict"):
        algorithm.load({"actor_state_dict": algorithm.actor.state_dict()}, None, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 1.5}, "algorithm.gamma: expected a number between 0 and 1, found 1.5"),
        ({"num_mini_batches": 0}, "algorithm.num_mini_batches"),
        ({"schedule": "adaptiv"}, "algorithm.schedule: expected 'adaptive' or 'fixed'"),
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"clip_parm": 0.1}, "did you mean 'algorithm.clip_param'"),
        ({"gamma": "abc"}, "algorithm.gamma: expected a number"),
        ({"rnd_cfg": {"weight": 1.0}}, "algorithm.rnd_cfg.num_outputs is missing"),
        ({"symmetry_cfg": {}}, "algorithm.symmetry_cfg.data_augmentation_func is missing"),
    ],
)
def test_bad_settings_are_one_message(changes: dict, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        build(**changes)
    assert "\n" not in str(caught.value)


def test_too_many_mini_batches():
    algorithm, env = build(num_mini_batches=1000)
    algorithm.compute_returns(play(algorithm, env))
    with pytest.raises(ValueError, match=r"algorithm\.num_mini_batches: 1000 mini-batches of 128 samples"):
        algorithm.update()


def test_models_that_train_before_the_latent_see_observations():
    class Encoded(MLPModel):
        def get_latent(self, obs, masks=None, hidden_state=None):
            return super().get_latent(obs, masks, hidden_state)

    env = PointEnv(num_envs=4)
    obs = env.get_observations()
    groups = {"actor": ["policy"]}
    assert MLPModel(obs, groups, "actor", 2).has_fixed_input
    assert not Encoded(obs, groups, "actor", 2).has_fixed_input


def test_learns_to_reach_the_origin():
    env = PointEnv(num_envs=64)
    algorithm, _ = build(env, learning_rate=3e-3)
    rewards = []
    for _ in range(60):
        last = play(algorithm, env, fast=True)
        algorithm.compute_returns(last)
        algorithm.update()
        rewards.append(env.step(algorithm.act(last))[1].mean().item())
    assert sum(rewards[:5]) / 5 < 0.5
    assert sum(rewards[-5:]) / 5 > 0.75


@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
def test_a_recurrent_model_learns_from_rollouts_of_one_step(rnn_type: str):
    env = PointEnv(num_envs=8)
    cfg = {**ppo_cfg(num_mini_batches=2), "num_steps_per_env": 1}
    for section in ("actor", "critic"):
        cfg[section] |= {"class_name": "RNNModel", "rnn_type": rnn_type, "rnn_hidden_dim": 8}
    algorithm = PPO.construct_algorithm(env.get_observations(), env, cfg, "cpu")
    before = [parameter.detach().clone() for parameter in algorithm.actor.rnn.parameters()]
    for _ in range(2):  # the memory is empty at the start of the first one only
        algorithm.compute_returns(play(algorithm, env))
        assert all(map(math.isfinite, algorithm.update().values()))
    assert any(
        (parameter != old).any() for parameter, old in zip(algorithm.actor.rnn.parameters(), before, strict=True)
    )
