"""The environment's promises: ends, time limits, divergence, streams, saved states."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sim_rl_mujoco import open_task
from sim_rl_mujoco.gymnasium_tasks import Ant
from sim_rl_mujoco.tasks import task_names
from sim_rl_mujoco.vec_env import MujocoVecEnv

from sim_rl_plugin.errors import UserError


def actions_for(env: MujocoVecEnv, steps: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(steps, env.num_envs, env.num_actions, generator=generator) * 2.0 - 1.0


def play(env: MujocoVecEnv, actions: torch.Tensor) -> list[torch.Tensor]:
    """Everything that a learner sees, flattened into one list."""
    seen = []
    for action in actions:
        obs, rewards, dones, extras = env.step(action)
        seen += [*obs.values(), rewards, dones, extras["time_outs"]]
        if "final_obs" in extras:
            seen += [values[dones] for values in extras["final_obs"].values()]
    return seen


def assert_equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_importing_the_plugin_and_listing_tasks_loads_no_simulator() -> None:
    program = (
        "import sys, sim_rl_mujoco, sim_rl_mujoco.plugin as p, sim_rl_mujoco.tasks as t\n"
        "assert p.sim_rl_adapters()[0].name == 'mujoco' and 'Ant' in t.task_names()\n"
        "assert not {'mujoco', 'torch', 'numba', 'numpy'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_time_limit_counts_from_an_assigned_episode_length() -> None:
    with open_task("HalfCheetah", num_envs=3, max_episode_steps=10) as env:
        env.episode_length_buf = torch.tensor([0, 7, 9])
        ends: list[list[int]] = []
        for action in actions_for(env, 10):
            obs, _, dones, extras = env.step(action)
            assert torch.equal(extras["time_outs"], dones)
            assert ("final_obs" in extras) == bool(dones.any())
            if dones.any():
                before, after = extras["final_obs"]["policy"], obs["policy"]
                assert (before[dones] != after[dones]).any(dim=1).all()
                assert torch.equal(before[~dones], after[~dones])
            ends.append(dones.nonzero().flatten().tolist())
        # Limit 10: from 9 at the 1st step, from 7 at the 3rd, from 0 at the 10th.
        assert ends == [[2], [], [1], [], [], [], [], [], [], [0]]
        assert env.episode_length_buf.tolist() == [0, 7, 9]
        with pytest.raises(UserError, match="episode_length_buf must have the shape"):
            env.episode_length_buf = torch.zeros(4, dtype=torch.int64)


def test_a_termination_at_the_limit_is_no_time_out() -> None:
    pushes = torch.tensor([[1.0], [0.5], [0.0], [-0.5]])
    with open_task("InvertedPendulum", num_envs=4) as env:
        steps = 1
        while not (fallen := env.step(pushes)[2]).any():
            steps += 1
        assert not fallen.all()
    with open_task("InvertedPendulum", num_envs=4) as env:
        # The same falls, in the very step in which everybody's time is up.
        env.episode_length_buf = torch.full((4,), env.max_episode_length - steps)
        for _ in range(steps):
            _, _, dones, extras = env.step(pushes)
        assert dones.all()
        assert torch.equal(extras["time_outs"], ~fallen)


def test_what_was_returned_is_never_written_again_and_changing_it_changes_nothing() -> None:
    with open_task("InvertedPendulum", num_envs=4) as env, open_task("InvertedPendulum", num_envs=4) as other:
        kept, copies = [], []
        for action in actions_for(env, 40):
            obs, rewards, dones, extras = env.step(action)
            theirs, *_ = other.step(action)
            tensors = [obs["policy"], rewards, dones, extras["time_outs"], env.get_observations()["policy"]]
            assert torch.equal(obs["policy"], env.get_observations()["policy"])
            kept += tensors
            copies += [tensor.clone() for tensor in tensors]
            theirs["policy"].fill_(float("nan"))
            assert torch.equal(other.get_observations()["policy"], obs["policy"])
        assert_equal(kept, copies)


def test_an_environments_episodes_do_not_depend_on_how_many_there_are() -> None:
    with (
        open_task("Hopper", num_envs=2, seed=5, num_threads=1) as few,
        open_task("Hopper", num_envs=7, seed=5, num_threads=2) as many,
    ):
        actions = actions_for(many, 80)
        for action in actions:
            small, big = few.step(action[:2]), many.step(action)
            assert torch.equal(small[0]["policy"], big[0]["policy"][:2])
            assert torch.equal(small[2], big[2][:2])


@pytest.mark.parametrize("task", ["Ant", "Humanoid", "HalfCheetah", "InvertedDoublePendulum"])
def test_the_python_loop_gives_the_same_bits(task: str) -> None:
    from sim_rl_mujoco.open import _driver

    fast = MujocoVecEnv(_driver(task, {}), name=task, num_envs=5, num_threads=2, compiled=True)
    slow = MujocoVecEnv(_driver(task, {}), name=task, num_envs=5, num_threads=2, compiled=False)
    assert fast.engine.compiled
    assert not slow.engine.compiled
    actions = actions_for(fast, 60)
    assert_equal(play(fast, actions), play(slow, actions))
    assert np.array_equal(fast.engine.states, slow.engine.states)
    fast.close()
    slow.close()


@pytest.mark.parametrize("task", task_names())
def test_a_loaded_state_continues_bit_for_bit(task: str, tmp_path) -> None:
    with open_task(task, num_envs=3, seed=2, max_episode_steps=30) as env:
        play(env, actions_for(env, 17))
        torch.save(env.state_dict(), tmp_path / "state.pt")
        first = env.get_observations()["policy"]
        want = play(env, actions_for(env, 90, seed=1))
    with open_task(task, num_envs=3, seed=99, max_episode_steps=30, num_threads=1) as fresh:
        play(fresh, actions_for(fresh, 5, seed=4))
        fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert torch.equal(fresh.get_observations()["policy"], first)
        assert_equal(play(fresh, actions_for(fresh, 90, seed=1)), want)


def test_a_state_of_another_task_or_size_is_refused() -> None:
    with (
        open_task("Hopper", num_envs=2) as env,
        open_task("Hopper", num_envs=3) as more,
        open_task("Ant", num_envs=2) as ant,
    ):
        with pytest.raises(UserError, match="num_envs 2, this one has 3"):
            more.load_state_dict(env.state_dict())
        with pytest.raises(UserError, match="task 'Hopper', this one has 'Ant'"):
            ant.load_state_dict(env.state_dict())


@pytest.mark.parametrize("compiled", [True, False])
def test_a_diverged_environment_is_ended_counted_and_reset(compiled: bool, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = MujocoVecEnv(Ant(), name="Ant", num_envs=4, compiled=compiled)
    twin = MujocoVecEnv(Ant(), name="Ant", num_envs=4, compiled=compiled)
    first_qvel = 1 + env.engine.model.nq  # a state is time, qpos, qvel, ...
    env.engine.states[2, first_qvel] = 1e20
    sane = torch.tensor([True, True, False, True])
    for step, action in enumerate(actions_for(env, 4)):
        obs, rewards, dones, extras = env.step(action)
        theirs = twin.step(action)
        assert torch.isfinite(obs["policy"]).all()
        assert torch.equal(obs["policy"][sane], theirs[0]["policy"][sane])
        assert ("diverged" in extras["log"]) == (step == 0)
        if step == 0:
            assert extras["log"]["diverged"] == 1
            assert dones.tolist() == [False, False, True, False]
            assert not extras["time_outs"].any()
            assert rewards[2] == 0.0
            assert torch.isfinite(extras["final_obs"]["policy"]).all()
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()
    env.close()
    twin.close()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_an_action_that_is_not_finite_ends_its_environment_only(poison: float) -> None:
    with open_task("HalfCheetah", num_envs=3) as env:
        action = torch.zeros(3, 6)
        action[1, 4] = poison
        given = action.clone()
        obs, rewards, dones, extras = env.step(action)
        assert dones.tolist() == [False, True, False]
        assert extras["log"]["diverged"] == 1
        assert torch.isfinite(obs["policy"]).all()
        assert torch.isfinite(rewards).all()
        assert torch.equal(action, given) or poison != poison
        with pytest.raises(UserError, match=r"actions must have the shape \(3, 6\), found \(3, 5\)"):
            env.step(torch.zeros(3, 5))


def test_actions_are_clipped_unless_told_otherwise() -> None:
    with (
        open_task("HalfCheetah", num_envs=1) as clipped,
        open_task("HalfCheetah", num_envs=1) as bound,
        open_task("HalfCheetah", num_envs=1, clip_actions=False) as raw,
    ):
        big, one = torch.full((1, 6), 3.0), torch.ones(1, 6)
        assert torch.equal(clipped.step(big)[1], bound.step(one)[1])
        # The motors saturate either way; the cost of control does not.
        assert raw.step(big)[3]["log"]["reward_ctrl"] == pytest.approx(-0.1 * 6 * 9)


@pytest.mark.parametrize(
    "options",
    [
        {"num_envs": 0},
        {"num_threads": 0},
        {"max_episode_steps": 0},
        {"max_episode_steps": 2**31},
        {"task_options": {"frame_skip": 2**31}},
    ],
)
def test_numbers_out_of_range_are_refused(options: dict) -> None:
    with (
        pytest.raises(UserError, match="must be at least 1 and less than 2"),
        open_task("Ant", **{"num_envs": 1} | options),
    ):
        pass


def test_after_a_failure_of_opengl_pictures_are_drawn_without_it():
    """MuJoCo aborts the process in which it is asked for OpenGL again after GLFW has failed for want of a screen."""
    code = (
        "import os\n"
        "from sim_rl_mujoco.open import open_task\n"
        "for backend in ('glfw', 'egl', ''):\n"
        "    os.environ['MUJOCO_GL'] = backend\n"
        "    with open_task('HalfCheetah', num_envs=1, render=True) as env:\n"
        "        print(env.render().shape)\n"
    )
    environ = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    result = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("3)") == 3


@pytest.mark.parametrize("backend", ["raycast", ""])
def test_render_gives_a_picture_of_the_robot_and_changes_nothing(backend: str, monkeypatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", backend)
    with (
        open_task("HalfCheetah", num_envs=2, render=True, render_width=160, render_height=120) as filmed,
        open_task("HalfCheetah", num_envs=2) as other,
    ):
        actions = actions_for(filmed, 10)
        pictures = []
        for action in actions:
            assert torch.equal(filmed.step(action)[0]["policy"], other.step(action)[0]["policy"])
            pictures.append(filmed.render())
        for picture in pictures:
            assert picture.shape == (120, 160, 3)
            assert picture.dtype == np.uint8
            # The camera follows, so the orange body is always somewhere in the middle.
            middle = picture[30:100, 20:140].reshape(-1, 3).astype(int)
            assert ((middle[:, 0] - middle[:, 2]) > 40).any()
        assert (pictures[0] != pictures[-1]).any()
    filmed.close()


def test_an_unknown_camera_is_refused_before_training() -> None:
    with (
        pytest.raises(UserError, match="unknown camera 'trak': did you mean 'track'"),
        open_task("Ant", num_envs=1, render=True, render_camera="trak"),
    ):
        pass


def test_some_environments_are_reset_out_of_any_state_and_the_others_go_on() -> None:
    with open_task("Ant", num_envs=4, seed=1) as env, open_task("Ant", num_envs=4, seed=1) as untouched:
        before, after = actions_for(env, 5), actions_for(env, 5, seed=1)
        assert_equal(play(env, before), play(untouched, before))
        env.engine.states[[0, 2], 5:] = np.nan
        assert env.reset_envs(torch.tensor([0, 2]))
        obs = env.get_observations()["policy"]
        assert env.episode_length_buf.tolist() == [0, 5, 0, 5]
        assert torch.isfinite(obs).all()
        assert torch.equal(obs[[1, 3]], untouched.get_observations()["policy"][[1, 3]])
        for action in after:
            ours, theirs = env.step(action), untouched.step(action)
            assert torch.equal(ours[0]["policy"][[1, 3]], theirs[0]["policy"][[1, 3]])
            assert torch.isfinite(ours[0]["policy"]).all()
            assert "diverged" not in ours[3]["log"]
