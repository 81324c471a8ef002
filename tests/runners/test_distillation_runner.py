"""Distillation by its runner: with a teacher from everywhere, resumed, interrupted, and without a teacher."""

import copy

import pytest
import torch
from small_configs import GAUSSIAN, GRU, MLP, CameraEnv, distillation_cfg, ppo_cfg, ppo_cfg_with

from sim_rl_plugin.runners import DistillationRunner, OnPolicyRunner
from sim_rl_plugin.testing import PointEnv


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A folder with two small PPO trainings, the second of a recurrent policy, and what they export."""
    folder = tmp_path_factory.mktemp("teachers")
    for name, cfg in (("mlp", ppo_cfg()), ("gru", ppo_cfg_with(GRU))):
        torch.manual_seed(2)
        runner = OnPolicyRunner(PointEnv(), cfg, str(folder / name))
        runner.learn(2)
        runner.export_policy_to_jit(str(folder / name))
        runner.export_policy_to_onnx(str(folder / name))
    return folder


def distance(runner: DistillationRunner, teacher) -> float:
    """Return the mean squared difference between student and teacher on positions that neither has seen."""
    obs = PointEnv(num_envs=64, seed=11).get_observations()
    return (runner.get_inference_policy()(obs) - teacher(obs)).square().mean().item()


def test_a_student_gets_close_to_its_teacher(tmp_path, teachers):
    cfg = {**distillation_cfg(learning_rate=3e-3, num_learning_epochs=4), "init_from": str(teachers / "mlp")}
    before = copy.deepcopy(cfg)
    runner = DistillationRunner(PointEnv(num_envs=32), cfg, str(tmp_path))
    runner.initialize()
    teacher = copy.deepcopy(runner.alg.teacher)
    start = distance(runner, teacher)
    runner.learn(40)
    assert distance(runner, teacher) < 0.05 * start
    assert cfg == before
    assert (tmp_path / "model_39.pt").is_file()
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert {"Loss/behavior", "Policy/mean_std", "Train/mean_reward"} <= set(header.split(","))


@pytest.mark.parametrize(
    "file", ["mlp", "mlp/model_1.pt", "mlp/policy.pt", "mlp/policy.onnx", "gru/policy.pt", "gru/policy.onnx"]
)
def test_init_from_everything_that_holds_a_policy(teachers, file: str):
    torch.manual_seed(1)
    runner = DistillationRunner(PointEnv(), {**distillation_cfg(), "init_from": str(teachers / file)})
    runner.learn(2)
    original = OnPolicyRunner(PointEnv(), ppo_cfg() if file.startswith("mlp") else ppo_cfg_with(GRU))
    original.load(str(teachers / file.partition("/")[0] / "model_1.pt"))
    obs = PointEnv(seed=4).get_observations()
    runner.alg.teacher.reset()
    torch.testing.assert_close(
        runner.alg.teacher(obs), original.get_inference_policy()(obs).detach(), rtol=1e-4, atol=1e-5
    )


def test_load_makes_the_actor_of_a_ppo_training_the_teacher(teachers):
    runner = DistillationRunner(PointEnv(), distillation_cfg())
    with pytest.raises(ValueError, match="the teacher has no parameters to imitate: set init_from"):
        runner.learn(1)
    runner.load(str(teachers / "mlp" / "model_1.pt"))
    assert runner.current_learning_iteration == 0
    runner.learn(1)


def test_a_list_gives_every_member_of_an_ensemble_its_checkpoint_but_for_those_out_of_files(teachers):
    cfg = distillation_cfg()
    model, exported = cfg["teacher"], {"class_name": "ExportedPolicy", "path": str(teachers / "mlp" / "policy.pt")}
    cfg["teacher"] = {"class_name": "TeacherEnsemble", "teachers": [model, exported], "assignment": "blocks"}
    cfg["init_from"] = [str(teachers / "mlp")]
    runner = DistillationRunner(PointEnv(), cfg)
    runner.learn(1)
    obs = PointEnv(seed=4).get_observations()
    first, second = (member(obs) for member in runner.alg.teacher.teachers)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("described", [False, True])
def test_exported_policies_in_a_list_are_members_of_an_ensemble(teachers, described: bool):
    files = ["mlp/policy.pt", "mlp" if described else "mlp/policy.onnx"]
    cfg = {**distillation_cfg(), "init_from": [str(teachers / file) for file in files]}
    if described:
        cfg["teacher"] = {"class_name": "TeacherEnsemble", "teachers": [cfg["teacher"]] * 2, "assignment": "blocks"}
    runner = DistillationRunner(PointEnv(), cfg)
    runner.learn(1)
    obs = PointEnv(seed=4).get_observations()
    first, second = (member(obs) for member in runner.alg.teacher.teachers)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"init_from: 2 checkpoints and exported policies, .* describes 0"):
        DistillationRunner(
            PointEnv(), {**distillation_cfg(), "init_from": [cfg["init_from"][0], str(teachers / "mlp")]}
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "{}/nowhere"}, "no run folder or checkpoint at"),
        ({"init_from": ["{}/mlp", "{}/mlp"]}, "init_from: expected 1 checkpoints, one per teacher, found 2"),
        ({"init_from": "{}/gru"}, "does not fit the model of this config"),
        ({"init_from": "{}/nowhere/policy.onnx"}, "no file at"),
    ],
)
def test_what_is_no_teacher_is_one_message(teachers, changes: dict, message: str):
    source = changes["init_from"]
    source = [each.format(teachers) for each in source] if isinstance(source, list) else source.format(teachers)
    with pytest.raises(ValueError, match=message) as caught:
        DistillationRunner(PointEnv(), {**distillation_cfg(), "init_from": source}).learn(1)
    assert "\n" not in str(caught.value)


def test_a_teacher_of_another_robot_is_refused(teachers):
    cfg = {**distillation_cfg(), "init_from": str(teachers / "mlp")}
    with pytest.raises(ValueError, match="another robot: term 'position' of group 'policy' has 3 values"):
        DistillationRunner(PointEnv(num_actions=3), cfg).learn(1)


def weights(runner: DistillationRunner) -> torch.Tensor:
    return torch.cat([value.double().reshape(-1) for value in runner.alg.student.state_dict().values()])


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_resumed_distillation_continues_bit_for_bit(tmp_path, teachers, kind: str):
    """Student and teacher with memories, the teacher acting in a share, over windows that straddle rollouts."""
    cfg = distillation_cfg(
        {**GRU, "rnn_type": kind}, GRU, dagger_cfg={"num_updates": 8}, keep_teacher_memory=True, num_learning_epochs=2
    )
    cfg["init_from"] = str(teachers / "gru")

    def runner(folder=None, seed: int = 0) -> DistillationRunner:
        torch.manual_seed(seed)
        return DistillationRunner(PointEnv(max_episode_length=11, seed=seed), cfg, folder)

    runner(str(tmp_path)).learn(3, init_at_random_ep_len=True)
    resumed = runner(seed=9)
    # It must not start from the teacher's checkpoint again.
    resumed.cfg["init_from"] = str(tmp_path / "nowhere")
    resumed.resume(str(tmp_path / "model_2.pt"))
    resumed.learn(2)
    straight = runner()
    straight.learn(5, init_at_random_ep_len=True)
    assert torch.equal(weights(resumed), weights(straight))
    assert torch.equal(resumed.env.position, straight.env.position)


def test_a_training_that_was_stopped_within_a_rollout_goes_on_with_the_next(teachers):
    cfg = {**distillation_cfg(GRU), "init_from": str(teachers / "mlp")}
    env = PointEnv()
    runner = DistillationRunner(env, cfg)
    step, calls = env.step, 0

    def stopped(actions):
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return step(actions)

    env.step = stopped
    with pytest.raises(KeyboardInterrupt):
        runner.learn(3)
    assert (runner.completed_iterations, runner.alg.storage.step) == (1, 3)
    runner.learn(1)
    assert runner.alg.storage.step == 0


def test_a_student_becomes_the_policy_of_a_ppo_training_and_is_not_resumed_by_it(tmp_path, teachers):
    cfg = {**distillation_cfg(), "init_from": str(teachers / "mlp")}
    student = DistillationRunner(PointEnv(), cfg, str(tmp_path))
    student.learn(1)
    ppo = {**ppo_cfg(learning_rate=0.0, schedule="fixed"), "init_from": str(tmp_path)}
    runner = OnPolicyRunner(PointEnv(), ppo)
    runner.initialize()
    for name, value in student.alg.student.state_dict().items():
        assert torch.equal(runner.alg.actor.state_dict()[name], value), name
    for other, path in (
        (OnPolicyRunner(PointEnv(), ppo_cfg()), tmp_path / "model_0.pt"),
        (DistillationRunner(PointEnv(), distillation_cfg()), teachers / "mlp" / "model_1.pt"),
    ):
        with pytest.raises(ValueError, match=r"holds another algorithm's training.*say init_from"):
            other.resume(str(path))


def test_a_student_that_sees_images(teachers):
    cfg = distillation_cfg()
    cfg["student"] = {
        "class_name": "CNNModel", "hidden_dims": [16], "distribution_cfg": dict(GAUSSIAN),
        "cnn_cfg": {"output_channels": [4], "kernel_size": 3, "stride": 3},
    }  # fmt: skip
    cfg["obs_groups"]["student"] = ["camera", "depth"]
    cfg["teacher"] = {**MLP, "distribution_cfg": dict(GAUSSIAN)}
    cfg["init_from"] = str(teachers / "mlp")
    runner = DistillationRunner(CameraEnv(), cfg)
    before = copy.deepcopy(runner.alg.student.state_dict())
    runner.learn(1)
    assert not torch.equal(runner.alg.student.cnns["camera"][0].weight, before["cnns.camera.0.weight"])
