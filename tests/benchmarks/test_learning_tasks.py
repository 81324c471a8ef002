"""The tasks of the learning benchmark keep the contract, and are what the benchmark says of them."""

import sys
from pathlib import Path

import pytest
import torch

from sim_rl_plugin.env import check_env

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from learning_tasks import Image, Memory, Reach, Trot, mirrored_trot


@pytest.mark.parametrize("task", [Memory, Image, Trot])
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
