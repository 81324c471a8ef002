"""The adapter against Gymnasium itself, stepped by hand, and what it says when it cannot open a task."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from sim_rl_plugin.errors import UserError

pytest.importorskip("gymnasium")

import gymnasium
from sim_rl_gymnasium.open import open_task
from sim_rl_gymnasium.tasks import resolve_task, task_names


class SelfTruncating(gymnasium.Env):
    """Truncates itself after three steps, and tells the last action in its observation."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2), {}

    def step(self, action: np.ndarray):
        self.count += 1
        observation = np.array([self.count, action[0]], dtype=np.float64)
        action[0] = 99.0
        info = {"reward_even": float(self.count)} if self.count % 2 == 0 else {}
        return observation, 0.5, False, self.count == 3, info


@pytest.fixture(autouse=True, scope="module")
def _tasks():
    gymnasium.register("SelfTruncating-v0", SelfTruncating, max_episode_steps=5)
    gymnasium.register("Endless-v0", SelfTruncating)
    yield
    del gymnasium.registry["SelfTruncating-v0"], gymnasium.registry["Endless-v0"]


def drive_by_hand(
    task: str, seed: int, actions: torch.Tensor, max_episode_steps: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Step one environment as Gymnasium's documentation does, time limit and reset included."""
    env = gymnasium.make(task, max_episode_steps=max_episode_steps)
    low, high = env.action_space.low, env.action_space.high
    first, _ = env.reset(seed=seed)
    steps = []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(np.clip(action.numpy(), low, high))
        step = {
            "final": obs,
            "reward": reward,
            "done": terminated or truncated,
            "time_out": truncated and not terminated,
        }
        if step["done"]:
            obs, _ = env.reset()
        steps.append(step | {"obs": obs})
    env.close()
    return first, steps


@pytest.mark.parametrize(
    ("task", "vectorization", "num_envs"),
    [("Pendulum-v1", "sync", 3), ("Hopper-v5", "sync", 3), ("HalfCheetah-v5", "sync", 2), ("Hopper-v5", "async", 2)],
)
def test_equals_gymnasium_stepped_by_hand(task: str, vectorization: Any, num_envs: int) -> None:
    num_steps, limit, seed = 120, 25, 7
    with open_task(task, num_envs=num_envs, seed=seed, max_episode_steps=limit, vectorization=vectorization) as env:
        generator = torch.Generator().manual_seed(0)
        actions = 3.0 * torch.randn(num_steps, num_envs, env.num_actions, generator=generator)
        hands = [drive_by_hand(task, seed + i, actions[:, i], limit) for i in range(num_envs)]

        def batch(values: list[Any], dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.tensor(np.array(values), dtype=dtype)

        assert torch.equal(env.get_observations()["policy"], batch([first for first, _ in hands]))
        num_dones = num_time_outs = 0
        for t in range(num_steps):
            obs, rewards, dones, extras = env.step(actions[t])
            by_hand = [steps[t] for _, steps in hands]
            assert torch.equal(obs["policy"], batch([step["obs"] for step in by_hand]))
            assert torch.equal(rewards, batch([step["reward"] for step in by_hand]))
            assert torch.equal(dones, batch([step["done"] for step in by_hand], torch.bool))
            assert torch.equal(extras["time_outs"], batch([step["time_out"] for step in by_hand], torch.bool))
            if dones.any():
                final = batch([step["final"] for step in by_hand])
                assert torch.equal(extras["final_obs"]["policy"][dones], final[dones])
            num_dones += int(dones.sum())
            num_time_outs += int(extras["time_outs"].sum())

    # Each environment ended at least every 25 of 120 steps; Hopper also falls.
    assert num_dones >= 4 * num_envs
    assert (num_time_outs < num_dones) == task.startswith("Hopper")


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_assigned_episode_lengths_are_what_the_limit_looks_at(vectorization: Any) -> None:
    with open_task("Pendulum-v1", num_envs=2, vectorization=vectorization) as env:
        env.step(torch.zeros(2, 1))
        env.episode_length_buf = torch.tensor([198, 50])
        _, _, dones, _ = env.step(torch.zeros(2, 1))
        assert not dones.any()
        _, _, dones, extras = env.step(torch.zeros(2, 1))

        # Pendulum's registered limit is 200: 198 + 2.
        assert dones.tolist() == [True, False]
        assert extras["time_outs"].tolist() == [True, False]
        assert env.episode_length_buf.tolist() == [0, 52]


def test_an_own_truncation_is_a_time_out_before_the_limit() -> None:
    with open_task("SelfTruncating", num_envs=2) as env:
        for _ in range(2):
            _, _, dones, extras = env.step(torch.zeros(2, 1))
            assert not dones.any()
        obs, _, dones, extras = env.step(torch.zeros(2, 1))

    assert dones.all()
    assert extras["time_outs"].all()
    assert extras["final_obs"]["policy"][:, 0].tolist() == [3.0, 3.0]
    assert obs["policy"][:, 0].tolist() == [0.0, 0.0]


def test_actions_are_clipped_unless_told_otherwise_and_never_written_to() -> None:
    actions = torch.tensor([[3.0], [-0.25]])
    for clip_actions, expected in ((True, [1.0, -0.25]), (False, [3.0, -0.25])):
        with open_task("SelfTruncating-v0", num_envs=2, clip_actions=clip_actions) as env:
            obs, _, _, _ = env.step(actions)
        assert obs["policy"][:, 1].tolist() == expected
        assert actions.flatten().tolist() == [3.0, -0.25]


def test_reward_terms_are_logged_in_the_steps_that_have_them() -> None:
    with open_task("SelfTruncating", num_envs=2) as env:
        logs = [env.step(torch.zeros(2, 1))[3]["log"] for _ in range(3)]
    assert logs == [{}, {"Step/reward_even": 2.0}, {}]

    with open_task("HalfCheetah", num_envs=2) as env:
        _, rewards, _, extras = env.step(torch.ones(2, 6))
    # reward_ctrl is -0.1 |a|^2 = -0.6, and the terms add up to the reward.
    assert extras["log"]["Step/reward_ctrl"] == pytest.approx(-0.6)
    assert sum(extras["log"].values()) == pytest.approx(float(rewards.mean()), abs=1e-6)


def test_actions_of_a_wrong_shape_are_refused() -> None:
    with (
        open_task("Pendulum", num_envs=2) as env,
        pytest.raises(ValueError, match=r"shape \(2, 3\).*\(2, 1\)"),
    ):
        env.step(torch.zeros(2, 3))


def test_names_work_without_version_and_with_package() -> None:
    assert resolve_task("HalfCheetah") == "HalfCheetah-v5"
    assert resolve_task("HalfCheetah-v4") == "HalfCheetah-v4"
    assert resolve_task("gymnasium:Hopper") == "gymnasium:Hopper-v5"
    with open_task("gymnasium:Pendulum", num_envs=1) as env:
        assert env.cfg["task"] == "gymnasium:Pendulum-v1"


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("HalfCheeta", {}, "unknown task 'HalfCheeta': did you mean 'HalfCheetah-v5'"),
        ("Hopper-v9", {}, "did you mean 'Hopper-v5'"),
        ("no_such_package:Task-v0", {}, "importing 'no_such_package' failed"),
        ("CartPole", {}, r"'CartPole-v1'.*Discrete\(2\), expected a Box"),
        ("Blackjack", {}, "expected a Box"),
        ("Hopper-v2", {}, "'Hopper-v2' needs a package that is not installed"),
        ("Endless", {}, "set max_episode_steps"),
        ("Pendulum", {"max_episode_steps": 0}, "max_episode_steps is 0"),
        ("Pendulum", {"num_envs": 0}, "num_envs is 0"),
        ("Pendulum", {"vectorization": "asinc"}, "did you mean 'async'"),
        ("Pendulum", {"make_options": {"gravity": 9.81}}, "make_options {'gravity': 9.81} do not fit"),
        ("Pendulum", {"make_options": {"render_mode": "human"}}, "make_options.render_mode is set by the adapter"),
    ],
)
def test_what_cannot_be_opened_is_one_clear_message(task: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message), open_task(task, **({"num_envs": 1} | options)):
        pass


