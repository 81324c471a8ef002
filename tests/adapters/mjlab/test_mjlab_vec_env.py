"""The adapter against mjlab stepped by hand, and each of mjlab's pitfalls, put back to see it matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sim_rl_plugin.env import check_env
from sim_rl_plugin.logging.episodes import EnvironmentLog

pytest.importorskip("mjlab")

from mjlab.managers.curriculum_manager import CurriculumTermCfg
from mjlab.managers.recorder_manager import RecorderTerm, RecorderTermCfg
from mjlab.managers.termination_manager import TerminationTermCfg
from mjlab.rl import RslRlVecEnvWrapper
from mjlab.tasks.registry import load_env_cfg
from mjlab_tasks import CARTPOLE, GO1, actions_for, make_env
from sim_rl_mjlab.vec_env import MjlabVecEnv

pytestmark = pytest.mark.slow


def codes_and_places(env: Any) -> set[tuple[str, str]]:
    return {(problem.code, problem.where) for problem in check_env(env, num_steps=30)}


def by_hand(task: str, **changes: Any) -> MjlabVecEnv:
    """Return an environment that the adapter resets, with final observations."""
    return MjlabVecEnv(make_env(task, auto_reset=False, **changes), reset=True)


def end_episode_of(env: MjlabVecEnv, index: int) -> None:
    """Let an environment time out in the next step."""
    ages = env.episode_length_buf.clone()
    ages[index] = env.max_episode_length - 1
    env.episode_length_buf = ages


def test_the_terms_and_joints_of_go1_are_told() -> None:
    env = by_hand(GO1)
    terms = {term.name: term for term in env.observation_terms["actor"]}
    assert list(terms) == env.unwrapped.observation_manager.active_terms["actor"]
    (action,) = env.action_terms
    assert action.size == 12 and terms["joint_pos"].elements == action.elements
    assert [name[:2] for name in action.elements[::3]] == ["FR", "FL", "RR", "RL"]
    # An action of zero is the default pose, in which the thighs stand at 0.9 rad and the calves at -1.8.
    assert action.offset[1:3] == pytest.approx((0.9, -1.8))
    assert len(set(action.scale)) == 2


def test_equals_mjlab_without_auto_reset_stepped_by_hand() -> None:
    inner = make_env(CARTPOLE, auto_reset=False)
    actions = actions_for(inner, 45)
    obs, _ = inner.reset()
    expected = [{"obs": obs["actor"].clone()}]
    for action in actions:
        obs, rewards, terminated, truncated, _ = inner.step(action)
        step = {"final": obs["actor"].clone(), "rewards": rewards.clone(), "time_outs": truncated & ~terminated}
        step["dones"] = terminated | truncated
        if step["dones"].any():
            obs, _ = inner.reset(env_ids=step["dones"].nonzero().squeeze(-1))
        step["obs"] = torch.where(step["dones"][:, None], obs["actor"], step["final"])
        expected.append(step)

    env = by_hand(CARTPOLE)
    assert torch.equal(env.get_observations()["actor"], expected[0]["obs"])
    for action, step in zip(actions, expected[1:], strict=True):
        obs, rewards, dones, extras = env.step(action)
        assert torch.equal(obs["actor"], step["obs"])
        assert torch.equal(rewards, step["rewards"])
        assert torch.equal(dones, step["dones"])
        assert torch.equal(extras["time_outs"], step["time_outs"])
        if dones.any():
            assert torch.equal(extras["final_obs"]["actor"][dones], step["final"][dones])
            assert not torch.equal(extras["final_obs"]["actor"][dones], obs["actor"][dones])
    # 1 s at 0.05 s a step is 20 steps: two time-outs of four environments in 45 steps.
    assert sum(int(step["time_outs"].sum()) for step in expected[1:]) == 8


def test_without_final_observations_equals_mjlabs_own_wrapper() -> None:
    theirs = RslRlVecEnvWrapper(make_env(GO1))
    # Twice as far as the joints go, so that robots fall, too.
    actions = 4.0 * actions_for(theirs.unwrapped, 55)
    expected = []
    for action in actions:
        obs, rewards, dones, extras = theirs.step(action)
        expected.append((obs["critic"].clone(), rewards.clone(), dones.bool(), dict(extras["log"])))

    env = MjlabVecEnv(make_env(GO1), reset=True)
    for action, (obs, rewards, dones, log) in zip(actions, expected, strict=True):
        ours = env.step(action)
        assert torch.equal(ours[0]["critic"], obs)
        assert torch.equal(ours[1], rewards)
        assert torch.equal(ours[2], dones)
        assert ours[3]["log"] == log
        assert "final_obs" not in ours[3]
    assert sum(int(dones.sum()) for _, _, dones, _ in expected) >= 4


class SharesRewards(MjlabVecEnv):
    def step(self, actions: torch.Tensor) -> Any:
        obs, _, dones, extras = super().step(actions)
        return obs, self.unwrapped.reward_buf, dones, extras


class SharesTimeOuts(MjlabVecEnv):
    def step(self, actions: torch.Tensor) -> Any:
        obs, rewards, dones, extras = super().step(actions)
        return obs, rewards, dones, {**extras, "time_outs": self.unwrapped.reset_time_outs}


class SharesExtras(MjlabVecEnv):
    kept: dict[str, Any] = {}

    def step(self, actions: torch.Tensor) -> Any:
        obs, rewards, dones, extras = super().step(actions)
        # As in Isaac Lab, where the log stays until the next reset.
        if extras["log"]:
            self.kept = extras["log"]
        return obs, rewards, dones, {**extras, "log": self.kept}


@pytest.mark.parametrize(
    ("pitfall", "found"),
    [
        (MjlabVecEnv, set()),
        (SharesRewards, {("buffer-reused", "rewards")}),
        (SharesTimeOuts, {("buffer-reused", "time_outs")}),
        (SharesExtras, {("log-stale", "log")}),
    ],
)
def test_reused_buffers_are_found_when_they_are_put_back(
    pitfall: Callable[..., MjlabVecEnv], found: set[tuple[str, str]]
) -> None:
    assert codes_and_places(pitfall(make_env(CARTPOLE, auto_reset=False), reset=True)) == found


def test_cached_observations_are_copied() -> None:
    def spoiled(env: Any) -> bool:
        env.get_observations()["actor"].fill_(7.0)
        return bool((env.get_observations()["actor"] == 7.0).any())

    env = by_hand(CARTPOLE)
    assert not spoiled(env)
    obs = env.step(torch.zeros(4, 1))[0]
    obs["actor"].fill_(7.0)
    assert not (env.get_observations()["actor"] == 7.0).any()
    # mjlab's wrapper hands out the cache.
    assert spoiled(RslRlVecEnvWrapper(make_env(CARTPOLE)))


def test_an_iteration_that_begins_with_an_empty_log_is_logged() -> None:
    env = by_hand(CARTPOLE)
    logs = []
    for index in range(3):
        if index == 1:
            end_episode_of(env, 0)
        logs.append(env.step(torch.zeros(4, 1))[3]["log"])
    collected = EnvironmentLog()
    for log in logs:
        collected.add(log)
    means = collected.means()

    assert logs[0] == logs[2] == {}
    assert means["Episode_Termination/time_out"] == 1.0
    assert means["Episode_Reward/smooth_reward"] == pytest.approx(float(logs[1]["Episode_Reward/smooth_reward"]))
    # A logger that takes the first step's keys has none.
    assert [key for key in logs[0] if key in means] == []


def test_metrics_of_environments_that_go_on_are_counted_once() -> None:
    env = by_hand(GO1)
    term = env.unwrapped.command_manager.get_term("twist")
    count = torch.zeros(4)
    term.metrics["updates"] = count

    def update() -> None:
        count.add_(1.0)

    term._update_metrics = update
    end_episode_of(env, 0)
    extras = env.step(torch.zeros(4, env.num_actions))[3]

    # Environment 0 ended with one update and got its first one of the new episode.
    assert count.tolist() == [1.0, 1.0, 1.0, 1.0]
    assert extras["log"]["Metrics/twist/updates"] == 1.0
    # mjlab's reset alone updates those that go on again.
    env.unwrapped.reset(env_ids=torch.tensor([0]))
    assert count.tolist() == [1.0, 2.0, 2.0, 2.0]


def test_environments_that_go_on_keep_their_noise() -> None:
    env = by_hand(GO1)
    end_episode_of(env, 0)
    obs, _, dones, extras = env.step(torch.zeros(4, env.num_actions))

    assert dones.tolist() == [True, False, False, False]
    assert torch.equal(obs["actor"][1:], extras["final_obs"]["actor"][1:])
    assert torch.equal(obs["actor"][0], env.unwrapped.obs_buf["actor"][0])
    # mjlab's reset has drawn other noise for them.
    assert not torch.equal(obs["actor"][1:], env.unwrapped.obs_buf["actor"][1:])


def test_curricula_judge_an_episode_by_its_own_command() -> None:
    seen: list[torch.Tensor] = []

    def watch(env: Any, env_ids: torch.Tensor) -> None:
        seen.append(env.command_manager.get_command("twist")[env_ids].clone())

    env = by_hand(GO1, curriculum={"watch": CurriculumTermCfg(func=watch)})
    term = env.unwrapped.command_manager.get_term("twist")
    env.step(torch.zeros(4, env.num_actions))
    before = term.command.clone()
    # Environment 0 gets a new command in the very step in which its episode ends.
    term.time_left[0] = 0.0
    end_episode_of(env, 0)
    seen.clear()
    env.step(torch.zeros(4, env.num_actions))

    assert torch.equal(seen[0], before[:1])
    assert not torch.equal(term.command[:1], before[:1])


class Diary(RecorderTerm):
    """Notes what it is told, with the ages of the environments."""

    def __init__(self, cfg: Any, env: Any) -> None:
        super().__init__(cfg, env)
        self.entries: list[tuple[str, list[int]]] = []

    def record_pre_reset(self, env_ids: torch.Tensor) -> None:
        self.entries.append(("before", self._env.episode_length_buf[env_ids].tolist()))

    def record_post_reset(self, env_ids: torch.Tensor) -> None:
        self.entries.append(("after", self._env.episode_length_buf[env_ids].tolist()))


def test_recorders_are_told_before_and_after_a_reset() -> None:
    env = by_hand(CARTPOLE, recorders={"diary": RecorderTermCfg(func=Diary)})
    diary = env.unwrapped.recorder_manager.get_term("diary")
    diary.entries.clear()
    end_episode_of(env, 2)
    env.step(torch.zeros(4, 1))

    assert diary.entries == [("before", [20]), ("after", [0])]


def test_a_finite_horizon_has_no_time_outs() -> None:
    env = by_hand(CARTPOLE, is_finite_horizon=True)
    end_episode_of(env, 0)
    _, _, dones, extras = env.step(torch.zeros(4, 1))

    assert dones.tolist() == [True, False, False, False]
    assert "time_outs" not in extras


@pytest.mark.parametrize("auto_reset", [False, True])
def test_what_terminates_at_the_limit_is_no_time_out(auto_reset: bool) -> None:
    fallen = torch.tensor([True, True, False, False])
    terms = {**load_env_cfg(CARTPOLE).terminations, "fallen": TerminationTermCfg(func=lambda env: fallen)}
    env = MjlabVecEnv(make_env(CARTPOLE, auto_reset=auto_reset, terminations=terms), reset=True)
    end_episode_of(env, 1)
    end_episode_of(env, 2)
    _, _, dones, extras = env.step(torch.zeros(4, 1))

    assert dones.tolist() == [True, True, True, False]
    # Number 1 does both.
    assert extras["time_outs"].tolist() == [False, False, True, False]


def test_assigned_ages_are_a_copy() -> None:
    env = by_hand(CARTPOLE)
    ages = torch.tensor([3, 0, 1, 2])
    env.episode_length_buf = ages
    env.step(torch.zeros(4, 1))

    # mjlab counts in place.
    assert env.episode_length_buf.tolist() == [4, 1, 2, 3]
    assert ages.tolist() == [3, 0, 1, 2]


def test_actions_are_clipped_as_mjlabs_wrapper_does() -> None:
    theirs = RslRlVecEnvWrapper(make_env(CARTPOLE), clip_actions=0.5)
    env = MjlabVecEnv.around(theirs)
    actions = torch.full((4, 1), 3.0)
    env.step(actions)

    assert env.unwrapped.action_manager.action.tolist() == [[0.5]] * 4
    assert actions.tolist() == [[3.0]] * 4


def test_terms_that_are_not_concatenated_are_groups_of_their_own() -> None:
    inner = make_env(CARTPOLE)
    cfg = inner.cfg.observations
    cfg["actor"].concatenate_terms = False
    env = by_hand(CARTPOLE, observations=cfg)
    obs = env.get_observations()

    names = [f"actor.{name}" for name in env.unwrapped.observation_manager.active_terms["actor"]]
    assert sorted(obs.keys()) == sorted([*names, "critic"])
    assert codes_and_places(env) == set()


@pytest.mark.parametrize("auto_reset", [False, True])
def test_some_environments_are_reset_out_of_nan_and_the_others_stay_as_they_are(auto_reset: bool) -> None:
    env = MjlabVecEnv(make_env(GO1, auto_reset=auto_reset), reset=True)
    for action in actions_for(env.unwrapped, 4):
        env.step(action)
    before, ages = env.get_observations(), env.episode_length_buf.clone()
    physics = env.unwrapped.sim.data
    for name in ("qpos", "qvel", "qacc_warmstart", "ctrl"):
        getattr(physics, name)[1] = torch.nan
    others = torch.arange(env.num_envs) != 1
    qpos = physics.qpos[others].clone()
    assert env.reset_envs(torch.tensor([1]))
    assert int(env.episode_length_buf[1]) == 0
    assert torch.equal(env.episode_length_buf[others], ages[others])
    assert torch.equal(physics.qpos[others], qpos)
    for name, values in env.get_observations().items():
        assert torch.isfinite(values).all()
        assert torch.equal(values[others], before[name][others])
    for action in actions_for(env.unwrapped, 10):
        obs, rewards, _, _ = env.step(action)
        assert all(bool(torch.isfinite(values).all()) for values in (*obs.values(), rewards))
