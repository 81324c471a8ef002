"""Terms out of the managers of Isaac Lab and mjlab; the real ones are in the adapters' tests."""

from types import SimpleNamespace

import pytest
import torch

from sim_rl_plugin.env import Term
from sim_rl_plugin.env.manager_terms import manager_action_terms, manager_observation_terms

JOINTS = ["hip", "knee", "wheel"]


ROBOT = SimpleNamespace(name="robot", joint_ids=slice(None))


def joint_pos_rel(env, asset_cfg=ROBOT):
    raise NotImplementedError


def height_scan(env):
    raise NotImplementedError


def _cfg(func, scale=None, history_length=0, **params):
    return SimpleNamespace(func=func, params=params, scale=scale, history_length=history_length)


def _base(names, shapes, settings=None, concatenated=True):
    manager = SimpleNamespace(
        active_terms={"policy": names},
        group_obs_term_dim={"policy": shapes},
        group_obs_concatenate={"policy": concatenated},
    )
    if settings is not None:
        manager._group_obs_term_cfgs = {"policy": settings}
    return SimpleNamespace(observation_manager=manager, scene={"robot": SimpleNamespace(joint_names=JOINTS)})


def test_joints_scale_and_history_come_from_the_settings():
    legs = SimpleNamespace(name="robot", joint_ids=[1, 0])
    base = _base(
        ["all", "legs", "scan"],
        [(3,), (10,), (4,)],
        [
            _cfg(joint_pos_rel),
            _cfg(joint_pos_rel, torch.tensor([0.5, 2.0]), history_length=5, asset_cfg=legs),
            _cfg(height_scan),
        ],
    )
    assert manager_observation_terms(base, "/") == {
        "policy": (
            Term("all", (3,), ("hip", "knee", "wheel"), scale=1.0),
            Term("legs", (10,), ("knee", "hip"), scale=(0.5, 2.0), history=5),
            Term("scan", (4,), scale=1.0),
        )
    }


def test_terms_that_are_not_concatenated_are_groups():
    base = _base(["a", "image"], [(3,), (4, 5, 3)], concatenated=False)
    assert manager_observation_terms(base, "/") == {
        "policy/a": (Term("a", (3,)),),
        "policy/image": (Term("image", (4, 5, 3)),),
    }
    # Concatenated along another axis, they do not stand one behind the other.
    assert manager_observation_terms(_base(["a", "b"], [(2, 3), (2, 4)]), "/") == {}


def test_without_managers_nothing_is_told():
    assert manager_observation_terms(object(), "/") == {}
    assert manager_action_terms(object()) == ()


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (0.5, 0.5),
        (torch.tensor([[1.0, 2.0], [1.0, 2.0]]), (1.0, 2.0)),
        (torch.tensor([[1.0, 2.0], [1.0, 3.0]]), None),  # randomised per environment
    ],
)
def test_scales_of_actions(scale, expected):
    term = SimpleNamespace(action_dim=2, _scale=scale, _joint_names=["hip", "knee"])
    manager = SimpleNamespace(active_terms=["legs"], get_term=lambda name: term)
    found = manager_action_terms(SimpleNamespace(action_manager=manager))
    assert found == (Term("legs", (2,), ("hip", "knee"), scale=expected),)
