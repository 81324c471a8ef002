"""Our runner in the place of mjlab's: what mjlab's scripts call, checkpoints to and fro, ONNX files."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sim_rl_plugin.config import load_config
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.run_folder import find_run, load_policy
from sim_rl_plugin.training import train_to_the_end

pytest.importorskip("mjlab")

import onnx
from mjlab.rl import MjlabOnPolicyRunner, RslRlVecEnvWrapper
from mjlab.tasks.registry import load_rl_cfg
from mjlab.tasks.tracking.rl.runner import MotionTrackingOnPolicyRunner
from mjlab.tasks.velocity.rl.runner import VelocityOnPolicyRunner
from mjlab_tasks import CARTPOLE, GO1, actions_for, make_env
from onnx.reference import ReferenceEvaluator
from sim_rl_mjlab.open import open_task
from sim_rl_mjlab.runner import MjlabRunner
from sim_rl_mjlab.tasks import default_config, task_names

pytestmark = pytest.mark.slow


def settings_of(task: str, **changes: Any) -> dict[str, Any]:
    """Return what mjlab's `train` hands to a runner."""
    return {**asdict(load_rl_cfg(task)), "logger": "tensorboard", "num_steps_per_env": 8, "console": False, **changes}


def test_the_calls_of_mjlabs_train_and_play(tmp_path: Path) -> None:
    wrapper = RslRlVecEnvWrapper(make_env(CARTPOLE))
    settings = settings_of(CARTPOLE)
    before = copy.deepcopy(settings)
    runner = MjlabRunner(wrapper, settings, str(tmp_path), "cpu")
    assert settings == before

    runner.add_git_repo_to_log(__file__)
    runner.learn(num_learning_iterations=3, init_at_random_ep_len=True)
    assert {file.name for file in tmp_path.glob("model_*.pt")} == {"model_0.pt", "model_2.pt"}

    # 3 iterations of 8 steps: the curriculum's clock.
    checkpoint = torch.load(tmp_path / "model_2.pt", weights_only=False)
    assert checkpoint["infos"]["env_state"] == {"common_step_counter": 24}

    player = MjlabRunner(RslRlVecEnvWrapper(make_env(CARTPOLE)), settings, device="cpu")
    player.load(str(tmp_path / "model_2.pt"), load_cfg={"actor": True}, strict=True, map_location="cpu")
    policy = player.get_inference_policy(device="cpu")
    # mjlab's viewers go on with the wrapper, which must reset by itself.
    with torch.inference_mode():
        for _ in range(25):
            obs, _, _, _ = wrapper.step(policy(wrapper.get_observations()))
        assert torch.equal(policy(obs), runner.get_inference_policy()(obs))
    assert player.env.unwrapped.common_step_counter == 24


@pytest.mark.parametrize(("auto_reset", "expected"), [(True, set()), (False, {"final_obs"})])
def test_mjlabs_auto_reset_decides_about_final_observations(
    auto_reset: bool, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = RslRlVecEnvWrapper(make_env(CARTPOLE, auto_reset=auto_reset))
    runner = MjlabRunner(wrapper, settings_of(CARTPOLE), device="cpu")
    given: list[set[str]] = []
    process = runner.alg.process_env_step

    def watch(obs: Any, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]) -> None:
        if dones.any():
            given.append(set(extras))
        process(obs, rewards, dones, extras)

    monkeypatch.setattr(runner.alg, "process_env_step", watch)
    runner.learn(3)  # 24 steps, and episodes of 20
    assert given == [{"time_outs", "log"} | expected]


def test_checkpoints_go_to_mjlabs_own_runner_and_back(tmp_path: Path) -> None:
    settings = settings_of(CARTPOLE)
    ours = MjlabRunner(RslRlVecEnvWrapper(make_env(CARTPOLE)), settings, str(tmp_path / "ours"), "cpu")
    ours.learn(2)
    theirs = MjlabOnPolicyRunner(
        RslRlVecEnvWrapper(make_env(CARTPOLE)), copy.deepcopy(settings), str(tmp_path / "theirs"), "cpu"
    )
    (tmp_path / "theirs").mkdir(exist_ok=True)
    theirs.load(str(tmp_path / "ours" / "model_1.pt"))
    obs = ours.env.get_observations()
    assert torch.allclose(theirs.get_inference_policy()(obs), ours.get_inference_policy()(obs))
    assert theirs.env.unwrapped.common_step_counter == 16
    theirs.learn(1)
    theirs.save(str(tmp_path / "theirs" / "model_9.pt"))

    again = MjlabRunner(RslRlVecEnvWrapper(make_env(CARTPOLE)), settings, device="cpu")
    again.load(str(tmp_path / "theirs" / "model_9.pt"))
    assert torch.allclose(again.get_inference_policy()(obs), theirs.get_inference_policy()(obs))
    assert again.env.unwrapped.common_step_counter == 24


