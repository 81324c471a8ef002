"""Distillation: its interface, who acts, what is compared, and where the teacher comes from."""

import copy
import inspect

import pytest
import torch
from small_configs import GAUSSIAN, GRU, MLP, distillation_cfg, ppo_cfg
from tensordict import TensorDict
from torch.distributions import Normal, kl_divergence

from sim_rl_plugin.algorithms import PPO, Distillation
from sim_rl_plugin.algorithms.imitation import TeacherShare
from sim_rl_plugin.testing import PointEnv

DOCUMENTED = {
    "num_learning_epochs": 1, "gradient_length": 15, "learning_rate": 0.001, "max_grad_norm": None,
    "loss_type": "mse", "optimizer": "adam", "device": "cpu", "multi_gpu_cfg": None,
}  # fmt: skip
RECURRENT = pytest.mark.parametrize("kind", ["gru", "lstm"])


def build(cfg: dict | None = None, env: PointEnv | None = None, **algorithm) -> tuple[Distillation, PointEnv]:
    env = env or PointEnv(num_envs=8, max_episode_length=5)
    cfg = distillation_cfg(**algorithm) if cfg is None else cfg
    built = Distillation.construct_algorithm(env.get_observations(), env, cfg, "cpu")
    built.train_mode()
    return built, env


def play(algorithm: Distillation, env: PointEnv, steps: int | None = None) -> TensorDict:
    obs = env.get_observations()
    for _ in range(steps or algorithm.storage.num_transitions_per_env):
        obs, rewards, dones, extras = env.step(algorithm.act(obs))
        algorithm.process_env_step(obs, rewards, dones, extras)
    return obs


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


def assert_same(model: torch.nn.Module, expected: dict[str, torch.Tensor]) -> None:
    assert model.state_dict().keys() == expected.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def ppo_checkpoint(model: dict = MLP) -> dict:
    cfg = {**ppo_cfg(), "actor": {**model, "distribution_cfg": dict(GAUSSIAN)}}
    torch.manual_seed(5)
    return PPO.construct_algorithm(PointEnv().get_observations(), PointEnv(), cfg, "cpu").save()


# The interface


def test_signature_is_the_documented_one():
    parameters = list(inspect.signature(Distillation.__init__).parameters.values())[1:]
    positional = [p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional] == ["student", "teacher", "storage", *DOCUMENTED]
    assert {p.name: p.default for p in positional[3:]} == DOCUMENTED
    assert parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    assert Distillation.teacher_loaded is False


def test_act_leaves_what_a_caller_of_rsl_rl_finds():
    algorithm, env = build()
    obs = env.get_observations()
    actions = algorithm.act(obs)
    transition = algorithm.transition
    assert transition.actions is actions
    assert transition.observations is obs
    torch.testing.assert_close(transition.privileged_actions, algorithm.teacher(obs).detach())
    assert not torch.equal(actions, algorithm.student(obs))  # the student explores
    assert not actions.requires_grad
    rewards = torch.arange(8.0)
    algorithm.process_env_step(obs, rewards, torch.ones(8), {"time_outs": torch.ones(8)})
    assert torch.equal(algorithm.storage.rewards[0, :, 0], rewards)  # nothing is bootstrapped
    assert algorithm.transition.actions is None
    assert algorithm.compute_returns(obs) is None


def test_only_the_student_learns_and_its_statistics_follow_the_update():
    algorithm, env = build()
    teacher, student = state(algorithm.teacher), state(algorithm.student)
    play(algorithm, env)
    assert algorithm.student.obs_normalizer.count == 0
    losses = algorithm.update()
    assert set(losses) == {"behavior"}
    assert_same(algorithm.teacher, teacher)
    assert not torch.equal(algorithm.student.mlp[0].weight, student["mlp.0.weight"])
    assert algorithm.student.obs_normalizer.count == 64
    assert algorithm.storage.step == 0
    algorithm, env = build(normalizer_update="each_step")
    play(algorithm, env)
    assert algorithm.student.obs_normalizer.count == 64


def test_training_and_evaluation_mode():
    algorithm, _ = build()
    assert (algorithm.student.training, algorithm.teacher.training) == (True, False)
    algorithm.eval_mode()
    assert (algorithm.student.training, algorithm.teacher.training) == (False, False)
    assert algorithm.get_policy() is algorithm.student


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_every_optimizer_brings_the_student_closer(optimizer: str):
    rate = 0.05 if optimizer == "sgd" else 3e-3
    algorithm, env = build(optimizer=optimizer, learning_rate=rate, num_learning_epochs=4)
    losses = []
    for _ in range(12):
        play(algorithm, env)
        losses.append(algorithm.update()["behavior"])
    assert losses[-1] < 0.7 * losses[0]


