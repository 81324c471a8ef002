"""The adapter keeps the contract, in one process and in several, on vectors and on images."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import pytest

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.testing import VecEnvContract

pytest.importorskip("gymnasium")

import gymnasium
from sim_rl_gymnasium.open import open_task


class CameraEnv(gymnasium.Env):
    """A dot that the action moves over a small picture; terminates at the border."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Dict(
        {
            "camera": gymnasium.spaces.Box(0, 255, (8, 12, 3), np.uint8),
            "policy": gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float64),
        }
    )
    action_space = gymnasium.spaces.Box(-0.5, 0.5, (1, 2), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-0.5, 0.5, 2)
        return self._observation(), {}

    def step(self, action: np.ndarray):
        self.position = self.position + 0.2 * action[0]
        terminated = bool(np.abs(self.position).max() > 1.0)
        return self._observation(), 1.0 - np.abs(self.position).sum(), terminated, False, {}

    def render(self) -> np.ndarray:
        return self._observation()["camera"]

    def _observation(self) -> dict[str, np.ndarray]:
        row, column = ((np.clip(self.position, -1, 1) + 1.0) * (3.5, 5.5)).astype(int)
        camera = np.zeros((8, 12, 3), np.uint8)
        camera[row, column] = (255, 128, 64)
        return {"camera": camera, "policy": np.clip(self.position, -1, 1)}


@pytest.fixture(autouse=True, scope="module")
def _camera_task():
    gymnasium.register("sim_rl_test/Camera-v0", CameraEnv, max_episode_steps=20)
    yield
    del gymnasium.registry["sim_rl_test/Camera-v0"]


class TestPendulum(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("Pendulum-v1", num_envs=6)


class TestHopper(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("Hopper-v5", num_envs=6)


class TestHopperInProcesses(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("Hopper-v5", num_envs=3, vectorization="async")


class TestCamera(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("sim_rl_test/Camera", num_envs=6, render=True)


class TestCameraInProcesses(VecEnvContract):
    def open_env(self) -> AbstractContextManager[VecEnv]:
        return open_task("sim_rl_test/Camera", num_envs=2, render=True, vectorization="async")


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_images_keep_their_bytes_and_have_their_channels_first(vectorization: str) -> None:
    with open_task("sim_rl_test/Camera", num_envs=2, render=True, vectorization=vectorization) as env:
        camera = env.get_observations()["camera"]
        frame = env.render()

    assert camera.shape == (2, 3, 8, 12)
    np.testing.assert_array_equal(camera[0].permute(1, 2, 0).numpy(), frame)
    assert frame.max() == 255


def test_actions_of_any_shape_are_vectors_here() -> None:
    with open_task("sim_rl_test/Camera", num_envs=2) as env:
        assert env.num_actions == 2
