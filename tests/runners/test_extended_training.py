"""Trainings with memories, curiosity, images and compiled models: resumed exactly, evaluated in between."""

import copy
import csv
import shutil

import pytest
import torch
from small_configs import CNN, GRU, MLP, CameraEnv, distillation_cfg, mirror, ppo_cfg, ppo_cfg_with

from sim_rl_plugin.evaluation import evaluate
from sim_rl_plugin.runners import DistillationRunner, OnPolicyRunner
from sim_rl_plugin.testing import PointEnv
from sim_rl_plugin.video import frames_of

RND = {
    "weight": 0.5, "num_outputs": 2, "predictor_hidden_dims": [8], "target_hidden_dims": [8],
    "state_normalization": True, "reward_normalization": True,
    "weight_schedule": {"mode": "linear", "initial_step": 8, "final_step": 64, "final_value": 0.0},
}  # fmt: skip


def curious_cfg(model: dict = GRU) -> dict:
    cfg = ppo_cfg_with(model, rnd_cfg=copy.deepcopy(RND))
    cfg["obs_groups"]["rnd_state"] = ["critic"]
    return cfg


def everything(runner: OnPolicyRunner) -> torch.Tensor:
    alg = runner.alg
    models = [alg.actor, alg.critic] + ([alg.rnd] if alg.rnd is not None else [])
    return torch.cat([value.double().reshape(-1) for model in models for value in model.state_dict().values()])


def rows(folder) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "cfg",
    [curious_cfg(), curious_cfg({**GRU, "rnn_type": "lstm"}), curious_cfg(MLP)],
    ids=["gru", "lstm", "mlp"],
)
def test_a_resumed_curious_training_continues_bit_for_bit(tmp_path, cfg: dict):
    def runner(folder=None, seed: int = 0) -> OnPolicyRunner:
        torch.manual_seed(seed)
        return OnPolicyRunner(PointEnv(max_episode_length=11, seed=seed), cfg, folder)

    before = copy.deepcopy(cfg)
    runner(str(tmp_path)).learn(3, init_at_random_ep_len=True)
    resumed = runner(str(tmp_path), seed=9)
    resumed.resume(str(tmp_path / "model_2.pt"))
    resumed.learn(2)
    straight = runner()
    straight.learn(5, init_at_random_ep_len=True)
    assert cfg == before
    assert torch.equal(everything(resumed), everything(straight))
    assert resumed.alg.rnd.update_counter == straight.alg.rnd.update_counter == 40
    assert resumed.alg.rnd.weight == straight.alg.rnd.weight
    assert 0.0 < resumed.alg.rnd.weight < 0.5
    assert resumed.logger.state_dict()["recent"] == straight.logger.state_dict()["recent"]


def test_a_resumed_training_with_shared_encoders_continues_bit_for_bit(tmp_path):
    cfg = ppo_cfg_with(CNN, share_cnn_encoders=True)

    def runner(folder=None, seed: int = 0) -> OnPolicyRunner:
        torch.manual_seed(seed)
        return OnPolicyRunner(CameraEnv(max_episode_length=11, seed=seed), cfg, folder)

    runner(str(tmp_path)).learn(2)
    resumed = runner(seed=9)
    resumed.resume(str(tmp_path / "model_1.pt"))
    resumed.learn(1)
    straight = runner()
    straight.learn(3)
    assert torch.equal(everything(resumed), everything(straight))


def test_intrinsic_rewards_are_logged_beside_the_tasks(tmp_path):
    OnPolicyRunner(PointEnv(max_episode_length=5), curious_cfg(), str(tmp_path)).learn(2)
    last = {
        key: float(value) for key, value in rows(tmp_path)[-1].items() if key.startswith(("Rnd/", "Train/", "Loss/"))
    }
    assert last["Rnd/mean_intrinsic_reward"] > 0.0
    both = last["Rnd/mean_extrinsic_reward"] + last["Rnd/mean_intrinsic_reward"]
    assert last["Train/mean_reward"] == pytest.approx(both, rel=1e-5)
    # After 16 control steps, 8 of the 56 from full weight to none are over.
    assert last["Rnd/weight"] == pytest.approx(0.5 * (1 - 8 / 56))
    assert last["Loss/rnd"] > 0.0