# Recurrent models


@RECURRENT
@pytest.mark.parametrize("mixed", [False, True])
def test_recurrent_students_and_teachers(kind: str, mixed: bool):
    model = {**GRU, "rnn_type": kind}
    algorithm, env = build(distillation_cfg(model, model, use_mixed_precision=mixed, num_learning_epochs=2))
    before = state(algorithm.student)
    for _ in range(2):
        play(algorithm, env)
        algorithm.update()
    assert not torch.equal(algorithm.student.rnn.rnn.weight_hh_l0, before["rnn.rnn.weight_hh_l0"])
    memory = algorithm.student.get_hidden_state()
    assert not any(part.requires_grad or part.dtype != torch.float32 for part in memory)


def test_the_students_memory_is_rebuilt_with_what_it_has_learned():
    algorithm, env = build(distillation_cfg(GRU, learning_rate=0.0))
    play(algorithm, env)
    memory = algorithm.student.get_hidden_state()
    algorithm.update()
    torch.testing.assert_close(algorithm.student.get_hidden_state(), memory)
    algorithm, env = build(distillation_cfg(GRU, learning_rate=0.1))
    play(algorithm, env)
    memory = algorithm.student.get_hidden_state()
    algorithm.update()
    assert not torch.equal(algorithm.student.get_hidden_state(), memory)


def test_a_recurrent_teachers_memory_runs_on_if_asked_to():
    for keep in (False, True):
        algorithm, env = build(distillation_cfg(MLP, GRU, keep_teacher_memory=keep))
        play(algorithm, env)
        memory = algorithm.teacher.get_hidden_state()
        algorithm.update()
        if keep:
            assert torch.equal(algorithm.teacher.get_hidden_state(), memory)
        else:
            assert algorithm.teacher.get_hidden_state() is None


@RECURRENT
def test_a_rollout_that_broke_off_is_dropped(kind: str):
    algorithm, env = build(distillation_cfg({**GRU, "rnn_type": kind}))
    with torch.inference_mode():
        algorithm.begin_rollout()
        play(algorithm, env, steps=3)
        memory = algorithm.student.get_hidden_state()
        algorithm.begin_rollout()
        assert algorithm.storage.step == 0
        obs = env.get_observations()
        play(algorithm, env)
    assert obs is not None
    for ours, theirs in zip(algorithm.last_hidden_states[0], memory, strict=True):
        assert torch.equal(ours, theirs)  # the update begins where this rollout began
    assert algorithm.update()["behavior"] > 0.0


# Who acts


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("linear", [0.9, 0.7, 0.5, 0.3, 0.1, 0.1, 0.1]),
        # A tenth of the way is left after half of the updates, a hundredth after all of them.
        ("exponential", [0.9, 0.1 + 0.8 * 0.01**0.25, 0.1 + 0.08, 0.1 + 0.8 * 0.01**0.75, 0.108]),
    ],
)
def test_the_teachers_share_by_hand(schedule: str, shares: list[float]):
    share = TeacherShare(10, "cpu", num_updates=4, initial_share=0.9, final_share=0.1, schedule=schedule)
    assert [share.at(update) for update in range(len(shares))] == pytest.approx(shares)


def test_the_teacher_acts_in_its_share_for_a_whole_rollout():
    algorithm, env = build(dagger_cfg={"num_updates": 4, "initial_share": 0.5})
    chosen = []
    for expected in (4, 3, 2, 1, 0, 0):  # of 8: 0.5, 0.375, 0.25, 0.125, 0
        play(algorithm, env)
        storage = algorithm.storage
        by_teacher = (storage.actions == storage.privileged_actions).all(dim=-1)
        assert (by_teacher == by_teacher[0]).all()
        assert by_teacher[0].sum() == expected
        chosen.append(by_teacher[0].tolist())
        algorithm.update()
    assert chosen[0] != chosen[1]


def test_seeded_trainings_with_a_share_are_identical():
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        algorithm, env = build(dagger_cfg={"num_updates": 4})
        for _ in range(3):
            play(algorithm, env)
            algorithm.update()
        states.append(state(algorithm.student))
    assert_same(algorithm.student, states[0])


# What is compared


