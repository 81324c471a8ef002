"""Observation groups beside `policy`, made of the observation's terms."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from sim_rl_mujoco import open_task
from sim_rl_mujoco.tasks import task_names

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.testing import VecEnvContract

EXAMPLE = Path(__file__).parents[3] / "examples" / "cartpole_swingup" / "cartpole.py"
GROUPS = {"proprioception": ["position"], "privileged": ["contact_force", "velocity"]}


class TestAntWithGroups(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("Ant", num_envs=4, max_episode_steps=20, observation_groups=GROUPS)


def test_the_terms_of_every_group_are_told() -> None:
    with open_task("Ant", num_envs=2, observation_groups=GROUPS) as env:
        sizes = {group: {term.name: term.size for term in terms} for group, terms in env.observation_terms.items()}
        assert sizes == {
            "policy": {"position": 13, "velocity": 14, "contact_force": 78},
            "proprioception": {"position": 13},
            "privileged": {"contact_force": 78, "velocity": 14},
        }
        assert [(term.size, len(term.elements)) for term in env.action_terms] == [(8, 8)]


def test_groups_are_slices_of_the_observation_in_every_step_and_change_nothing_else() -> None:
    """Ant: 13 positions (height, quaternion, 8 joints), 14 velocities, 78 = 13 bodies x 6 contact forces."""
    generator = torch.Generator().manual_seed(0)
    with (
        open_task("Ant", num_envs=3, seed=5, max_episode_steps=15, observation_groups=GROUPS) as env,
        open_task("Ant", num_envs=3, seed=5, max_episode_steps=15) as plain,
    ):
        assert set(plain.get_observations().keys()) == {"policy"}
        saw_contact = False
        for _ in range(40):
            actions = 2.0 * torch.rand(3, 8, generator=generator) - 1.0
            (obs, rewards, _, extras), (expected, their_rewards, _, their_extras) = (
                env.step(actions),
                plain.step(actions),
            )
            assert torch.equal(obs["policy"], expected["policy"])
            assert torch.equal(rewards, their_rewards)
            groups = [obs]
            if "final_obs" in extras:
                groups.append(extras["final_obs"])
                assert torch.equal(extras["final_obs"]["policy"], their_extras["final_obs"]["policy"])
            for group in groups:
                position, velocity, contact = group["policy"].split([13, 14, 78], dim=1)
                assert torch.equal(group["proprioception"], position)
                assert torch.equal(group["privileged"], torch.cat([contact, velocity], dim=1))
            saw_contact |= bool(obs["privileged"][:, :78].any())
        assert saw_contact


@pytest.mark.parametrize("task", task_names())
def test_all_terms_of_a_task_together_are_its_observation(task: str) -> None:
    with open_task(task, num_envs=2) as env:
        names = list(env.driver.observation_terms(env.engine.field))
    with open_task(task, num_envs=2, observation_groups={"everything": names}) as env:
        obs = env.step(torch.zeros(2, env.num_actions))[0]
        assert torch.equal(obs["everything"], obs["policy"])
        assert env.cfg["task_options"]["observation_groups"] == {"everything": names}


def test_a_saved_state_holds_the_groups() -> None:
    actions = torch.full((2, 8), 0.3)
    with open_task("Ant", num_envs=2, observation_groups=GROUPS) as env:
        for _ in range(5):
            env.step(actions)
        state = env.state_dict()
        expected = env.step(actions)[0]
    with open_task("Ant", num_envs=2, observation_groups=GROUPS, seed=9) as env:
        env.load_state_dict(state)
        found = env.step(actions)[0]
    for name, values in expected.items():
        assert torch.equal(found[name], values)


@pytest.mark.parametrize(
    ("task", "groups", "message"),
    [
        ("Ant", {"legs": ["positon"]}, "unknown observation term in observation_groups.legs: 'positon': did you mean"),
        (
            "Ant",
            {"legs": []},
            "observation_groups.legs: expected some of position, velocity, contact_force, found none",
        ),
        ("Ant", {"policy": ["position"]}, "observation_groups.policy: this group is always the whole observation"),
        (f"{EXAMPLE}:CartpoleSwingup", {"a": ["position"]}, "makes its own groups, in its method `observations`"),
    ],
)
def test_mistakes_name_what_to_change(task: str, groups: dict, message: str) -> None:
    with pytest.raises(UserError, match=message), open_task(task, num_envs=1, observation_groups=groups):
        pass
