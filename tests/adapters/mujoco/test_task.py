"""A user's own robot, with the example as the robot."""

from __future__ import annotations

import math
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
import yaml
from sim_rl_mujoco import MujocoTask, MujocoVecEnv, State, open_task
from sim_rl_mujoco.task import TaskDriver

from sim_rl_plugin.env import Term
from sim_rl_plugin.errors import UserError

EXAMPLE = Path(__file__).parents[3] / "examples" / "cartpole_swingup"
TASK = f"{EXAMPLE / 'cartpole.py'}:CartpoleSwingup"

FALLING = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 0.1"/>
    <body name="ball" pos="0 0 1">
      <freejoint name="root"/>
      <geom type="sphere" size="0.1" mass="2"/>
      <site name="top" pos="0 0 0.1"/>
    </body>
    <body name="arm" pos="2 0 1">
      <joint name="elbow" type="hinge" axis="0 1 0"/>
      <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.03"/>
    </body>
  </worldbody>
  <actuator><motor name="elbow" joint="elbow" ctrlrange="-1 1" ctrllimited="true"/></actuator>
  <sensor><framepos name="top" objtype="site" objname="top"/><jointpos name="elbow" joint="elbow"/></sensor>
</mujoco>
"""


class Ball(MujocoTask):
    decimation = 5
    episode_length_s = 1.0

    def build_model(self) -> mujoco.MjModel:
        return mujoco.MjModel.from_xml_string(FALLING)

    def observations(self, state: State, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"policy": torch.cat([state.qpos, state.qvel], dim=1), "sensors": state.sensordata}

    def reward(self, state: State, action: torch.Tensor) -> torch.Tensor:
        return state.xpos[:, 1, 2]


def env_of(task: MujocoTask, num_envs: int = 3, **options) -> MujocoVecEnv:
    return MujocoVecEnv(TaskDriver(task, {}), name="test", num_envs=num_envs, **options)


def test_the_example_opens_as_its_yaml_says_and_keeps_the_shapes() -> None:
    cfg = yaml.safe_load((EXAMPLE / "cartpole_swingup.yaml").read_text())
    path, _, name = cfg["task"].partition(":")
    with open_task(f"{EXAMPLE.parents[1] / path}:{name}", num_envs=8, **cfg["env"]) as env:
        # 50 Hz for 10 s.
        assert (env.step_dt, env.max_episode_length) == (0.02, 500)
        obs = env.get_observations()
        assert {group: tuple(values.shape) for group, values in obs.items()} == {"policy": (8, 7), "critic": (8, 9)}
        terms = {group: {term.name: term.size for term in terms} for group, terms in env.observation_terms.items()}
        assert terms == {
            "policy": {"pose": 3, "last_pose": 3, "last_action": 1},
            "critic": {"pose": 3, "velocity": 2, "parameters": 4},
        }
        assert env.action_terms == (Term("actuators", (1,), ("push",)),)
        assert set(cfg["obs_groups"]["actor"] + cfg["obs_groups"]["critic"]) == set(obs.keys())
        # Hanging: the cosine of the angle is -1 up to noise.
        assert (obs["critic"][:, 2] < -0.8).all()
        log = env.step(torch.zeros(8, 1))[3]["log"]
        assert set(log) == {"reward_upright", "reward_centred", "reward_slow", "reward_force"}


def test_masses_differ_between_environments_and_reach_the_physics() -> None:
    with open_task(TASK, num_envs=6, seed=4) as env:
        task = env.driver.task
        masses = np.stack([model.body_mass[1:] for model in env.engine.models])
        np.testing.assert_allclose(masses, task.parameters[:, :2].numpy() * [1.0, 0.1], rtol=1e-6)
        assert masses.std(axis=0).min() > 0
        # The derived constants follow: the whole mass under the cart's body is that of cart and pole.
        for model, (cart, pole) in zip(env.engine.models, masses, strict=True):
            assert model.body_subtreemass[1] == pytest.approx(cart + pole)
        assert env.engine.model.body_mass[1] == 1.0


def test_a_loaded_state_restores_masses_memory_and_noise() -> None:
    actions = torch.rand(60, 4, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with open_task(TASK, num_envs=4, seed=1, max_episode_steps=20) as env:
        for action in actions[:13]:
            env.step(action)
        state = env.state_dict()
        want = [env.step(action) for action in actions]
    with open_task(TASK, num_envs=4, seed=7, max_episode_steps=20) as fresh:
        fresh.load_state_dict(state)
        for action, (obs, rewards, dones, _) in zip(actions, want, strict=True):
            ours = fresh.step(action)
            for group, values in obs.items():
                assert torch.equal(ours[0][group], values)
            assert torch.equal(ours[1], rewards)
            assert torch.equal(ours[2], dones)


def test_sensors_and_positions_are_of_the_same_instant_as_qpos() -> None:
    env = env_of(Ball())
    for _ in range(6):
        obs, rewards, _, _ = env.step(torch.zeros(3, 1))
        height_m = obs["policy"][:, 2]
        torch.testing.assert_close(rewards, height_m)
        torch.testing.assert_close(obs["sensors"][:, 2], height_m + 0.1)
    # 0.3 s of free fall in semi-implicit steps of 0.01 s: g dt^2 (1 + 2 + ... + 30).
    assert height_m[0].item() == pytest.approx(1.0 - 9.81 * 1e-4 * 30 * 31 / 2, abs=1e-5)
    env.close()


def test_names_become_columns() -> None:
    env = env_of(Ball())
    task = env.driver.task
    assert task.qpos_index("elbow").tolist() == [7]
    assert task.qpos_index("root", "elbow").tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert task.qvel_index("elbow", "root").tolist() == [6, 0, 1, 2, 3, 4, 5]
    assert task.sensor_index("elbow", "top").tolist() == [3, 0, 1, 2]
    assert task.index("body", "arm", "ball").tolist() == [2, 1]
    with pytest.raises(UserError, match="unknown joint 'elbw': did you mean 'elbow'"):
        task.qpos_index("elbw")
    with pytest.raises(AttributeError, match="unknown MjData field 'qposs': did you mean 'qpos'"):
        _ = env.driver.state.qposs
    env.close()


def test_control_may_push_bodies() -> None:
    class Pushed(Ball):
        def control(self, state: State, action: torch.Tensor) -> dict[str, torch.Tensor]:
            force = torch.zeros(self.num_envs, 3, 6)
            force[1, 1, 2] = 2 * 9.81  # holds the ball of environment 1 in the air
            return {"ctrl": action, "xfrc_applied": force}

    env = env_of(Pushed())
    for _ in range(5):
        obs, *_ = env.step(torch.zeros(3, 1))
    height_m = obs["policy"][:, 2]
    assert height_m[1].item() == pytest.approx(1.0)
    assert height_m[0] < 0.8
    env.close()


def test_a_reward_that_is_nan_is_reported_and_ends_the_environment() -> None:
    class Broken(Ball):
        def reward(self, state: State, action: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, math.nan, 1.0])

    env = env_of(Broken())
    with pytest.warns(RuntimeWarning, match="rewards became NaN"):
        _, rewards, dones, extras = env.step(torch.zeros(3, 1))
    assert rewards.tolist() == [1.0, 0.0, 1.0]
    assert dones.tolist() == [False, True, False]
    assert extras["log"]["diverged"] == 1
    env.close()


def test_mistakes_name_what_to_change(tmp_path: Path) -> None:
    class Flat(Ball):
        def reward(self, state: State, action: torch.Tensor) -> torch.Tensor:
            return state.qpos

    env = env_of(Flat())
    with pytest.raises(UserError, match=r"Flat.reward must give the shape \(3,\), found \(3, 8\)"):
        env.step(torch.zeros(3, 1))
    env.close()
    cases = {
        f"{EXAMPLE / 'cartpole.py'}:CartpoleSwingUp": "did you mean 'CartpoleSwingup'",
        "nowhere.py:Task": "does not exist",
        "no_such_module_here:Task": "there is no module 'no_such_module_here'",
        "math:sin": "is not a class derived from",
    }
    for task, message in cases.items():
        with pytest.raises(UserError, match=message), open_task(task, num_envs=1):
            pass
    with (
        pytest.raises(UserError, match=r"did you mean 'env.task_options.noise'"),
        open_task(TASK, num_envs=1, task_options={"nois": 1.0}),
    ):
        pass