@pytest.mark.parametrize("later", [curious_cfg(MLP), ppo_cfg_with(MLP)], ids=["on", "off"])
def test_curiosity_may_be_switched_at_a_resume(tmp_path, later: dict):
    earlier = ppo_cfg_with(MLP) if "rnd_cfg" in later["algorithm"] else curious_cfg(MLP)
    OnPolicyRunner(PointEnv(max_episode_length=11), earlier, str(tmp_path)).learn(1)
    runner = OnPolicyRunner(PointEnv(max_episode_length=11), later)
    if "rnd_cfg" in later["algorithm"]:
        with pytest.raises(ValueError, match="no rnd_state_dict"):
            runner.resume(str(tmp_path / "model_0.pt"))
        return
    runner.resume(str(tmp_path / "model_0.pt"))
    runner.learn(2)
    assert runner.logger.rewbuffer


def test_more_environments_after_a_resume_without_the_simulators_state(tmp_path):
    env = PointEnv()
    env.state_dict = lambda: None
    OnPolicyRunner(env, curious_cfg(), str(tmp_path)).learn(1)
    runner = OnPolicyRunner(PointEnv(num_envs=12), curious_cfg())
    with pytest.warns(UserWarning, match="episodes start afresh"):
        runner.resume(str(tmp_path / "model_0.pt"))
    runner.learn(1)
    assert runner.alg.rnd.update_counter == 16


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_an_evaluation_in_between_leaves_no_trace(kind: str):
    trained = []
    for evaluated in (False, True):
        torch.manual_seed(0)
        runner = OnPolicyRunner(PointEnv(), ppo_cfg_with({**GRU, "rnn_type": kind}))
        runner.learn(2)
        if evaluated:
            policy = runner.get_inference_policy()
            evaluate(policy, PointEnv(num_envs=3, max_episode_length=4), 3)
            list(frames_of(policy, PointEnv(num_envs=1), num_steps=2))
        runner.current_learning_iteration = 2
        runner.learn(1)
        trained.append(everything(runner))
    assert torch.equal(*trained)


def test_a_model_can_be_copied_between_iterations():
    for cfg, env in ((ppo_cfg(), PointEnv()), (ppo_cfg_with(GRU), PointEnv()), (ppo_cfg_with(CNN), CameraEnv())):
        runner = OnPolicyRunner(env, cfg)
        runner.learn(1)
        copied = copy.deepcopy(runner.alg.actor)
        for name, value in runner.alg.actor.state_dict().items():
            assert torch.equal(copied.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("distribution", "mixed"), [("HeteroscedasticGaussianDistribution", False), ("BetaDistribution", True)]
)
def test_every_distribution_learns_to_reach_the_origin(distribution: str, mixed: bool, tmp_path):
    cfg = ppo_cfg(learning_rate=3e-3, use_mixed_precision=mixed)
    cfg["actor"]["distribution_cfg"] = {"class_name": distribution}
    cfg["algorithm"].update(num_learning_epochs=4, num_mini_batches=2)
    OnPolicyRunner(PointEnv(num_envs=64), cfg, str(tmp_path)).learn(25)
    rewards = [float(row["Train/mean_reward"]) for row in rows(tmp_path) if row["Train/mean_reward"]]
    assert rewards[-1] > 1.25 * rewards[0]