def test_options_reach_the_environment() -> None:
    with open_task("Endless", num_envs=1, max_episode_steps=9) as env:
        assert env.max_episode_length == 9
    with open_task("Hopper", num_envs=1, make_options={"exclude_current_positions_from_observation": False}) as env:
        # Gymnasium's 11 values and the position along the track.
        assert env.get_observations()["policy"].shape == (1, 12)


def test_a_renderer_that_is_missing_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with (
        pytest.raises(UserError, match=r"'Pendulum-v1' cannot render here.*pygame"),
        open_task("Pendulum", num_envs=1, render=True),
    ):
        pass


def test_listed_tasks_can_be_opened_or_name_what_is_missing() -> None:
    names = task_names()
    assert {"Ant-v5", "Humanoid-v5", "MountainCarContinuous-v0", "Pendulum-v1"} <= set(names)
    assert not {"CartPole-v1", "LunarLander-v3", "Ant-v4"} & set(names)
    missing = {}
    for name in names:
        try:
            with open_task(name, num_envs=1) as env:
                env.step(torch.zeros(1, env.num_actions))
        except UserError as error:
            missing[name] = str(error)
    # What needs Box2D may be missing; MuJoCo's eleven, Pendulum and MountainCarContinuous need nothing more.
    assert len(names) - len(missing) >= 13
    assert all("not installed" in message for message in missing.values())


def test_a_worker_that_died_does_not_keep_close_from_returning() -> None:
    with open_task("Pendulum", num_envs=2, vectorization="async") as env:
        processes = env._vector_env.processes
        processes[1].kill()
        processes[1].join()
        env.close()
        env.close()
    for process in processes:
        process.join(timeout=5)
        assert not process.is_alive()


def test_listing_the_adapter_imports_neither_gymnasium_nor_torch() -> None:
    code = (
        "import sys, sim_rl_gymnasium, sim_rl_gymnasium.plugin as plugin\n"
        "(entry,) = plugin.sim_rl_adapters()\n"
        "assert entry.name == 'gymnasium'\n"
        "print(sorted({'gymnasium', 'torch', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_entry_leads_to_the_functions() -> None:
    from importlib import import_module

    from sim_rl_gymnasium import plugin

    (entry,) = plugin.sim_rl_adapters()
    for target, expected in ((entry.target, open_task), (entry.tasks, task_names)):
        module, _, attribute = target.partition(":")
        assert getattr(import_module(module), attribute) is expected
