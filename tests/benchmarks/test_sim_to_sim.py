"""The benchmark of a policy in two simulators: it trains, exports, compares, and judges as its page says."""

import argparse
import sys
from pathlib import Path

import mujoco
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import circumstances
import sim_to_sim


def test_a_short_training_is_compared_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(circumstances, "RESULTS", tmp_path)
    arguments = argparse.Namespace(iterations=1, episodes=3, seed=1, name="short")
    result = sim_to_sim.compare("HalfCheetah", arguments)
    assert result["iterations"] == 1 and result["gate"].startswith("checked: differs by")
    returns = [entry["mean"] for entry in result["returns"].values()]
    assert len(returns) == 4
    # A policy that has learned nothing stands nearly still: checkpoint and file do the same.
    assert returns[0] == pytest.approx(returns[1], abs=0.5) and returns[3] != returns[1]
    # 17 observations, 6 actions, the reward.
    assert result["gymnasium"]["quantities"] == result["more_gravity"]["quantities"] == 24
    assert result["gymnasium"]["quantities_that_drift"] == 0
    text = (tmp_path / "short_HalfCheetah.md").read_text()
    assert "# HalfCheetah on mujoco, and HalfCheetah on gymnasium" in text and "with more gravity" in text


@pytest.mark.parametrize("task", sim_to_sim.MODELS)
def test_only_the_gravity_differs(task: str, tmp_path):
    changed = mujoco.MjModel.from_xml_path(str(sim_to_sim.with_gravity(task, tmp_path)))
    original = mujoco.MjModel.from_xml_path(str(sim_to_sim.ASSETS / sim_to_sim.MODELS[task]))
    assert changed.opt.gravity[2] == pytest.approx(1.5 * original.opt.gravity[2])
    assert changed.body_mass == pytest.approx(original.body_mass)
    assert changed.actuator_gear == pytest.approx(original.actuator_gear)
