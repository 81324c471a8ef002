"""Environments of rsl_rl's relatives keep the contract once they are handed over, whatever their habits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign_envs import (
    Genesis,
    GymnasiumLike,
    IsaacLab2,
    LeggedGym,
    LeggedGymBlind,
    Plain,
    Reset0,
    RslRl,
)
from small_configs import ppo_cfg

from sim_rl_plugin.env import VecEnv, as_vec_env
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.runners import DistillationRunner, OnPolicyRunner
from sim_rl_plugin.testing import PointEnv, VecEnvContract

SHAPES = {
    LeggedGym: ["critic", "policy"],
    LeggedGymBlind: ["policy"],
    Reset0: ["policy"],
    Genesis: ["critic", "policy"],
    IsaacLab2: ["critic", "policy", "rnd_state"],
    GymnasiumLike: ["critic", "policy"],
}


class TestLeggedGym(VecEnvContract):
    def make_env(self) -> VecEnv:
        return as_vec_env(LeggedGym())


class TestGenesis(VecEnvContract):
    def make_env(self) -> VecEnv:
        return as_vec_env(Genesis())


class TestIsaacLab2(VecEnvContract):
    def make_env(self) -> VecEnv:
        return as_vec_env(IsaacLab2())


class TestGymnasiumLike(VecEnvContract):
    def make_env(self) -> VecEnv:
        return as_vec_env(GymnasiumLike())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_every_shape_gives_the_same_episodes(shape: type[Plain]):
    # 40 steps with a limit of 16: each ends twice at least. The answers come from the shape that needs no wrapper.
    plain, env = RslRl(), as_vec_env(shape())
    assert sorted(env.get_observations().keys()) == SHAPES[shape]
    torch.testing.assert_close(env.get_observations()["policy"], plain.get_observations()["policy"])
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        actions = 2.0 * torch.randn(6, 2, generator=generator)
        expected, rewards, dones, extras = plain.step(actions)
        handed_in = actions.clone()
        obs, found_rewards, found_dones, found_extras = env.step(actions)
        assert torch.equal(actions, handed_in)
        torch.testing.assert_close(obs["policy"], expected["policy"])
        torch.testing.assert_close(found_rewards, rewards)
        assert torch.equal(found_dones, dones.bool())
        if dones.any():
            assert torch.equal(found_extras["time_outs"], extras["time_outs"])
        else:
            assert not found_extras.get("time_outs", torch.zeros(1)).any()


def test_the_log_of_a_reset_is_logged_once():
    env = as_vec_env(LeggedGym(num_envs=2))
    logs = [env.step(torch.zeros(2, 2))[3]["log"] for _ in range(33)]
    # The episodes end in steps 16 and 32; in between the inner environment shows the old log.
    assert [index + 1 for index, log in enumerate(logs) if log] == [16, 32]
    assert "episode" in env.env.extras


def test_a_log_that_is_written_in_place_each_step_is_logged_each_step():
    class Busy(LeggedGymBlind):
        def __init__(self) -> None:
            super().__init__(num_envs=2)
            self.extras["log"] = {"effort": torch.zeros(1), "name": "busy"}

        def step(self, actions: torch.Tensor) -> tuple:
            self.extras["log"]["effort"] += 1.0
            return super().step(actions)

    env = as_vec_env(Busy())
    with torch.inference_mode():
        logs = [env.step(torch.zeros(2, 2))[3]["log"] for _ in range(3)]
    assert [float(log["effort"]) for log in logs] == [1.0, 2.0, 3.0]
    assert set(logs[0]) == {"effort"}


def test_it_is_reset_once_and_its_other_members_are_there():
    inner = LeggedGym()
    env = as_vec_env(inner)
    assert inner.num_resets == 1
    assert env.num_privileged_obs == 3
    assert (env.max_episode_length, env.cfg) == (16, {"name": "legged"})
    env.episode_length_buf = torch.full((6,), 15)
    assert env.step(torch.zeros(6, 2))[3]["time_outs"].all()


def test_final_observations_are_passed_on_where_they_are_complete():
    class WithFinal(GymnasiumLike):
        groups: tuple[str, ...] = ("policy", "critic")

        def step(self, actions: torch.Tensor) -> tuple:
            obs, *rest, _ = super().step(actions)
            return obs, *rest, {"final_obs": {name: obs[name] for name in self.groups}}

    env = as_vec_env(WithFinal())
    final_obs = env.step(torch.ones(6, 2))[3]["final_obs"]
    before = final_obs.clone()
    env.step(torch.ones(6, 2))  # writes into the buffers that it returned
    assert all(torch.equal(final_obs[name], before[name]) for name in WithFinal.groups)
    WithFinal.groups = ("policy",)
    assert "final_obs" not in as_vec_env(WithFinal()).step(torch.zeros(6, 2))[3]


@pytest.mark.parametrize("env", [PointEnv(), RslRl()], ids=["VecEnv", "rsl_rl"])
def test_what_keeps_the_contract_is_left_alone(env: Any):
    runner = OnPolicyRunner(env, ppo_cfg() | {"obs_groups": {"actor": ["policy"], "critic": ["policy"]}})
    assert runner.env is env
    assert as_vec_env(env) is env


def test_looking_at_an_environment_that_draws_noise_leaves_the_generator_alone():
    class Noisy(RslRl):
        def get_observations(self):
            return super().get_observations().apply(lambda value: value + torch.randn_like(value))

    before = torch.random.get_rng_state()
    as_vec_env(Noisy())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_the_runner_trains_on_it_as_it_is(shape: type[Plain], tmp_path):
    groups = {"actor": ["policy"], "critic": [SHAPES[shape][0]]}
    runner = OnPolicyRunner(shape(num_envs=16), ppo_cfg() | {"obs_groups": groups}, log_dir=str(tmp_path))
    runner.learn(2, init_at_random_ep_len=True)
    assert (tmp_path / "model_1.pt").is_file()
    resumed = OnPolicyRunner(shape(num_envs=16), ppo_cfg() | {"obs_groups": groups}, log_dir=str(tmp_path))
    with pytest.warns(UserWarning, match="cannot restore its state"):
        resumed.resume(str(tmp_path / "model_1.pt"))
    resumed.learn(1)


def test_a_student_is_trained_on_it_as_it_is(tmp_path):
    teaching = ppo_cfg() | {"obs_groups": {"actor": ["critic"], "critic": ["critic"]}}
    OnPolicyRunner(LeggedGym(num_envs=16), teaching, log_dir=str(tmp_path)).learn(2)
    actor = teaching["actor"]
    cfg = {
        "num_steps_per_env": 8,
        "obs_groups": {"student": ["policy"], "teacher": ["critic"]},
        "algorithm": {"class_name": "Distillation", "gradient_length": 4},
        "student": actor,
        "teacher": actor,
        "init_from": str(tmp_path / "model_1.pt"),
        "console": False,
    }
    runner = DistillationRunner(LeggedGym(num_envs=16), cfg)
    runner.learn(2)
    assert runner.completed_iterations == 2


class Nothing:
    pass


def without(*names: str) -> Any:
    class Incomplete:
        num_envs, num_actions, device, max_episode_length = 2, 1, "cpu", 10
        episode_length_buf = torch.zeros(2)

        def get_observations(self) -> torch.Tensor:
            return torch.zeros(2, 1)

        def step(self, actions: torch.Tensor) -> Any:
            return None

    for name in names:
        delattr(Incomplete, name)
    return Incomplete()


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match=r"Incomplete is no environment .* it has no num_actions, step\. Expected"):
        OnPolicyRunner(without("step", "num_actions"), ppo_cfg())
    with pytest.raises(UserError, match=r"Nothing is no environment .* num_envs, num_actions, device"):
        as_vec_env(Nothing())


def test_a_plugin_that_failed_on_it_is_named():
    from sim_rl_plugin import plugins
    from sim_rl_plugin.hooks import hookimpl

    class Clumsy:
        @hookimpl
        def sim_rl_wrap_env(self, env):
            raise KeyError("autoreset_mode")

    manager = plugins.get_manager()
    manager.register(Clumsy(), "clumsy")
    try:
        with pytest.raises(UserError, match=r"no num_envs.*; the plugin 'clumsy' failed \(KeyError: 'autoreset_mode'"):
            as_vec_env(Nothing())
        # Others are not kept from being trained on.
        assert as_vec_env(Genesis()).num_envs == 6
    finally:
        manager.unregister("clumsy")
        manager.failures[:] = [failure for failure in manager.failures if failure.plugin != "clumsy"]


def test_what_cannot_be_understood_is_named():
    env = as_vec_env(without())
    with pytest.raises(UserError, match=r"Incomplete.step returned a NoneType, expected \(obs, rewards, dones"):
        env.step(torch.zeros(2, 1))
    for wrong, message in (
        (torch.zeros(2), r"group 'policy' has shape \(2,\), expected a tensor \(2, size\)"),
        (torch.zeros(3, 4), r"group 'policy' has shape \(3, 4\)"),
        ({"state": {"inner": torch.zeros(2, 1)}}, "group 'state' has a dict"),
    ):
        inner = without()
        inner.get_observations = lambda wrong=wrong: wrong
        with pytest.raises(UserError, match=message):
            as_vec_env(inner)


def test_images_stay_bytes_and_numbers_become_float32():
    inner = without()
    inner.get_observations = lambda: {
        "camera": torch.full((2, 3, 4, 4), 255, dtype=torch.uint8),
        "policy": torch.zeros(2, 1, dtype=torch.float64),
        "unused": None,
    }
    obs = as_vec_env(inner).get_observations()
    assert {name: value.dtype for name, value in obs.items()} == {"camera": torch.uint8, "policy": torch.float32}


def test_a_third_partys_answer_goes_first():
    from sim_rl_plugin import plugins
    from sim_rl_plugin.hooks import hookimpl

    class Mine:
        @hookimpl
        def sim_rl_wrap_env(self, env):
            return PointEnv() if isinstance(env, LeggedGym) else None

    plugins.get_manager().register(Mine(), "mine")
    try:
        assert isinstance(as_vec_env(LeggedGym()), PointEnv)
        assert as_vec_env(Genesis()).env.__class__ is Genesis
    finally:
        plugins.get_manager().unregister("mine")
