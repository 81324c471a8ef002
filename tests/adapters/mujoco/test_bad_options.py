"""Options of the adapter that are wrong in every way: the task opens and steps, or it is one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fuzzing import ODD_TEXTS, attempt, short
from hypothesis import given
from hypothesis import strategies as st

from sim_rl_plugin.config import load_config
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.simulation import open_env

# Without the numbers that are right and take all memory or all day.
values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.sampled_from(ODD_TEXTS), st.lists(st.integers(-2, 2)),
    st.sampled_from([10**30, -(2**63)]), st.dictionaries(st.sampled_from(["a", "policy", ""]), st.just(["position"])),
)  # fmt: skip
OPTIONS = ["num_threads", "max_episode_steps", "clip_actions", "task_options", "observation_groups", "render_width",
           "render_height", "render_camera"]  # fmt: skip
TASK_OPTIONS = ["reset_noise_scale", "frame_skip", "xml_file", "no_such"]


def _open(task: str, options: dict[str, Any]) -> None:
    config = load_config("mujoco", task, options={"env": options})
    with open_env(config, device="cpu", num_envs=2) as env:
        env.step(torch.zeros(2, env.num_actions))


@short(40)
@given(st.dictionaries(st.sampled_from(OPTIONS), values, max_size=2))
def test_options(options: dict[str, Any]):
    attempt("MuJoCo, options", lambda: _open("InvertedPendulum", options))


@short(40)
@given(st.dictionaries(st.sampled_from(TASK_OPTIONS), values, min_size=1, max_size=2))
def test_task_options(options: dict[str, Any]):
    attempt("MuJoCo, task options", lambda: _open("InvertedPendulum", {"task_options": options}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_options": {"reset_noise": 1.0}}, "did you mean 'env.task_options.reset_noise_scale'?"),
        (
            {"task_options": {"reset_noise_scale": "x"}},
            "env.task_options.reset_noise_scale: expected a number, found 'x'",
        ),
        ({"task_options": {"reset_noise_scale": -1.0}}, "cannot be made with reset_noise_scale: -1.0 (high - low < 0)"),
        ({"task_options": {"frame_skip": 2.5}}, "env.task_options.frame_skip: expected an integer, found 2.5"),
        ({"task_options": {"xml_file": "no.xml"}}, "the model no.xml cannot be loaded"),
        ({"render_width": 0}, "env.render_width must be at least 1, found 0"),
        ({"observation_groups": {"a": ["positoin"]}}, "did you mean 'position'?"),
    ],
)
def test_what_is_wrong_is_named(options: dict[str, Any], message: str):
    error = attempt("MuJoCo, by hand", lambda: _open("InvertedPendulum", options))
    assert isinstance(error, UserError)
    assert message in str(error)