def test_kl_is_torchs_and_zero_for_equal_policies():
    algorithm, env = build(loss_type="kl", learning_rate=0.0)
    play(algorithm, env)
    obs = algorithm.storage.observations.flatten(0, 1)
    teacher, student = (
        Normal(model(obs), torch.full((64, 2), std))
        for model, std in ((algorithm.teacher, 0.5), (algorithm.student, 0.1))
    )
    expected = kl_divergence(teacher, student).sum(-1).mean().item()
    assert algorithm.update()["behavior"] == pytest.approx(expected, rel=1e-4)

    algorithm, env = build(loss_type="kl")
    algorithm.student.load_state_dict(algorithm.teacher.state_dict())
    gradients = []
    algorithm.optimizer.step = lambda: gradients.extend(
        p.grad.abs().max().item() for p in algorithm.student.parameters()
    )
    play(algorithm, env)
    assert algorithm.update()["behavior"] == pytest.approx(0.0, abs=1e-6)
    assert len(gradients) == 2 * len(list(algorithm.student.parameters()))
    assert max(gradients) < 1e-6


def test_with_kl_the_students_deviation_learns_too():
    for loss, learns in (("mse", False), ("kl", True)):
        algorithm, env = build(loss_type=loss)
        before = algorithm.student.distribution.std_param.clone()
        play(algorithm, env)
        algorithm.update()
        assert (algorithm.student.distribution.std_param > before).all() == learns


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (None, GAUSSIAN, "'kl' compares distributions, and the student has none"),
        (GAUSSIAN, None, "'kl' compares distributions, and the teacher has none"),
        (GAUSSIAN, {"class_name": "BetaDistribution"}, "the student has GaussianDistribution, the teacher BetaDis"),
        (
            {"class_name": "BetaDistribution"},
            {"class_name": "BetaDistribution", "action_range": [-2.0, 2.0]},
            "'kl' needs distributions of one action_range",
        ),
    ],
)
def test_kl_needs_distributions_of_one_kind(student, teacher, message: str):
    cfg = distillation_cfg(loss_type="kl")
    cfg["student"]["distribution_cfg"], cfg["teacher"]["distribution_cfg"] = student, teacher
    with pytest.raises(ValueError, match=message):
        build(cfg)


def test_kl_between_gaussians_of_two_classes():
    cfg = distillation_cfg(loss_type="kl")
    cfg["student"]["distribution_cfg"] = {"class_name": "HeteroscedasticGaussianDistribution"}
    algorithm, env = build(cfg)
    play(algorithm, env)
    assert algorithm.update()["behavior"] > 0.0


def test_a_student_without_a_distribution_acts_as_it_thinks():
    cfg = distillation_cfg()
    cfg["student"]["distribution_cfg"] = None
    algorithm, env = build(cfg)
    obs = env.get_observations()
    assert torch.equal(algorithm.act(obs), algorithm.student(obs))


# Where the teacher comes from


def test_the_teacher_of_a_ppo_training():
    checkpoint = ppo_checkpoint()
    algorithm, _ = build()
    student = state(algorithm.student)
    assert algorithm.teacher_loaded is False
    assert algorithm.load(checkpoint, None, True) is False
    assert algorithm.teacher_loaded is True
    assert_same(algorithm.teacher, checkpoint["actor_state_dict"])
    assert_same(algorithm.student, student)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_everything_of_a_distillation(optimizer: str):
    algorithm, env = build(optimizer=optimizer)
    play(algorithm, env)
    algorithm.update()
    algorithm.learning_rate = 4.5e-4
    saved = copy.deepcopy(algorithm.save())
    assert saved.keys() == {"student_state_dict", "teacher_state_dict", "optimizer_state_dict"}
    other, _ = build(optimizer=optimizer)
    assert other.load(saved, None, True) is True
    assert (other.teacher_loaded, other.learning_rate) == (True, 4.5e-4)
    assert_same(other.student, saved["student_state_dict"])
    assert_same(other.teacher, saved["teacher_state_dict"])
    third, _ = build(optimizer=optimizer)
    assert third.load(saved, {"student": True}, True) is False
    assert third.teacher_loaded is False
    assert_same(third.student, saved["student_state_dict"])
    play(algorithm, env)
    other.storage = copy.deepcopy(algorithm.storage)
    other.last_hidden_states = algorithm.last_hidden_states
    algorithm.update()
    other.update()
    assert_same(other.student, algorithm.student.state_dict())


