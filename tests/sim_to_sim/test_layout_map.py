"""A policy's layout made of another environment's, worked out by hand."""

from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from sim_rl_plugin.env import Term, VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.layout import describe_layout
from sim_rl_plugin.sim_to_sim.layout_map import LayoutMap, read_layout_map
from sim_rl_plugin.sim_to_sim.mapped_env import MappedEnv
from sim_rl_plugin.testing import SteeredPointEnv

LAYOUT = {
    "observations": {
        "policy": {
            "shape": [8],
            "dtype": "float32",
            "terms": [
                {"name": "position", "shape": [2], "elements": ["hip", "knee"]},
                {"name": "velocity", "shape": [2, 2], "elements": ["hip", "knee"], "history": 2},
                {"name": "force", "shape": [1]},
                {"name": "goal", "shape": [1]},
            ],
        },
        "critic": {"shape": [3], "dtype": "float32"},
    },
    "num_actions": 2,
    "actions": [{"name": "motors", "shape": [2], "elements": ["hip", "knee"]}],
}
MAP = """
observations:
  policy:
    group: state
    terms:
      position: {term: q, scale: [2.0, 3.0], offset: 0.5, elements: {hip: coxa}}
      velocity: {term: v, scale: [10.0, 1.0]}
      force: {value: -1.5}
actions:
  motors: {term: torque, scale: [4.0, 5.0], offset: [0.0, 1.0]}
"""


class Other(VecEnv):
    """Another simulator's robot: other names, another order, no force."""

    num_envs, num_actions, device, max_episode_length, cfg = 1, 2, "cpu", 9, {}
    observation_terms = {
        "state": (
            Term("goal", (1,)),
            Term("v", (2, 2), ("knee", "hip"), history=2),
            Term("q", (2,), ("knee", "coxa")),
        )
    }
    action_terms = (Term("torque", (2,), ("knee", "hip")),)
    episode_length_buf = torch.zeros(1, dtype=torch.long)

    def get_observations(self) -> TensorDict:
        # goal 7; the older v of knee and hip 1 and 2, the newer 3 and 4; q of knee and coxa 5 and 6.
        return TensorDict({"state": torch.tensor([[7.0, 1, 2, 3, 4, 5, 6]])}, batch_size=[1])

    def step(self, actions):
        self.taken = actions.clone()
        obs = self.get_observations()
        return obs, torch.zeros(1), torch.ones(1, dtype=torch.bool), {"final_obs": obs.apply(lambda value: value + 1.0)}


def mapped(tmp_path: Path, text: str = MAP, env: VecEnv | None = None, layout: dict = LAYOUT) -> MappedEnv:
    (tmp_path / "map.yaml").write_text(text)
    return MappedEnv(env or Other(), layout, read_layout_map(tmp_path / "map.yaml"), ["policy"])


def test_observations_are_renamed_reordered_and_scaled(tmp_path):
    env = mapped(tmp_path)
    obs = env.get_observations()
    # q is 6 of the coxa, which is the hip, and 5 of the knee: times 2 and 3, plus 0.5.
    # v is hip, knee of the older step (2, 1), then of the newer (4, 3): times 10 and 1.
    assert obs["policy"].tolist() == [[12.5, 15.5, 20, 1, 40, 3, -1.5, 7]]
    assert obs["critic"].tolist() == [[0, 0, 0]]  # which the policy does not read
    assert [term.name for term in env.observation_terms["policy"]] == ["position", "velocity", "force", "goal"]
    assert env.action_terms[0].elements == ("hip", "knee")


def test_actions_go_the_other_way_round(tmp_path):
    env = mapped(tmp_path)
    _, _, _, extras = env.step(torch.tensor([[1.0, -2.0]]))
    # The knee comes first: -2 times 5 plus 1; then the hip: 1 times 4 plus 0.
    assert env.env.taken.tolist() == [[-9.0, 4.0]]
    assert extras["final_obs"]["policy"].tolist() == [[14.5, 18.5, 30, 2, 50, 4, -1.5, 8]]


def test_terms_that_the_simulator_does_not_tell_are_listed_in_the_map(tmp_path):
    class Silent(Other):
        observation_terms = {}
        action_terms = ()

    with pytest.raises(UserError, match=r"observations.policy.terms: the environment does not tell .*: list them"):
        mapped(tmp_path, env=Silent())
    text = MAP.replace("velocity: {term: v, scale: [10.0, 1.0]}", "velocity: {value: 0.0}") + (
        "environment:\n  observations:\n    state: {goal: 1, v: 4, q: [knee, coxa]}\n  actions: {torque: [knee, hip]}\n"
    )
    obs = mapped(tmp_path, text, Silent()).get_observations()
    assert obs["policy"].tolist() == [[12.5, 15.5, 0, 0, 0, 0, -1.5, 7]]