def test_symmetry_by_name_in_a_run(tmp_path):
    cfg = ppo_cfg(symmetry_cfg={"data_augmentation_func": "small_configs:mirror", "use_data_augmentation": True})
    OnPolicyRunner(PointEnv(), cfg, str(tmp_path)).learn(1)
    assert float(rows(tmp_path)[0]["Loss/symmetry"]) > 0.0
    contents = torch.load(tmp_path / "model_0.pt", weights_only=True)
    assert contents["sim_rl"]["config"]["algorithm"]["symmetry_cfg"]["data_augmentation_func"] == "small_configs:mirror"
    callable_cfg = ppo_cfg(symmetry_cfg={"data_augmentation_func": mirror})
    OnPolicyRunner(PointEnv(), callable_cfg, str(tmp_path / "other")).learn(1)
    contents = torch.load(tmp_path / "other" / "model_0.pt", weights_only=True)
    assert contents["sim_rl"]["config"]["algorithm"]["symmetry_cfg"]["data_augmentation_func"] == "small_configs:mirror"


# Compiled models


def compiled_runner(kind: str) -> OnPolicyRunner:
    torch.manual_seed(0)
    cfg, env = {
        "mlp": (ppo_cfg_with(MLP), PointEnv(max_episode_length=5)),
        "gru": (ppo_cfg_with(GRU), PointEnv(max_episode_length=5)),
        "cnn": (ppo_cfg_with(CNN), CameraEnv(max_episode_length=5)),
    }[kind]
    return OnPolicyRunner(env, {**cfg, "torch_compile_mode": "default"})


@pytest.mark.parametrize("kind", ["mlp", "gru", "cnn"])
def test_compiled_models_train_as_the_plain_ones_do(kind: str, monkeypatch):
    """With the code generator left out, which would take minutes: what is traced is what would be compiled."""
    compile_module = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode: compile_module(model, backend="eager"))
    torch._dynamo.reset()
    runner = compiled_runner(kind)
    assert runner.alg.actor is not runner.alg.get_policy()
    before = copy.deepcopy(runner.alg.get_policy().state_dict())
    runner.learn(1)
    policy = runner.get_inference_policy()
    for name, parameter in policy.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    saved = runner.alg.save()
    assert saved["actor_state_dict"].keys() == before.keys()
    env = (CameraEnv if kind == "cnn" else PointEnv)(num_envs=3, max_episode_length=4)
    assert evaluate(policy, env, 3).mean_length == 4
    assert copy.deepcopy(policy).state_dict().keys() == before.keys()


def test_a_compiled_student_and_its_teacher(monkeypatch):
    compile_module = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode: compile_module(model, backend="eager"))
    torch._dynamo.reset()
    trained = []
    for mode in (None, "default"):
        torch.manual_seed(0)
        cfg = {**distribution_free(distillation_cfg(GRU)), "torch_compile_mode": mode}
        runner = DistillationRunner(PointEnv(), cfg)
        runner.alg.teacher_loaded = True
        runner.learn(2)
        trained.append(runner.alg.get_policy().state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-4, atol=1e-5)


def distribution_free(cfg: dict) -> dict:
    """Without noise nothing depends on how a compiled model draws it."""
    return {**cfg, "student": {**cfg["student"], "distribution_cfg": None}}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU torch.compile needs a C++ compiler")
def test_the_compiler_itself():
    torch._dynamo.reset()
    runner = compiled_runner("mlp")
    before = copy.deepcopy(runner.alg.get_policy().state_dict())
    runner.learn(1)
    assert not torch.equal(runner.alg.get_policy().mlp[0].weight, before["mlp.0.weight"])


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("reduce-overhead", "torch_compile_mode: 'reduce-overhead' uses CUDA graphs"),
        ("defualt", "unknown torch_compile_mode 'defualt': did you mean 'default'"),
    ],
)
def test_other_modes_are_refused(mode: str, message: str):
    for runner, cfg in ((OnPolicyRunner, ppo_cfg()), (DistillationRunner, distillation_cfg())):
        with pytest.raises(ValueError, match=message):
            runner(PointEnv(), {**cfg, "torch_compile_mode": mode})
