"""A fault of a training on MuJoCo, repeated out of its dump bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from sim_rl_mujoco.vec_env import MujocoVecEnv

from sim_rl_plugin import plugins
from sim_rl_plugin.cli.main import main
from sim_rl_plugin.runners.fault_dump import read_dump

FORWARD_VELOCITY = 8


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """HalfCheetah whose reward is NaN where it runs faster than 1.5 m/s, and nobody cleans up after it."""

    def spoil(self: MujocoVecEnv, outcome: Any, bad_actions: Any) -> int:
        outcome.rewards[outcome.observations["policy"][:, FORWARD_VELOCITY] > 1.5] = torch.nan
        return 0

    monkeypatch.setattr(MujocoVecEnv, "_remove_diverged", spoil)
    monkeypatch.setenv("SIM_RL_PLUGINS", "mujoco")
    plugins.reset_manager()
    yield
    plugins.reset_manager()


def sim_rl(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="sim-rl")


def test_a_dump_of_a_run_replays_its_fault_bit_for_bit(tmp_path: Path, faulty: None, monkeypatch) -> None:
    trained = sim_rl(
        "train", "--task", "HalfCheetah", "--num-envs", 16, "--max-iterations", 12, "--run-dir", tmp_path, "--no-video",
        "--eval-episodes", 0, "num_steps_per_env=16", "logger=[csv]", "console=false", "nan_quarantine.max_share=1.0",
        "algorithm.num_mini_batches=1", "actor.distribution_cfg.init_std=1.0",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    dumps = sorted((tmp_path / "quarantine").iterdir())
    assert dumps
    for dump in dumps:
        for fault in read_dump(dump)["faults"]:
            # The observation that came with the reward, if the step did not end the episode.
            assert fault["part"] == "rewards"
            assert float(fault["observations"]["policy"][-1][FORWARD_VELOCITY]) > 1.5
        replayed = sim_rl("replay", dump)
        assert replayed.exit_code == 0, replayed.output
        told = replayed.output.splitlines()
        assert "HalfCheetah on mujoco" in told[0]
        assert len(told) > 1
        assert all(line.endswith("rewards came back; the same observations bit for bit") for line in told[1:])

    monkeypatch.undo()
    monkeypatch.setenv("SIM_RL_PLUGINS", "mujoco")
    plugins.reset_manager()
    healthy = sim_rl("replay", dumps[0])
    assert healthy.exit_code == 1
    assert "did not come back" in healthy.output


def test_a_dump_of_a_script_says_how_to_replay_it(tmp_path: Path, monkeypatch) -> None:
    torch.save({"format": 1, "faults": [], "config": {"algorithm": {}}}, tmp_path / "dump.pt")
    answer = sim_rl("replay", tmp_path / "dump.pt")
    assert answer.exit_code == 2
    assert "replay_fault(env, dump)" in answer.output
