"""The gap between two simulators: nothing where they are the same, and where and when it opens."""

import json

import pytest
import torch

from sim_rl_plugin.env import Term
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.sim_to_sim.gap import as_markdown, check_name, gap_between, remarks_on, write_gap
from sim_rl_plugin.sim_to_sim.statistics import behaviour_of, plain_name
from sim_rl_plugin.testing import PointEnv


class Reporting(PointEnv):
    """Points that report their reward's terms, and from some step on are pushed along the first axis."""

    step_dt = 0.1
    push_from, push = 99, 0.0
    observation_terms = {}

    def step(self, actions):
        pushed = actions.clone()
        pushed[:, 0] += self.push * (self.episode_length_buf >= self.push_from)
        obs, rewards, dones, extras = super().step(pushed)
        extras["log"] = {"Step/reward_near": rewards.mean(), "reward_bonus": 1.0, "distance": 3.0}
        return obs, rewards, dones, extras


def behaviour(seed: int = 1, push: float = 0.0, push_from: int = 0, num_envs: int = 40, gain: float = 5.0, **changes):
    env = Reporting(num_envs=num_envs, max_episode_length=20, terminate_at=None, seed=seed)
    env.push, env.push_from = push, push_from
    for name, value in changes.items():
        setattr(env, name, value)
    return behaviour_of(lambda obs: -gain * obs["policy"], env, num_envs, f"push {push}", ["policy"])


def test_what_is_counted():
    found = behaviour(gain=1.0)
    assert found.names == ("position.0", "position.1", "action velocity.0", "action velocity.1", "reward")
    assert found.reward_terms["bonus"] == 1.0 and set(found.reward_terms) == {"near", "bonus"}
    assert found.profile_count.tolist() == [40.0] * 20 + [0.0]
    env = Reporting(num_envs=40, max_episode_length=20, terminate_at=None, seed=1)
    start = env.get_observations()["policy"].double()
    torch.testing.assert_close(found.profile_mean[0, :2], start.mean(dim=0))
    torch.testing.assert_close(found.profile_var[0, :2], start.var(dim=0, unbiased=False))
    # A tenth of the way in each step: the mean of 20 is that of a geometric series.
    torch.testing.assert_close(found.mean[1], start[:, 1].mean() * (1 - 0.9**20) / 0.1 / 20, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.mean[3], -found.mean[1])
    assert found.smallest[0] == start[:, 0].min()


def test_simulators_that_are_the_same_are_said_to_be():
    gap = gap_between(behaviour(seed=1), behaviour(seed=2))
    assert gap["return_gap_errors"] < 3
    assert all(entry["drifts_at_step"] is None for entry in gap["quantities"])
    assert all(entry["gap"] < 0.5 for entry in gap["quantities"])
    assert "nothing drifts apart" in remarks_on(gap)


def test_a_push_is_found_where_and_when_it_begins():
    gap = gap_between(behaviour(seed=1), behaviour(seed=2, push=4.0, push_from=12))
    by_name = {entry["name"]: entry for entry in gap["quantities"]}
    # Pushed in step 12 for the first time, which is seen in step 13; the action answers at once.
    assert by_name["position.0"]["drifts_at_step"] == by_name["action velocity.0"]["drifts_at_step"] == 13
    assert by_name["position.1"]["drifts_at_step"] is None
    assert by_name["position.0"]["gap"] > 2 * by_name["position.1"]["gap"]
    assert (by_name["position.0"]["kind"], by_name["reward"]["kind"]) == ("observation", "reward")
    remarks = remarks_on(gap)
    assert any("more than chance" in remark and "no more" not in remark for remark in remarks)
    # The reward of a step is that of where it leads.
    assert any(remark.endswith("reward first, at step 12") for remark in remarks)
    text = as_markdown(gap)
    assert text.startswith("# push 0.0, and push 4.0\n")
    first = text.split("## Observations and joints, the farthest apart first")[1].splitlines()[4]
    assert first.startswith("| position.0 |") and first.endswith("| 13 |")
    assert "| near |" in text and "| return |" in text


def test_other_rates_and_terms_are_remarked():
    other = behaviour(seed=2, step_dt=0.02)
    other.reward_terms.pop("bonus")
    remarks = remarks_on(gap_between(behaviour(), other))
    assert "the control step is 0.1 s in the one and 0.02 s in the other" in remarks
    assert "the rewards have other terms: compare returns with care" in remarks


def test_joints_and_steps_back_have_names():
    found = behaviour(
        num_envs=3,
        observation_terms={"policy": (Term("angle", (2, 1), ("hip",), history=2),)},
        action_terms=(Term("motor", (2,), ("hip", "knee")),),
    )
    assert found.names[:4] == ("angle 1 ago", "angle 0 ago", "action motor.hip", "action motor.knee")
    silent = behaviour(num_envs=3, observation_terms={}, action_terms=())
    assert silent.names[:4] == ("policy[0]", "policy[1]", "action 0", "action 1")


def test_names_of_reward_terms():
    assert [plain_name(tag) for tag in ("Step/reward_ctrl", "rew_ctrl", "Episode_Reward/ctrl", "ctrl")] == ["ctrl"] * 4


def test_the_report_is_a_file_of_either_kind(tmp_path):
    gap = gap_between(behaviour(num_envs=4), behaviour(num_envs=4))
    write_gap(gap, tmp_path / "new" / "gap.json")
    assert json.loads((tmp_path / "new" / "gap.json").read_text()) == json.loads(json.dumps(gap))
    write_gap(gap, tmp_path / "gap.md")
    with pytest.raises(UserError, match=r"--report: the file's name ends with \.md or \.json, found 'gap.txt'"):
        check_name(tmp_path / "gap.txt")
