"""Images, dicts, wrappers and settings: what a task gives, and what the models get."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch

from sim_rl_plugin.config import load_config
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.run_folder import build_runner
from sim_rl_plugin.simulation import open_env
from sim_rl_plugin.testing import VecEnvContract

pytest.importorskip("gymnasium")

import gymnasium
from gymnasium import spaces
from sim_rl_gymnasium.groups import GroupMap
from sim_rl_gymnasium.open import open_task
from sim_rl_gymnasium.wrappers import parse_wrappers


def has_box2d() -> bool:
    try:
        import Box2D  # noqa: F401
    except ImportError:
        return False
    return True


needs_box2d = pytest.mark.skipif(not has_box2d(), reason="needs gymnasium[box2d]")


class Goal(gymnasium.Env):
    """Gymnasium-Robotics' shape: no group is called ``policy``, and one is nested."""

    observation_space = spaces.Dict(
        {
            "observation": spaces.Box(-np.inf, np.inf, (3,), np.float64),
            "goal": spaces.Dict({"achieved": spaces.Box(-1, 1, (2,)), "desired": spaces.Box(-1, 1, (2,))}),
            "critic": spaces.Box(-1, 1, (), np.float64),
        }
    )
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.at, self.goal = np.zeros(2), self.np_random.uniform(-0.9, 0.9, 2)
        return self._observation(), {}

    def step(self, action: np.ndarray):
        assert action.dtype == np.float64
        self.at = np.clip(self.at + 0.1 * action, -1.0, 1.0)
        distance = float(np.linalg.norm(self.at - self.goal))
        return self._observation(), -distance, distance < 0.1, False, {}

    def _observation(self) -> dict[str, Any]:
        goal = {"achieved": self.at.astype(np.float32), "desired": self.goal.astype(np.float32)}
        return {"observation": np.array([*self.at, 1.0]), "goal": goal, "critic": np.float64(self.at[0])}


class Pixels(gymnasium.Env):
    """Large pictures with the channels last."""

    observation_space = spaces.Box(0, 255, (48, 40, 3), np.uint8)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.row = int(self.np_random.integers(48))
        return self._observation(), {}

    def step(self, action: np.ndarray):
        self.row = int(np.clip(self.row + round(float(action[0])), 0, 47))
        return self._observation(), -abs(self.row - 24) / 24, False, False, {}

    def _observation(self) -> np.ndarray:
        image = np.zeros((48, 40, 3), np.uint8)
        image[self.row] = (255, 128, 64)
        return image


@pytest.fixture(autouse=True, scope="module")
def _tasks():
    gymnasium.register("sim_rl_test/Goal-v0", Goal, max_episode_steps=20)
    gymnasium.register("sim_rl_test/Pixels-v0", Pixels, max_episode_steps=20)
    yield
    del gymnasium.registry["sim_rl_test/Goal-v0"], gymnasium.registry["sim_rl_test/Pixels-v0"]


