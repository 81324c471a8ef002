"""The ten built-in tasks against Gymnasium's own version 5, which was not written here."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch
from sim_rl_mujoco import open_task
from sim_rl_mujoco.tasks import task_names

from sim_rl_plugin.errors import UserError

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("gymnasium.envs.mujoco")

STEPS = {"Humanoid": 120, "Ant": 150, "Pusher": 230}
ENVS = 3


def model_arrays(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    # A compiled model also keeps where it was read from; the numbers are what must agree.
    return {
        name: getattr(model, name)
        for name in dir(model)
        if not name.startswith("_") and isinstance(getattr(model, name), np.ndarray)
    }


@pytest.mark.parametrize("task", task_names())
def test_the_model_is_gymnasiums_field_by_field(task: str) -> None:
    theirs = gymnasium.make(f"{task}-v5").unwrapped.model
    with open_task(task, num_envs=1) as env:
        ours = env.engine.model
        assert ours.opt.timestep == theirs.opt.timestep
        assert ours.opt.integrator == theirs.opt.integrator
        np.testing.assert_array_equal(ours.opt.gravity, theirs.opt.gravity)
        expected = model_arrays(theirs)
        assert len(expected) > 200
        for name, values in model_arrays(ours).items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
        assert ours.names == theirs.names


def start_alike(theirs: gymnasium.Env, env, index: int) -> np.ndarray:
    """Put Gymnasium's environment into the state that ours starts an episode from."""
    theirs.reset()
    mujoco.mj_resetData(theirs.model, theirs.data)
    theirs.set_state(env.engine.field("qpos")[index], env.engine.field("qvel")[index])
    return theirs._get_obs()


@pytest.mark.parametrize("task", task_names())
def test_every_step_is_gymnasiums_bit_for_bit(task: str) -> None:
    """Observation, reward, termination and time-out of several episodes, in float64."""
    limit = 40
    theirs = [gymnasium.make(f"{task}-v5").unwrapped for _ in range(ENVS)]
    random = np.random.default_rng(1)
    ends = 0
    with open_task(task, num_envs=ENVS, seed=3, num_threads=2, max_episode_steps=limit) as env:
        first = np.stack([start_alike(other, env, i) for i, other in enumerate(theirs)])
        np.testing.assert_array_equal(env.driver.observation_float64(), first)
        low, high = env.driver.action_range
        steps_in_episode = np.zeros(ENVS, dtype=int)
        for _ in range(STEPS.get(task, 200)):
            actions = torch.from_numpy(random.uniform(1.2 * low, 1.2 * high, (ENVS, env.num_actions))).float()
            clipped = np.clip(actions.numpy().astype(np.float64), low, high)
            expected = [other.step(action) for other, action in zip(theirs, clipped, strict=True)]
            obs, rewards, dones, extras = env.step(actions)
            steps_in_episode += 1
            want_rewards = np.array([float(step[1]) for step in expected])
            terminated = np.array([step[2] for step in expected])
            np.testing.assert_array_equal(env.driver.rewards_float64, want_rewards)
            np.testing.assert_array_equal(rewards.numpy(), want_rewards.astype(np.float32))
            np.testing.assert_array_equal(extras["time_outs"].numpy(), (steps_in_episode >= limit) & ~terminated)
            np.testing.assert_array_equal(dones.numpy(), terminated | (steps_in_episode >= limit))
            for key, values in expected[0][4].items():
                if key in extras["log"]:
                    mean = np.mean([step[4][key] for step in expected])
                    assert extras["log"][key] == pytest.approx(mean), (key, values)
            want = np.stack([step[0] for step in expected])
            for i in np.flatnonzero(dones.numpy()):
                ends += 1
                np.testing.assert_array_equal(extras["final_obs"]["policy"][i].numpy(), want[i].astype(np.float32))
                want[i] = start_alike(theirs[i], env, i)
                steps_in_episode[i] = 0
            np.testing.assert_array_equal(env.driver.observation_float64(), want)
            np.testing.assert_array_equal(obs["policy"].numpy(), want.astype(np.float32))
    assert ends >= 2 * ENVS


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("Ant", {"main_body": "front_left_leg", "contact_force_range": (-5.0, 5.0), "ctrl_cost_weight": 0.3}),
        ("Ant", {"include_cfrc_ext_in_observation": False, "exclude_current_positions_from_observation": False}),
        ("Humanoid", {"include_cinert_in_observation": False, "include_qfrc_actuator_in_observation": False}),
        ("Hopper", {"terminate_when_unhealthy": False, "healthy_state_range": (-1.0, 1.0)}),
        ("HalfCheetah", {"frame_skip": 2, "forward_reward_weight": 2.5}),
        ("Reacher", {"reward_dist_weight": 3.0}),
    ],
)
def test_task_options_are_gymnasiums(task: str, options: dict) -> None:
    theirs = gymnasium.make(f"{task}-v5", **options).unwrapped
    random = np.random.default_rng(1)
    with open_task(task, num_envs=1, seed=3, task_options=options, max_episode_steps=10**6) as env:
        start_alike(theirs, env, 0)
        for _ in range(30):
            action = random.uniform(*env.driver.action_range).astype(np.float32)
            want, reward, terminated, _, _ = theirs.step(action.astype(np.float64))
            _, _, dones, _ = env.step(torch.from_numpy(action)[None])
            assert env.driver.rewards_float64[0] == reward
            assert bool(dones[0]) == terminated
            if terminated:
                want = start_alike(theirs, env, 0)
            np.testing.assert_array_equal(env.driver.observation_float64()[0], want)


@pytest.mark.parametrize("task", task_names())
def test_reset_noise_has_gymnasiums_distribution(task: str) -> None:
    """Range and spread of 400 first states, ours against Gymnasium's."""
    other = gymnasium.make(f"{task}-v5").unwrapped
    other.reset(seed=0)
    theirs = []
    for _ in range(400):
        other.reset()
        theirs.append(np.concatenate([other.data.qpos, other.data.qvel]))
    with open_task(task, num_envs=400, seed=1) as env:
        ours = np.concatenate([env.engine.field("qpos"), env.engine.field("qvel")], axis=1)
    want = np.stack(theirs)
    spread = want.std(axis=0)
    # Mean of 400: 5 standard errors of a difference are 0.36 of a spread; of a spread about as much.
    np.testing.assert_allclose((ours.mean(axis=0) - want.mean(axis=0)) / (spread + 1e-12), 0.0, atol=0.36)
    np.testing.assert_allclose(ours.std(axis=0), spread, rtol=0.25, atol=1e-12)
    bound = 1.0 + 0.3 * np.abs(want).max(axis=0)
    assert (np.abs(ours) <= bound * np.maximum(1.0, np.abs(want).max(axis=0))).all()


def test_names_of_gymnasium_are_accepted_and_typos_get_a_suggestion() -> None:
    with open_task("Hopper-v5", num_envs=1) as env:
        assert env.name == "Hopper"
    with pytest.raises(UserError, match="did you mean 'HalfCheetah'"), open_task("HalfCheeta", num_envs=1):
        pass
    with pytest.raises(UserError, match="unknown task 'Ant-v4'"), open_task("Ant-v4", num_envs=1):
        pass
    with (
        pytest.raises(UserError, match=r"did you mean 'env.task_options.reset_noise_scale'"),
        open_task("Ant", num_envs=1, task_options={"reset_noise": 0.0}),
    ):
        pass