def test_the_same_layout_needs_no_map():
    class Same(Other):
        observation_terms = {"policy": tuple(map(Term.from_dict, LAYOUT["observations"]["policy"]["terms"]))}
        action_terms = tuple(map(Term.from_dict, LAYOUT["actions"]))

        def get_observations(self):
            return TensorDict({"policy": torch.arange(8.0)[None]}, batch_size=[1])

    env = MappedEnv(Same(), LAYOUT, LayoutMap(), ["policy"])
    assert env.get_observations()["policy"].tolist() == [list(range(8))]
    env.step(torch.tensor([[1.0, -2.0]]))
    assert env.env.taken.tolist() == [[1.0, -2.0]]
    assert (env.num_envs, env.max_episode_length, env.render()) == (1, 9, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("group: state", "group: stat", r"in observations.policy.group: 'stat': did you mean 'state'"),
        ("  policy:", "  polcy:", r"group of the policy in observations: 'polcy': did you mean 'policy'"),
        ("position: {term: q", "positon: {term: q", r"in observations.policy.terms: 'positon': did you mean 'pos"),
        ("term: q,", "term: w,", r"observations.policy.terms.position: term of the environment 'w': expected one of"),
        ("hip: coxa", "hips: coxa", r"element in .*terms.position.elements: 'hips': did you mean 'hip'"),
        ("hip: coxa", "hip: cxa", r"of the other side in .*position.elements: 'cxa': did you mean 'coxa'"),
        ("hip: coxa", "hip: knee", r"position.elements: two elements are made of 'knee'"),
        ("[2.0, 3.0]", "[2.0]", r"observations.policy.terms.position.scale: found 1 numbers, expected one or 2"),
        ("[2.0, 3.0]", "two", r"observations.policy.terms.position.scale: expected a number or a list of numbers"),
        ("term: v", "term: q", r"terms.velocity: 'q' has 2 values of 1 control steps, expected 4 of 2"),
        ("{value: -1.5}", "{value: 1, scale: 2}", r"terms.force.value: a constant has no scale"),
        ("{value: -1.5}", "{valeu: 1}", r"unknown key 'observations.policy.terms.force.valeu': did you mean"),
        ("motors:", "motor:", r"term of the policy in actions: 'motor': did you mean 'motors'"),
        ("term: torque", "term: torqe", r"nothing of the policy's goes to the environment's term 'torque'"),
        ("actions:", "action:", r"unknown key 'action': did you mean 'actions'"),
        ("term: torque,", "value: 1,", r"unknown key 'actions.motors.value'"),
        ("actions:", "environment: {actions: {torque: 0}}\nactions:", r"actions.torque: expected a size of 1 or more"),
        ("actions:", "environment: {actions: {torque: 3}}\nactions:", r"environment.actions: the terms have 3 numbers"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, old: str, new: str, message: str):
    assert old in MAP
    with pytest.raises(UserError, match=message) as caught:
        mapped(tmp_path, MAP.replace(old, new))
    assert "\n" not in str(caught.value)


def test_layouts_without_terms_meet_by_their_sizes(tmp_path):
    plain = {"observations": {"state": {"shape": [7], "dtype": "float32"}}, "num_actions": 2}
    env = MappedEnv(Other(), plain, LayoutMap(), ["state"])
    assert env.get_observations()["state"].shape == (1, 7)
    with pytest.raises(UserError, match=r"observations.state: the group has size \[7\], the policy reads \[6\]"):
        MappedEnv(Other(), {**plain, "observations": {"state": {"shape": [6]}}}, LayoutMap(), ["state"])
    with pytest.raises(UserError, match="the environment takes 2 actions, the policy gives 3"):
        MappedEnv(Other(), {**plain, "num_actions": 3}, LayoutMap(), ["state"])


def test_what_is_not_about_layout_is_the_inner_environments():
    """Also what ``VecEnv`` has a default for, which Python would find first."""
    inner = SteeredPointEnv(num_envs=3)
    inner.restores_exactly, inner.one_per_process = False, True
    env = MappedEnv(inner, describe_layout(inner), LayoutMap(), ["policy"])
    assert (env.restores_exactly, env.one_per_process) == (False, True)
    assert env.state_is_cheap == inner.state_is_cheap
    assert [command.name for command in env.command_terms] == [command.name for command in inner.command_terms]
    assert env.reset_envs(torch.tensor([1]))
    state = env.state_dict()
    assert state is not None
    env.step(torch.zeros(3, env.num_actions))
    env.load_state_dict(state)
    assert torch.equal(env.get_observations()["policy"], inner.get_observations()["policy"])