def test_what_nobody_set_is_refused_without_the_runner() -> None:
    from sim_rl_plugin.runners import OnPolicyRunner

    env = MjlabRunner(RslRlVecEnvWrapper(make_env(CARTPOLE)), settings_of(CARTPOLE), device="cpu").env
    with pytest.raises(UserError, match=r"actor\.cnn_cfg"):
        OnPolicyRunner(env, settings_of(CARTPOLE))


def metadata_of(file: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}


def test_onnx_files_are_those_of_mjlabs_runner(tmp_path: Path) -> None:
    settings = settings_of(GO1)
    ours = MjlabRunner(RslRlVecEnvWrapper(make_env(GO1)), settings, str(tmp_path / "run"), "cpu")
    ours.logger.init_logging_writer()
    ours.save(str(tmp_path / "run" / "model_0.pt"))
    (tmp_path / "other").mkdir()
    theirs = VelocityOnPolicyRunner(
        RslRlVecEnvWrapper(make_env(GO1)), copy.deepcopy(settings), str(tmp_path / "other"), "cpu"
    )
    theirs.logger.init_logging_writer()
    theirs.load(str(tmp_path / "run" / "model_0.pt"))
    theirs.save(str(tmp_path / "other" / "model_0.pt"))

    file = tmp_path / "run" / "run.onnx"
    metadata = metadata_of(file)
    assert metadata == metadata_of(tmp_path / "other" / "other.onnx")
    assert metadata["run_path"] == "local"
    assert len(metadata["joint_names"].split(",")) == 12
    obs = ours.env.get_observations()[:1]
    (found,) = ReferenceEvaluator(str(file)).run(None, {"obs": obs["actor"].numpy()})
    (expected,) = ReferenceEvaluator(str(tmp_path / "other" / "other.onnx")).run(None, {"obs": obs["actor"].numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found, ours.get_inference_policy()(obs).detach().numpy(), atol=1e-4)


def test_an_onnx_file_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = MjlabRunner(RslRlVecEnvWrapper(make_env(GO1)), settings_of(GO1), str(tmp_path), "cpu")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no exporter")

    monkeypatch.setattr(torch.onnx, "export", fail)
    runner.save(str(tmp_path / "model_0.pt"))
    assert (tmp_path / "model_0.pt").is_file()
    assert "the policy was not written as ONNX: RuntimeError: no exporter" in caplog.text


def motion_file(folder: Path) -> Path:
    """Write half a second of a G1 that stands still."""
    steps, joints, bodies = 25, 29, 48
    file = folder / "motion.npz"
    quaternions = np.zeros((steps, bodies, 4))
    quaternions[..., 0] = 1.0
    positions = np.zeros((steps, bodies, 3))
    positions[..., 2] = 0.8
    zeros = np.zeros((steps, bodies, 3))
    np.savez(
        file,
        joint_pos=np.full((steps, joints), 0.25),
        joint_vel=np.zeros((steps, joints)),
        body_pos_w=positions,
        body_quat_w=quaternions,
        body_lin_vel_w=zeros,
        body_ang_vel_w=zeros,
    )
    return file


def test_a_tracking_policy_is_exported_with_its_motion(tmp_path: Path) -> None:
    task = "Mjlab-Tracking-Flat-Unitree-G1"
    options = {"commands": {"motion": {"motion_file": str(motion_file(tmp_path))}}}
    (tmp_path / "run").mkdir()
    with open_task(task, num_envs=2, task_options=options) as env:
        runner = MjlabRunner(env, settings_of(task), str(tmp_path / "run"), "cpu", registry_name=None)
        runner.save(str(tmp_path / "run" / "model_0.pt"))
        obs = env.get_observations()["actor"][:1]
        theirs = object.__new__(MotionTrackingOnPolicyRunner)
        theirs.env, theirs.alg = env, runner.alg
        theirs.export_policy_to_onnx(str(tmp_path), "theirs.onnx")

    file = tmp_path / "run" / "run.onnx"
    assert metadata_of(file)["anchor_body_name"] == "torso_link"
    inputs = {"obs": obs.numpy(), "time_step": np.array([[3.0]], dtype=np.float32)}
    found = ReferenceEvaluator(str(file)).run(None, inputs)
    expected = ReferenceEvaluator(str(tmp_path / "theirs.onnx")).run(None, inputs)
    assert len(found) == len(expected) == 7
    for ours, others in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, others, atol=1e-5)
    assert [output.name for output in onnx.load(str(file)).graph.output][1:3] == ["joint_pos", "joint_vel"]


# `sim-rl train` on mjlab's tasks