class TestGoal(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("sim_rl_test/Goal", num_envs=4)


class TestGoalInProcesses(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("sim_rl_test/Goal", num_envs=2, vectorization="async")


STACK = {"class_name": "FrameStackObservation", "stack_size": 4}
GREY_STACK = ["GrayscaleObservation", STACK]


class TestStackedPixels(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("sim_rl_test/Pixels", num_envs=3, wrappers=[STACK])


@needs_box2d
class TestCarRacing(VecEnvContract):
    """A real task of images; its zoom begins black, so the first frames of all environments are alike."""

    num_steps = 20

    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("CarRacing", num_envs=2, max_episode_steps=15, make_options={"continuous": True})


@needs_box2d
def test_car_racing_is_trained_from_its_pixels_without_a_config_file():
    config = load_config("gymnasium", "CarRacing-v3", None, ["num_envs=2", "num_steps_per_env=8", "console=false"])
    assert config.actor["class_name"] == config.critic["class_name"] == "CNNModel"
    with open_env(config, device="cpu") as env:
        camera = env.get_observations()["policy"]
        assert (camera.shape, camera.dtype) == ((2, 3, 96, 96), torch.uint8)
        runner = build_runner(config, env, "cpu")
        runner.learn(1)
        assert runner.alg.storage.observations["policy"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("space", "shape", "at"),
    [
        (spaces.Box(0, 255, (5, 7, 3), np.uint8), (3, 5, 7), lambda a: a.transpose(2, 0, 1)),
        (spaces.Box(0, 255, (3, 5, 7), np.uint8), (3, 5, 7), lambda a: a),
        (spaces.Box(0, 255, (5, 7), np.uint8), (1, 5, 7), lambda a: a[None]),
        (spaces.Box(0, 255, (4, 5, 7), np.uint8), (4, 5, 7), lambda a: a),
        (spaces.Box(0, 255, (2, 5, 7, 3), np.uint8), (6, 5, 7), lambda a: np.concatenate(a, -1).transpose(2, 0, 1)),
        (spaces.Box(0, 255, (2, 3, 5, 7), np.uint8), (6, 5, 7), np.concatenate),
        (spaces.Box(0.0, 1.0, (5, 7, 3), np.float64), (3, 5, 7), lambda a: a.transpose(2, 0, 1)),
        (spaces.Box(0.0, 1.0, (5, 7), np.float64), (35,), lambda a: a.reshape(-1)),
        (spaces.Box(0, 9, (4,), np.int64), (4,), lambda a: a),
        (spaces.Box(0, 255, (6,), np.uint8), (6,), lambda a: a),
        (spaces.Box(0.0, 1.0, (), np.float64), (1,), lambda a: a.reshape(1)),
    ],
)
@pytest.mark.parametrize("tensors", [False, True])
def test_every_layout_reaches_the_models_as_the_contract_says(space, shape, at, tensors: bool):
    space.seed(0)
    batch = np.stack([space.sample() for _ in range(2)])
    group = GroupMap(space, 2, torch.device("cpu")).tensors(torch.from_numpy(batch) if tensors else batch)["policy"]
    is_bytes = space.dtype == np.uint8 and len(space.shape) > 1
    assert group.dtype == (torch.uint8 if is_bytes else torch.float32)
    assert group.shape == (2, *shape)
    for index in range(2):
        np.testing.assert_allclose(group[index].numpy(), at(batch[index]), rtol=1e-6)
    # A copy: Gymnasium writes the next observations into the same array.
    before = group.clone()
    batch[:] = 0
    assert torch.equal(group, before)


def test_dict_groups_keep_their_names_and_numbers_are_converted_once():
    with open_task("sim_rl_test/Goal", num_envs=2, seed=1) as env:
        obs = env.get_observations()
        sizes = {name: (tuple(value.shape), value.dtype) for name, value in obs.items()}
        assert sizes == {
            "observation": ((2, 3), torch.float32),
            "goal/achieved": ((2, 2), torch.float32),
            "goal/desired": ((2, 2), torch.float32),
            "critic": ((2, 1), torch.float32),
        }
        hand = gymnasium.make("sim_rl_test/Goal-v0")
        expected, _ = hand.reset(seed=2)
        np.testing.assert_array_equal(obs["goal/desired"][1].numpy(), expected["goal"]["desired"])
        _, rewards, _, _ = env.step(torch.zeros(2, 2))
        assert rewards.dtype == torch.float32


def test_dict_observations_are_trained_on_without_a_config_file():
    config = load_config("gymnasium", "sim_rl_test/Goal", None, ["num_envs=4", "num_steps_per_env=8", "console=false"])
    assert config.obs_groups == {
        "actor": ["goal/achieved", "goal/desired", "observation"],
        "critic": ["critic", "goal/achieved", "goal/desired", "observation"],
    }
    with open_env(config, device="cpu") as env:
        runner = build_runner(config, env, "cpu")
        runner.learn(1)
        assert runner.get_inference_policy()(env.get_observations()).shape == (4, 2)


def test_settings_of_a_task_with_one_vector_are_those_of_configs():
    config = load_config("gymnasium", "LunarLanderContinuous-v3")
    assert config.obs_groups == {"actor": ["policy"], "critic": ["policy"]}
    assert config.num_envs == 64
    assert load_config("gymnasium", "Pendulum").algorithm["gamma"] == 0.9
    # A wrong name is for whoever opens the task to say.
    assert load_config("gymnasium", "NoSuchTask").num_envs == 64


def test_a_small_image_gets_a_network_that_fits():
    gymnasium.register("sim_rl_test/Tiny-v0", TinyPixels, max_episode_steps=9)
    try:
        config = load_config(
            "gymnasium", "sim_rl_test/Tiny", None, ["num_envs=2", "num_steps_per_env=4", "console=false"]
        )
        with open_env(config, device="cpu") as env:
            build_runner(config, env, "cpu").learn(1)
    finally:
        del gymnasium.registry["sim_rl_test/Tiny-v0"]


class TinyPixels(Pixels):
    observation_space = spaces.Dict({"camera": spaces.Box(0, 255, (8, 12, 3), np.uint8)})

    def _observation(self) -> Any:
        return {"camera": np.full((8, 12, 3), self.row, np.uint8)}


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_wrappers_are_put_around_each_environment_in_their_order(vectorization: Any):
    with open_task("sim_rl_test/Pixels", num_envs=2, wrappers=GREY_STACK, vectorization=vectorization) as env:
        obs = env.get_observations()["policy"]
    # Grey, then four frames, which are the channels.
    assert (obs.shape, obs.dtype) == ((2, 4, 48, 40), torch.uint8)
    assert torch.equal(obs[:, 0], obs[:, 3])


def test_lists_become_the_tuples_that_wrappers_want():
    (choice,) = parse_wrappers([{"class_name": "ResizeObservation", "shape": [24, 20]}])
    assert choice.arguments == {"shape": (24, 20)}


def test_wrappers_and_options_come_from_the_command_line():
    overrides = [
        "env.wrappers=[{class_name: RescaleAction, min_action: -0.5, max_action: 0.5}, TimeAwareObservation]",
        "env.make_options={g: 0.0}",
        "env.max_episode_steps=7",
        "num_envs=2",
    ]
    config = load_config("gymnasium", "Pendulum-v1", None, overrides)
    with open_env(config, device="cpu") as env:
        # Pendulum's three values and the time.
        assert env.get_observations()["policy"].shape == (2, 4)
        assert env.max_episode_length == 7
        before = env.get_observations()["policy"][:, 2]
        # Without gravity, a torque of 2 N m (0.5, rescaled, and clipped) gives 3 * 2 * 0.05 = 0.3 rad/s in a step.
        after = env.step(torch.full((2, 1), 9.0))[0]["policy"][:, 2]
        torch.testing.assert_close(after - before, torch.full((2,), 0.3), atol=1e-5, rtol=0)


class Offset(gymnasium.ObservationWrapper):
    def __init__(self, env: gymnasium.Env, offset: float = 0.0) -> None:
        super().__init__(env)
        self.offset = offset

    def observation(self, observation: Any) -> Any:
        return observation + self.offset


def test_a_wrapper_of_ones_own_is_named_by_its_module(monkeypatch: pytest.MonkeyPatch):
    import sys
    import types

    module = types.ModuleType("my_gymnasium_wrappers")
    module.Offset = Offset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_gymnasium_wrappers", module)
    wrappers = [{"class_name": "my_gymnasium_wrappers:Offset", "offset": 100.0}]
    with open_task("Pendulum-v1", num_envs=1, wrappers=wrappers) as env:
        assert env.get_observations()["policy"].min() > 90.0


@pytest.mark.parametrize(
    ("wrappers", "message"),
    [
        (["FlatenObservation"], r"wrapper in env.wrappers.0: 'FlatenObservation': did you mean 'FlattenObservation'"),
        (["no_such_module:Wrapper"], "env.wrappers.0: cannot find 'no_such_module:Wrapper'"),
        (["TimeLimit"], "env.wrappers.0: TimeLimit does not belong here.*env.max_episode_steps"),
        (["ClipAction", "Autoreset"], "env.wrappers.1: Autoreset does not belong here"),
        ([{"stack_size": 4}], "env.wrappers.0: expected a wrapper's name, or a mapping with class_name"),
        ([{"class_name": "FrameStackObservation", "stack_sise": 4}], "did you mean 'env.wrappers.0.stack_size'"),
        ([{"class_name": "FrameStackObservation", "stack_size": "four"}], "FrameStackObservation do not fit task 'Pen"),
        (["FrameStackObservation"], "env.wrappers.0.stack_size is missing"),
        (["GrayscaleObservation"], "wrappers GrayscaleObservation do not fit task 'Pendulum-v1'"),
    ],
)
def test_mistakes_in_wrappers_are_one_message(wrappers: list[Any], message: str):
    with pytest.raises(UserError, match=message), open_task("Pendulum", num_envs=1, wrappers=wrappers):
        pass


def test_clipping_of_infinite_bounds_leaves_actions_as_they_are():
    with open_task("sim_rl_test/Goal", num_envs=1, clip_actions=False) as env:
        env.step(torch.ones(1, 2))
        assert env.get_observations()["goal/achieved"].flatten().tolist() == pytest.approx([0.1, 0.1])
