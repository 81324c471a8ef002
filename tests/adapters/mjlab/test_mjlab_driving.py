"""Commands of mjlab's own tasks, held while they are drawn, computed from the heading, and reset."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mjlab")

import mjlab_tasks
from sim_rl_mjlab.open import open_task

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("final_observations", [True, False])
def test_a_velocity_is_held_and_seen_by_the_policy(final_observations: bool) -> None:
    # 0.5 s at 0.02 s a step: every episode ends within 25 steps.
    options = {"episode_length_s": 0.5}
    with open_task(mjlab_tasks.GO1, num_envs=4, task_options=options, final_observations=final_observations) as env:
        (command,) = env.command_terms
        assert (command.name, command.elements) == ("twist", ("lin_vel_x", "lin_vel_y", "ang_vel_z"))
        assert all(low < high for low, high in command.ranges)
        (group,) = [name for name, terms in env.observation_terms.items() if terms[-1].name == "command"][:1]

        held = torch.tensor([0.7, -0.1, 0.3])
        env.hold_command("twist", held)
        ended = torch.zeros(4, dtype=torch.bool)
        for _ in range(30):
            obs, _, dones, _ = env.step(torch.zeros(4, env.num_actions))
            ended |= dones
            torch.testing.assert_close(obs[group][:, -3:], held.expand(4, 3))
        assert ended.all()

        env.hold_command("twist", None)
        for _ in range(30):
            env.step(torch.zeros(4, env.num_actions))
        assert (env.get_command("twist") != held).any(dim=-1).all()


def test_a_task_without_commands_has_none() -> None:
    with open_task(mjlab_tasks.CARTPOLE, num_envs=2) as env:
        assert env.command_terms == ()


def test_a_state_is_saved_and_restored_while_a_command_is_held() -> None:
    with open_task(mjlab_tasks.GO1, num_envs=2) as env:
        env.hold_command("twist", torch.tensor([0.5, 0.0, 0.0]))
        state = env.state_dict()
        torch.manual_seed(1)  # the noise of the observations
        first = env.step(torch.zeros(2, env.num_actions))[0]
        env.load_state_dict(state)
        torch.manual_seed(1)
        second = env.step(torch.zeros(2, env.num_actions))[0]
        assert all(torch.equal(first[name], second[name]) for name in first.keys())


def test_the_picture_follows_the_environment_that_is_shown() -> None:
    with open_task(mjlab_tasks.CARTPOLE, num_envs=2, render=True) as env:
        env.step(torch.tensor([[-1.0], [1.0]]))
        first = env.render()
        assert env.show_env(1)
        assert (env.render() != first).any()