def test_every_task_has_its_own_settings() -> None:
    names = task_names()
    assert {CARTPOLE, GO1, "Mjlab-Velocity-Flat-Unitree-G1", "Mjlab-Lift-Cube-Yam-Rgb"} <= set(names)
    assert not [name for name in names if name.endswith("-SimRl")]
    for name in names:
        config = load_config("mjlab", name)
        theirs = load_rl_cfg(name)
        assert config.class_name == "MjlabRunner"
        assert config.max_iterations == theirs.max_iterations
        assert config.algorithm["learning_rate"] == theirs.algorithm.learning_rate
        assert tuple(config.actor["hidden_dims"]) == tuple(theirs.actor.hidden_dims)
        assert config.obs_groups == {key: list(value) for key, value in theirs.obs_groups.items()}
        assert config.logger == ["tensorboard", "csv"]
    assert default_config("Mjlab-Nothing") is None


def test_a_resumed_run_continues_bit_for_bit(tmp_path: Path) -> None:
    def config(iterations: int) -> Any:
        overrides = [
            *("num_envs=4", "num_steps_per_env=8", "save_interval=2", "logger=csv", "console=false"),
            "env.task_options={episode_length_s: 0.3}",
        ]
        return load_config("mjlab", GO1, overrides=overrides, options={"max_iterations": iterations})

    def weights(folder: Path) -> dict[str, torch.Tensor]:
        return torch.load(folder / "model_3.pt", weights_only=True)["actor_state_dict"]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    train_to_the_end(config(4), "cpu", lambda: whole)
    train_to_the_end(config(2), "cpu", lambda: parts)
    saved = find_run(parts)
    assert saved.completed_iterations == 2
    train_to_the_end(config(4), "cpu", lambda: parts, saved)

    expected, found = weights(whole), weights(parts)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    # The ages of the episodes went on, and so did the curriculum's clock.
    infos = torch.load(parts / "model_3.pt", weights_only=True)["infos"]
    assert infos["env_state"] == {"common_step_counter": 32}
    with open_task(GO1, num_envs=1) as env:
        assert load_policy(find_run(parts), config(4), env, "cpu")(env.get_observations()).shape == (1, 12)


def test_a_task_with_a_camera_trains(tmp_path: Path) -> None:
    task = "Mjlab-Lift-Cube-Yam-Rgb"
    config = load_config("mjlab", task, overrides=["num_envs=2", "num_steps_per_env=4", "logger=csv", "console=false"],
                         options={"max_iterations": 1})  # fmt: skip
    outcome = train_to_the_end(config, "cpu", lambda: tmp_path)
    with open_task(task, num_envs=2) as env:
        theirs = MjlabOnPolicyRunner(env, settings_of(task), device="cpu")
        theirs.load(str(tmp_path / "model_0.pt"))
        obs = env.get_observations()
        assert torch.allclose(theirs.get_inference_policy()(obs), outcome.policy(obs), atol=1e-5)


def test_what_cannot_be_opened_is_one_clear_message() -> None:
    for task, options, message in (
        ("Mjlab-Cartpole-Balanc", {}, "did you mean 'Mjlab-Cartpole-Balance'"),
        ("Mjlab-Tracking-Flat-Unitree-G1", {}, r"set env\.task_options\.commands\.motion\.motion_file"),
        (CARTPOLE, {"task_options": {"rewards": {"smooth_rewrad": None}}}, r"task_options\.rewards\.smooth_reward"),
    ):
        with pytest.raises(UserError, match=message), open_task(task, num_envs=1, **options):
            pass


def test_the_curriculum_is_restored_and_other_settings_stay_the_users() -> None:
    def ranges(env: Any) -> Any:
        return env.unwrapped.command_manager.get_term("twist").cfg.ranges

    with open_task(GO1, num_envs=2) as env:
        untouched = ranges(env).lin_vel_x
        # Past the last stage of the task's curriculum, which the next reset sees.
        env.unwrapped.common_step_counter = 10**9
        env.episode_length_buf = torch.full((2,), env.max_episode_length - 1)
        env.step(torch.zeros(2, 12))
        widened = ranges(env).lin_vel_x
        assert widened != untouched
        state = env.state_dict()
    assert any(path.endswith("ranges/lin_vel_x") for path in state["simulation"]["numbers"])

    options = {"rewards": {"action_rate_l2": {"weight": -0.5}}}
    with open_task(GO1, num_envs=2, task_options=options) as env:
        env.load_state_dict(state)
        assert ranges(env).lin_vel_x == widened
        assert env.unwrapped.common_step_counter == 10**9 + 1
        assert env.unwrapped.reward_manager.get_term_cfg("action_rate_l2").weight == -0.5
        with pytest.raises(UserError, match=r"saved with num_envs 2, this one has 3"), open_task(GO1, num_envs=3) as b:
            b.load_state_dict(state)


def test_the_seed_decides_everything() -> None:
    def rollout(seed: int) -> torch.Tensor:
        with open_task(GO1, num_envs=2, seed=seed) as env:
            return torch.cat([env.step(action)[0]["actor"] for action in actions_for(env.unwrapped, 3)])

    first = rollout(5)
    assert torch.equal(first, rollout(5))
    assert not torch.equal(first, rollout(6))
