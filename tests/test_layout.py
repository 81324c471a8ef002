"""A policy and an environment that do not fit each other: what is told, term by term."""

import pytest
import torch
from tensordict import TensorDict

from sim_rl_plugin.env import Term
from sim_rl_plugin.env.clip_actions import ClipActions
from sim_rl_plugin.layout import check_layout, describe_layout
from sim_rl_plugin.testing import PointEnv

JOINTS = ("hip", "thigh", "calf")


class _Robot:
    """As much of an environment as a layout looks at."""

    def __init__(self, terms=None, actions=(), group_size=None, num_actions=3):
        self.num_envs = 2
        self.num_actions = num_actions
        self.size = sum(term.size for term in terms) if group_size is None else group_size
        self.observation_terms = {} if terms is None else {"policy": terms}
        self.action_terms = actions

    def get_observations(self):
        return TensorDict({"policy": torch.zeros(self.num_envs, self.size)}, batch_size=[self.num_envs])


def _joint_terms(velocities=3, **more):
    return [Term("joint_pos", (3,), JOINTS, **more), Term("joint_vel", (velocities,))]


def _message(then, now):
    with pytest.raises(ValueError, match="the policy belongs to another robot") as caught:
        check_layout(describe_layout(then), now)
    return str(caught.value).removeprefix("the policy belongs to another robot: ")


def test_the_same_robot_passes_whatever_its_number():
    layout = describe_layout(PointEnv(num_actions=2))
    check_layout(layout, PointEnv(num_envs=3, num_actions=2))
    check_layout(layout, ClipActions(PointEnv(num_actions=2), 1.0))
    check_layout(None, PointEnv(num_actions=3))


def test_a_layout_is_plain_data_with_what_is_known():
    layout = describe_layout(_Robot(_joint_terms(scale=0.5), [Term("effort", (3,), JOINTS, offset=1.0)]))
    assert layout == {
        "observations": {
            "policy": {
                "shape": [6],
                "dtype": "float32",
                "terms": [
                    {"name": "joint_pos", "shape": [3], "elements": ["hip", "thigh", "calf"], "scale": 0.5},
                    {"name": "joint_vel", "shape": [3]},
                ],
            }
        },
        "num_actions": 3,
        "actions": [{"name": "effort", "shape": [3], "elements": ["hip", "thigh", "calf"], "offset": 1.0}],
    }
    assert Term.from_dict(layout["actions"][0]) == Term("effort", (3,), JOINTS, offset=1.0)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (
            _joint_terms(velocities=12),
            "term 'joint_vel' of group 'policy' has 12 values, the policy was trained with 3",
        ),
        (_joint_terms()[:1], "term 'joint_vel' of group 'policy' is missing (3 values)"),
        ([*_joint_terms(), Term("height_scan", (9,))], "term 'height_scan' of group 'policy' is unknown to the policy"),
        (
            _joint_terms()[::-1],
            "the order of the terms of group 'policy' is joint_vel, joint_pos, the policy was trained with "
            "joint_pos, joint_vel",
        ),
        (
            [Term("joint_pos", (3,), ("thigh", "hip", "calf")), Term("joint_vel", (3,))],
            "term 'joint_pos' of group 'policy': element 0 is 'thigh', the policy was trained with 'hip'",
        ),
        (
            [Term("joint_pos", (3,), history=3), Term("joint_vel", (3,))],
            "term 'joint_pos' of group 'policy' holds 3 control steps, the policy was trained with 1",
        ),
    ],
)
def test_what_makes_it_another_robot(now, expected):
    assert expected in _message(_Robot(_joint_terms()), _Robot(now))


def test_several_differences_are_told_at_once():
    message = _message(_Robot(_joint_terms()), _Robot([Term("height_scan", (9,)), Term("joint_vel", (4,))]))
    assert message == (
        "term 'joint_pos' of group 'policy' is missing (3 values); "
        "term 'joint_vel' of group 'policy' has 4 values, the policy was trained with 3; "
        "term 'height_scan' of group 'policy' is unknown to the policy (9 values)"
    )


def test_without_terms_on_one_side_sizes_are_compared():
    named, nameless = _Robot(_joint_terms()), _Robot(group_size=7, num_actions=2)
    assert _message(named, nameless) == (
        "observation group 'policy' has size 7, the policy reads 6 (joint_pos 3, joint_vel 3); "
        "the environment takes 2 actions, the policy gives 3"
    )
    check_layout(describe_layout(named), _Robot(group_size=6))


def test_actions_are_compared_by_term():
    then = _Robot(_joint_terms(), [Term("leg", (2,)), Term("gripper", (1,))])
    now = _Robot(_joint_terms(), [Term("leg", (2,)), Term("gripper", (2,))], num_actions=4)
    assert _message(then, now) == "term 'gripper' of the actions has 2 values, the policy was trained with 1"


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        (
            _joint_terms(),
            [Term("joint_pos", (3,), JOINTS), Term("joint_vel_rel", (3,))],
            "term 'joint_vel' of group 'policy' is called 'joint_vel_rel' here",
        ),
        (
            _joint_terms(scale=0.05),
            _joint_terms(scale=1.0),
            "term 'joint_pos' of group 'policy' has the scale 1, the policy was trained with 0.05",
        ),
        (
            _joint_terms(offset=(0.1, 0.2, 0.3)),
            _joint_terms(offset=0.1),
            "term 'joint_pos' of group 'policy' has the offset 0.1, the policy was trained with [0.1, 0.2, 0.3]",
        ),
        (
            _joint_terms(),
            [Term("joint_pos", (3,), ("hip", "thigh", "knee")), Term("joint_vel", (3,))],
            "term 'joint_pos' of group 'policy': element 2 is 'knee', the policy was trained with 'calf'",
        ),
    ],
)
def test_what_may_be_meant_is_a_warning(then, now, expected):
    with pytest.warns(UserWarning, match="is this meant") as caught:
        check_layout(describe_layout(_Robot(then)), _Robot(now))
    assert [str(warning.message) for warning in caught] == [f"{expected}: is this meant?"]


def test_a_scale_for_all_equals_the_same_for_each(recwarn):
    check_layout(describe_layout(_Robot(_joint_terms(scale=0.1))), _Robot(_joint_terms(scale=(0.1, 0.1, 0.1))))
    # What only one of them knows is not compared.
    check_layout(describe_layout(_Robot(_joint_terms(scale=0.1))), _Robot(_joint_terms()))
    assert not recwarn.list


def test_attributes_of_other_meaning_are_left_alone():
    robot = _Robot(_joint_terms())
    robot.observation_terms, robot.action_terms = ["joint_pos"], {"joint_pos": 3}
    assert describe_layout(robot) == {"observations": {"policy": {"shape": [6], "dtype": "float32"}}, "num_actions": 3}
