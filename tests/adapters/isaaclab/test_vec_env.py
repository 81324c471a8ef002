"""The contract, and each habit of Isaac Lab's environments that misleads a learner, on the stand-in."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing
from typing import Any

import pytest
import torch
from small_configs import ppo_cfg

pytest.importorskip("gymnasium")

from isaaclab_stand_in import RslRlVecEnvWrapper, StandInEnv, task_cfg
from sim_rl_isaaclab.recognition import wrap
from sim_rl_isaaclab.runners import OnPolicyRunner
from sim_rl_isaaclab.vec_env import IsaacLabVecEnv

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.testing import VecEnvContract


def opened(**changes: Any) -> IsaacLabVecEnv:
    return IsaacLabVecEnv(StandInEnv(task_cfg(**changes)))


class TestStandIn(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return closing(opened())


class TestStandInWithoutFinalObs(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return closing(opened(compute_final_obs=False))


class TestStandInWithCameras(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return closing(opened(groups="cameras", graded_terrain=True))


class TestTheirWrapperLookedThrough(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        env = wrap(RslRlVecEnvWrapper(StandInEnv(task_cfg())))
        assert env is not None
        return closing(env)


def steps(env: Any, number: int, action: float = 0.0) -> list[tuple]:
    return [env.step(torch.full((env.num_envs, env.num_actions), action)) for _ in range(number)]


def test_a_log_is_counted_in_the_step_of_its_reset_only() -> None:
    env = opened(episode_steps=5)
    logs = [extras["log"] for *_, extras in steps(env, 12)]
    assert [bool(log) for log in logs] == [step % 5 == 4 for step in range(12)]
    # What is no number is left out.
    assert logs[4].keys() == {"Episode_Termination/time_out", "Metrics/length"}
    assert logs[4]["Episode_Termination/time_out"] == 6
    assert float(logs[9]["Metrics/length"]) == 5.0


def test_a_task_may_add_to_the_log_in_every_step() -> None:
    class Adding(StandInEnv):
        def _get_observations(self) -> dict[str, Any]:
            self.extras["log"]["Step/count"] = self.common_step_counter  # without looking whether it is there
            return super()._get_observations()

    env = IsaacLabVecEnv(Adding(task_cfg()))
    assert [extras["log"].get("Step/count") for *_, extras in steps(env, 3)] == [1, 2, 3]


def test_final_observations_belong_to_their_step() -> None:
    env = opened(episode_steps=4, noise=0.0)
    results = steps(env, 6)
    assert ["final_obs" in extras for *_, extras in results] == [False, False, False, True, False, False]
    obs, _, dones, extras = results[3]
    assert dones.all()
    # Age 4 of 4 before the reset, 0 after it.
    assert extras["final_obs"]["policy"][:, 2].tolist() == [1.0] * 6
    assert obs["policy"][:, 2].tolist() == [0.0] * 6


def test_what_terminates_at_the_limit_is_no_time_out() -> None:
    env = opened()
    env.unwrapped.position[:2] = 5.0
    env.episode_length_buf = torch.full((6,), 19)
    _, _, dones, extras = steps(env, 1)[0]
    assert env.unwrapped.reset_time_outs.all()
    assert dones.all()
    assert extras["time_outs"].tolist() == [False, False, True, True, True, True]


def test_a_finite_horizon_has_no_time_outs() -> None:
    env = opened(is_finite_horizon=True, episode_steps=1)
    _, _, dones, extras = steps(env, 1)[0]
    assert dones.all()
    assert "time_outs" not in extras


def test_observations_are_computed_once_a_step() -> None:
    env = opened(noise=0.5, compute_final_obs=False)
    result = steps(env, 1)[0]
    computed = env.unwrapped.num_computed
    for _ in range(3):
        assert torch.equal(env.get_observations()["policy"], result[0]["policy"])
    assert env.unwrapped.num_computed == computed


def test_assigned_ages_are_a_copy() -> None:
    env, ages = opened(), torch.arange(6)
    env.episode_length_buf = ages
    steps(env, 1)
    assert ages.tolist() == list(range(6))
    assert env.episode_length_buf.tolist() == list(range(1, 7))


def test_actions_are_clipped_and_otherwise_handed_on() -> None:
    for limit, expected in ((None, 3.0), (1.0, 1.0)):
        env = IsaacLabVecEnv(StandInEnv(task_cfg()), clip_actions=limit)
        actions = torch.full((6, 2), 3.0)
        env.step(actions)
        assert env.unwrapped.last_action.tolist() == [[expected, expected]] * 6
        assert env.unwrapped.last_action is not actions


def test_dicts_of_terms_become_groups_and_images_have_their_channels_first() -> None:
    obs = opened(groups="cameras").get_observations()
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in obs.items()}
    assert shapes == {
        "policy": ((6, 3), torch.float32),
        "camera/rgb": ((6, 3, 6, 8), torch.uint8),
        "camera/depth": ((6, 1, 6, 8), torch.float32),
        "camera/range": ((6, 1), torch.float32),
    }


def test_inference_mode_leaves_nothing_behind_that_cannot_be_stepped_or_learnt_from() -> None:
    class Allocating(StandInEnv):
        def _reset_idx(self, ended: torch.Tensor) -> None:
            super()._reset_idx(ended)
            self.position = self.position.clone()  # made in whatever mode the step is

    env = IsaacLabVecEnv(Allocating(task_cfg(episode_steps=2)))
    with torch.inference_mode():
        steps(env, 3)
    obs, rewards, _, extras = steps(env, 3)[0]  # two steps old
    weight = torch.ones(3, requires_grad=True)
    (obs["policy"] @ weight + rewards).sum().backward()
    assert weight.grad is not None
    assert not any(value.is_inference() for value in (*obs.values(), *extras["final_obs"].values()))


def test_counters_and_terrain_levels_survive_and_episodes_start_afresh() -> None:
    env = opened(graded_terrain=True, episode_steps=3)
    steps(env, 7)
    state = env.state_dict()
    # One reset at the start, two time-outs.
    assert state["terrain"]["levels"].tolist() == [3] * 6
    assert state["counters"] == {"common_step_counter": 7, "_sim_step_counter": 14}

    again = opened(graded_terrain=True, episode_steps=3)
    again.load_state_dict(state)
    assert again.unwrapped.common_step_counter == 7
    assert again.unwrapped.scene.terrain.terrain_levels.tolist() == [3] * 6
    assert again.episode_length_buf.tolist() == [0] * 6
    # terrain_origins[level, type] of types 0 and 1.
    assert again.unwrapped.scene.terrain.env_origins[:2].tolist() == [[18.0, 19.0, 20.0], [21.0, 22.0, 23.0]]


def test_terrain_levels_of_other_robots_are_left_alone() -> None:
    other = opened(graded_terrain=True)
    steps(other, 1)
    state = other.state_dict()
    state["terrain"] = {key: value[:2] + 5 for key, value in state["terrain"].items()}
    env = opened(graded_terrain=True)
    env.load_state_dict(state)
    assert env.unwrapped.scene.terrain.terrain_levels.max() <= 2
    assert env.unwrapped.common_step_counter == 1


def test_frames_only_where_they_were_asked_for() -> None:
    assert opened().render() is None
    filmed = IsaacLabVecEnv(StandInEnv(task_cfg(), render_mode="rgb_array"), render=True)
    assert filmed.render().shape == (24, 32, 3)


def test_other_objects_are_not_recognised() -> None:
    import gymnasium

    pendulum = gymnasium.make("Pendulum-v1")
    assert wrap(pendulum) is None
    assert wrap(object()) is None
    with pytest.raises(UserError, match=r"ManagerBasedRLEnv or DirectRLEnv of Isaac Lab, found .*"):
        IsaacLabVecEnv(pendulum)


def test_their_wrapper_is_not_reset_again_and_keeps_its_limit_and_layout() -> None:
    theirs = RslRlVecEnvWrapper(StandInEnv(task_cfg(groups="cameras")), clip_actions=0.5)
    position = theirs.unwrapped.position.clone()
    env = wrap(theirs)
    assert env is not None
    assert torch.equal(theirs.unwrapped.position, position)
    assert env.get_observations()["camera/rgb"].shape == (6, 6, 8, 3)
    steps(env, 1, action=3.0)
    assert theirs.unwrapped.last_action is not None
    assert theirs.unwrapped.last_action.max() == 0.5


def test_old_logs_would_be_counted_without_looking_through_their_wrapper(tmp_path: Any) -> None:
    """The pitfall itself: rsl_rl's wrapper shows a log long after its reset, and shares one buffer of rewards."""
    theirs = RslRlVecEnvWrapper(StandInEnv(task_cfg(episode_steps=5)))
    results = steps(theirs, 7)
    assert "log" in results[6][3]
    assert results[0][1] is results[6][1]

    ours = wrap(RslRlVecEnvWrapper(StandInEnv(task_cfg(episode_steps=5))))
    assert ours is not None
    assert not steps(ours, 7)[6][3]["log"]


def test_training_through_their_wrapper(tmp_path: Any) -> None:
    torch.manual_seed(0)
    wrapper = RslRlVecEnvWrapper(StandInEnv(task_cfg()), clip_actions=1.0)
    runner = OnPolicyRunner(wrapper, {**ppo_cfg(), "obs_groups": {}}, str(tmp_path))
    assert isinstance(runner.env, IsaacLabVecEnv)
    runner.add_git_repo_to_log(__file__)
    runner.learn(num_learning_iterations=2, init_at_random_ep_len=True)
    # As train.py of Isaac Lab 3 does with --no-resume_optimizer_state.
    parts = {"actor": True, "critic": True, "optimizer": False, "iteration": True, "rnd": True}
    again = OnPolicyRunner(wrapper, {**ppo_cfg(), "obs_groups": {}})
    again.load(str(tmp_path / "model_1.pt"), load_cfg=parts, map_location="cpu")
    assert again.current_learning_iteration == 1
