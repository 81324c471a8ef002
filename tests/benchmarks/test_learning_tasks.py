"""The tasks of the learning benchmark keep the contract, and are what the benchmark says of them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sim_rl_plugin.env import check_env
from sim_rl_plugin.plotting import Curve

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import learning
from learning_tasks import Image, Memory, Reach, Trot, Valley, mirrored_trot


@pytest.mark.parametrize("task", [Memory, Image, Valley, Trot])
def test_a_task_keeps_the_contract(task):
    assert check_env(task(8)) == []


@pytest.mark.parametrize("task", [Reach, Memory])
def test_going_straight_to_the_target_returns_one(task):
    env = task(8)
    total = torch.zeros(8)
    target = env.state["target"]
    for _ in range(env.max_episode_length):
        actions = (target - env.state["position"]) / env.step_size
        total += env.step(actions)[1]
    torch.testing.assert_close(total, torch.ones(8))


def test_the_cue_is_zero_once_it_was_shown():
    env = Memory(4)
    cues = [env.get_observations()["cue"]]
    cues += [env.step(torch.zeros(4, 2))[0]["cue"] for _ in range(env.num_shown)]
    assert all(cue.abs().sum() > 0 for cue in cues[:-1]) and not cues[-1].any()


def test_mirrored_actions_in_mirrored_states_earn_the_same():
    env = Trot(16)
    actions = torch.rand(16, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    obs, images = mirrored_trot(env, env.get_observations(), actions)
    command, velocity, feet, clock = obs["policy"].split((3, 3, 8, 2), dim=-1)
    mirrored = Trot(64)
    angle = torch.atan2(clock[:, 0], clock[:, 1]) * mirrored.num_stance / torch.pi
    mirrored.state = {
        "command": command, "velocity": velocity, "feet": feet.view(-1, 4, 2) * mirrored.reach,
        "clock": angle.round().long() % (2 * mirrored.num_stance),
    }  # fmt: skip
    torch.testing.assert_close(mirrored.step(images)[1], env.step(actions)[1].repeat(4))


def _mean_return(env: Valley, drive) -> float:
    total, running = torch.zeros(env.num_envs), torch.ones(env.num_envs, dtype=torch.bool)
    for _ in range(env.max_episode_length):
        _, rewards, dones, _ = env.step(drive(env.state["speed"]).unsqueeze(-1))
        total += rewards * running
        running &= ~dones
    return float(total.mean())


def test_swinging_leaves_the_valley_and_driving_straight_does_not():
    assert _mean_return(Valley(64), lambda speed: torch.where(speed >= 0, 1.0, -1.0)) > 0.94
    # Full force throughout costs a tenth.
    assert _mean_return(Valley(64), torch.ones_like) == pytest.approx(-Valley.full_effort, abs=1e-5)
    assert _mean_return(Valley(64), torch.zeros_like) == 0.0


def test_pictures_are_bytes_and_the_spots_are_where_the_target_and_the_distraction_are():
    env = Image(16)
    camera = env.get_observations()["camera"]
    assert camera.dtype == torch.uint8
    places = torch.linspace(-1.2, 1.2, env.pixels)
    for channel, name in ((0, "target"), (2, "distraction")):
        brightest = camera[:, channel].flatten(1).argmax(dim=-1)
        found = torch.stack((places[brightest % env.pixels], places[brightest // env.pixels]), dim=-1)
        torch.testing.assert_close(found, env.state[name], atol=0.07, rtol=0.0)  # half a pixel is 0.063


def _outcomes(finals, steps):
    """Outcomes whose curves reach 1 after ``steps``, or never where that is None."""
    reached = [[0.0, 0.0] if at is None else [0.0, 1.0] for at in steps]
    curves = [Curve("", np.array([0.0, at or 1.0]), np.array(y)) for at, y in zip(steps, reached, strict=True)]
    return [learning.Outcome(final, curve, 0.0) for final, curve in zip(finals, curves, strict=True)]


def test_claims_are_about_every_seed():
    sees, blind, lucky = _outcomes([0.95, 0.91], [1, 1]), _outcomes([0.2, 0.22], [1, 1]), _outcomes([0.2, 0.5], [1, 1])
    assert learning.only_last_is_blind({"CNN": sees, "MLP": blind}, 0.2)
    assert not learning.only_last_is_blind({"CNN": sees, "MLP": lucky}, 0.2)
    assert not learning.only_last_is_blind({"CNN": lucky, "MLP": blind}, 0.2)
    stuck = _outcomes([0.0, -0.01], [None, None])
    assert learning.only_first_arrives({"RND": sees, "PPO": stuck})
    assert not learning.only_first_arrives({"RND": sees, "PPO": blind})


def test_a_race_is_won_by_every_seed_against_every_seed():
    fast, slow, never = _outcomes([1, 1], [100, 200]), _outcomes([1, 1], [300, 400]), _outcomes([0, 0], [None, None])
    assert learning.first_is_faster({"a": fast, "b": slow}, 0.9) and learning.first_is_faster(
        {"a": fast, "b": never}, 0.9
    )
    assert not learning.first_is_faster({"a": _outcomes([1, 1], [100, 350]), "b": slow}, 0.9)
    assert not learning.first_is_faster({"a": never, "b": never}, 0.9)
    assert learning.step_ratios({"a": fast, "b": slow}, "a", 0.9) == [0.33, 0.5]
    assert learning.step_ratios({"a": fast, "b": never}, "a", 0.9) == [None, None]
