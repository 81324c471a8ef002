"""What Gymnasium's MuJoCo tasks tell of themselves is what our own adapter of the same robots tells."""

import warnings

import pytest
from sim_rl_gymnasium.open import open_task
from sim_rl_mujoco.open import open_task as open_own

from sim_rl_plugin.layout import check_layout, describe_layout

WITH_TERMS = ["Ant", "HalfCheetah", "Hopper", "Humanoid", "InvertedPendulum", "Swimmer", "Walker2d"]


@pytest.mark.parametrize("task", WITH_TERMS)
def test_a_policy_of_either_is_at_home_in_the_other(task: str):
    with open_own(task, num_envs=1) as ours, open_task(task, num_envs=1) as theirs, warnings.catch_warnings():
        warnings.simplefilter("error")  # a name that differs would be a warning
        layouts = describe_layout(ours), describe_layout(theirs)
        assert layouts[0] == layouts[1]
        assert layouts[1]["observations"]["policy"]["terms"][0]["elements"]
        check_layout(layouts[0], theirs)
        check_layout(layouts[1], ours)


def test_what_a_wrapper_may_change_is_not_told():
    with open_task("HalfCheetah", num_envs=1, wrappers=["NormalizeObservation"]) as env:
        assert (env.observation_terms, env.action_terms) == ({}, ())


def test_tasks_without_a_structure_tell_their_actuators():
    with open_task("Reacher", num_envs=1) as env:
        layout = describe_layout(env)
        assert "terms" not in layout["observations"]["policy"]
        assert [len(term["elements"]) for term in layout["actions"]] == [2]
    with open_task("Pendulum", num_envs=1) as env:
        assert "actions" not in describe_layout(env)