def test_parts_that_a_checkpoint_lacks_are_named():
    algorithm, _ = build()
    with pytest.raises(ValueError, match="no student_state_dict"):
        algorithm.load({"teacher_state_dict": state(algorithm.teacher)}, {"student": True}, True)
    with pytest.raises(ValueError, match="no teacher_state_dict"):
        algorithm.load({"critic_state_dict": {}}, {"teacher": True}, True)


def ensemble(*members: dict, **settings) -> Distillation:
    cfg = distillation_cfg(**settings)
    cfg["teacher"] = {"class_name": "TeacherEnsemble", "teachers": list(members)}
    return build(cfg)[0]


def test_several_checkpoints_are_the_members_of_an_ensemble():
    member = {**MLP, "distribution_cfg": dict(GAUSSIAN)}
    first = ppo_checkpoint()
    second = {"student_state_dict": state(build()[0].student)}
    algorithm = ensemble(member, member, loss_type="kl")
    algorithm.start_from([first, second])
    assert algorithm.teacher_loaded
    assert_same(algorithm.teacher.teachers[0], first["actor_state_dict"])
    assert_same(algorithm.teacher.teachers[1], second["student_state_dict"])
    env = PointEnv(num_envs=8)
    play(algorithm, env)
    assert algorithm.update()["behavior"] > 0.0
    with pytest.raises(ValueError, match="expected 2 checkpoints, one per teacher, found 1"):
        algorithm.start_from([first])
    with pytest.raises(ValueError, match="checkpoint 2 holds no policy; it holds critic_state_dict"):
        algorithm.start_from([first, {"critic_state_dict": {}}])
    with pytest.raises(ValueError, match="expected 1 checkpoints, one per teacher, found 2"):
        build()[0].start_from([first, first])
    # A distillation holds the whole ensemble.
    other = ensemble(member, member)
    other.start_from([algorithm.save()])
    assert_same(other.teacher, algorithm.teacher.state_dict())
    assert_same(other.student, algorithm.student.state_dict())


# Settings


def test_settings_of_ppo_are_ignored_with_a_warning():
    with pytest.warns(UserWarning, match=r"algorithm\.gamma: a setting of PPO"):
        build(gamma=0.9, rnd_cfg=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient_lenght": 3}, "'algorithm.gradient_lenght': did you mean 'algorithm.gradient_length'"),
        ({"gradient_length": 0}, "algorithm.gradient_length: expected 1 or more, found 0"),
        ({"num_learning_epochs": 0}, "algorithm.num_learning_epochs: expected 1 or more"),
        ({"loss_type": "hubber"}, "unknown algorithm.loss_type 'hubber': did you mean 'huber'"),
        ({"rnd_cfg": {"weight": 1.0}}, "algorithm.rnd_cfg: not possible with Distillation"),
        ({"symmetry_cfg": {}}, "algorithm.symmetry_cfg: not possible with Distillation"),
        ({"dagger_cfg": {}}, "algorithm.dagger_cfg.num_updates is missing"),
        ({"dagger_cfg": {"num_update": 3}}, "did you mean 'algorithm.dagger_cfg.num_updates'"),
        ({"dagger_cfg": {"num_updates": 3, "initial_share": 2.0}}, "initial_share: expected a number between 0 and 1"),
        ({"dagger_cfg": {"num_updates": 3, "schedule": "liner"}}, "dagger_cfg.schedule: expected one of 'linear'"),
        ({"normalizer_update": "later"}, "algorithm.normalizer_update: expected one of"),
        ({"optimizer": "adm"}, "did you mean 'adam'"),
    ],
)
def test_bad_settings_are_one_message(changes: dict, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        build(**changes)
    assert "\n" not in str(caught.value)


def test_the_config_stays_as_it_was():
    cfg = distillation_cfg(GRU, dagger_cfg={"num_updates": 3})
    del cfg["obs_groups"]
    before = copy.deepcopy(cfg)
    with pytest.warns(UserWarning, match=r"obs_groups\.student is missing; using group 'policy'"):
        algorithm, env = build(cfg)
    play(algorithm, env)
    algorithm.update()
    assert cfg == before


def test_a_student_that_became_nan_is_an_error():
    algorithm, env = build(learning_rate=1e30, optimizer="sgd")

    def train():
        for _ in range(3):
            play(algorithm, env)
            algorithm.update()

    with pytest.raises(ValueError, match=r"the update made .* NaN or infinite"):
        train()
