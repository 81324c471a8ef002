"""Isaac Lab 3 itself, with Newton's physics, on the CPU: the real environments of both kinds.

Runs where ``ISAACLAB_PATH`` names Isaac Lab 3 and Newton is installed; compiling the physics takes minutes once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import isaaclab_stubs
import pytest

pytest.importorskip("newton")
if isaaclab_stubs.generation() != 3:
    pytest.skip("ISAACLAB_PATH names no Isaac Lab 3", allow_module_level=True)

import torch

from sim_rl_plugin.env import Term, VecEnv
from sim_rl_plugin.testing import VecEnvContract

isaaclab_stubs.make_importable()

pytestmark = pytest.mark.slow


@contextmanager
def _opened(kind: str, num_envs: int = 6, **options) -> Iterator[VecEnv]:
    from sim_rl_isaaclab.open import open_task

    with open_task(f"newton_cartpole:Newton-Cartpole-{kind}", num_envs=num_envs, device="cpu", **options) as env:
        yield env


class _Contract(VecEnvContract):
    kind = ""

    @contextmanager
    def open_env(self) -> Iterator[VecEnv]:
        with _opened(self.kind) as env:
            yield env


class TestDirect(_Contract):
    kind = "Direct"


class TestManager(_Contract):
    kind = "Manager"


class TestCommanded(_Contract):
    kind = "Commanded"


def test_a_command_is_held_through_draws_and_ends() -> None:
    with _opened("Commanded") as env:
        (command,) = env.command_terms
        assert (command.name, command.elements) == ("twist", ("lin_vel_x", "lin_vel_y", "ang_vel_z"))
        assert command.ranges == ((-1.0, 2.0), (0.0, 1.0), (-3.0, 3.0))
        env.hold_command("twist", torch.tensor([0.5, 0.25, -1.0]))
        # 40 steps: ten draws, and the end of every episode, which has 30.
        for _ in range(40):
            env.step(torch.zeros(6, 1))
        assert env.get_command("twist").tolist() == [[0.5, 0.25, -1.0]] * 6
        env.hold_command("twist", None)
        for _ in range(5):
            env.step(torch.zeros(6, 1))
        assert len(set(env.get_command("twist")[:, 0].tolist())) > 1


def test_terms_and_joints_are_told_where_there_are_managers() -> None:
    with _opened("Direct") as env:
        assert (env.observation_terms, env.action_terms) == ({}, ())
    with _opened("Manager") as env:
        joints = ("slider_to_cart", "cart_to_pole")
        expected = tuple(Term(name, (2,), joints, scale=1.0) for name in ("joint_pos_rel", "joint_vel_rel"))
        assert env.observation_terms == {"policy": expected}
        assert env.action_terms == (Term("joint_effort", (1,), joints[:1], scale=100.0, offset=0.0),)


@pytest.mark.parametrize("kind", ["Direct", "Manager"])
def test_final_observations_are_those_before_the_reset(kind: str) -> None:
    with _opened(kind) as env:
        env.episode_length_buf = torch.full((6,), int(env.max_episode_length) - 1)
        before = env.get_observations()["policy"]
        obs, _, dones, extras = env.step(torch.zeros(6, 1))
        assert dones.all() and extras["time_outs"].all()
        # One step of 1/60 s moves a cart by its speed, and a reset by up to a metre.
        moved = (extras["final_obs"]["policy"] - before)[:, 0].abs()
        assert moved.max() < 0.1
        assert (obs["policy"] - before)[:, 0].abs().max() > 0.1
        assert extras["log"]
        assert not env.step(torch.zeros(6, 1))[3]["log"]


def _run(folder: Path, *arguments: str) -> str:
    paths = [str(Path(__file__).parent), str(isaaclab_stubs.folder()), *filter(None, sys.path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_one_command_trains_with_the_tasks_settings(tmp_path: Path) -> None:
    options = {"--sim": "isaaclab", "--device": "cpu", "--run-dir": "run", "--eval-episodes": "2"}
    arguments = [text for option in options.items() for text in option]
    task = "newton_cartpole:Newton-Cartpole-Direct"
    output = _run(tmp_path, "-m", "sim_rl_plugin", "train", "--task", task, *arguments, "--no-video", "logger=[csv]")
    assert (tmp_path / "run" / "model_2.pt").is_file()
    assert "num_envs: 64" in (tmp_path / "run" / "config.yaml").read_text()
    assert "2 episodes" in output


def test_isaac_labs_own_command_trains_with_our_runner(tmp_path: Path) -> None:
    pytest.importorskip("rsl_rl")
    start = (
        "import sys, newton_cartpole\nfrom isaaclab_rl.entrypoints import run_train_cli\nrun_train_cli(sys.argv[1:])"
    )
    callback = "sim_rl_isaaclab.takeover.external_callback"
    _run(
        tmp_path, "-c", start, "--rl_library", "rsl_rl", "--task", "Newton-Cartpole-Direct", "--device", "cpu",
        "--num_envs", "16", "--max_iterations", "2", "--external_callback", callback,
        "agent.device=cpu",
    )  # fmt: skip
    (checkpoint,) = tmp_path.glob("logs/rsl_rl/cartpole_direct/*/model_1.pt")
    # Ours: rsl_rl's own checkpoints do not hold this.
    assert "sim_rl" in torch.load(checkpoint, weights_only=True)
