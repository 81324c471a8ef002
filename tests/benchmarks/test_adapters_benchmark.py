"""The benchmark of the adapters counts what it says, on contenders whose every step is known."""

import argparse
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import tables
from contenders import Contender, OurHandOver, RslRlHandOver

import adapters


def spend(seconds: float) -> None:
    """Use the processor for so long."""
    end_s = time.process_time() + seconds
    while time.process_time() < end_s:
        pass


def repeat(times, function):
    for _ in range(times):
        function()


def test_ratios_are_taken_inside_a_round():
    # 2 / 1, 4 / 4 and 9 / 3, whose median is 2; the ratio of the medians would be 4 / 3.
    assert adapters.ratios({"ours": [2.0, 4.0, 9.0], "peer": [1.0, 4.0, 3.0]}, "peer") == {"ours": 2.0, "peer": 1.0}


def test_preparations_are_not_counted():
    prepared = []
    samples = adapters.in_turn({"a": lambda: spend(0.001)}, 5, 2, {"a": lambda: (prepared.append(1), spend(0.02))})
    assert len(prepared) == 2 * 6  # one round more, to warm up
    assert 1000 <= min(samples["a"]) < 20000


def test_a_task_is_measured_frozen_and_with_one_environment_ending():
    opened, ending, handed_over = [], [], []

    @contextmanager
    def open_contenders(task, num_envs, frozen):
        opened.append((task, num_envs, frozen))
        yield {
            "peer": Contender(lambda: "result", ending.append, handed_over.append),
            "ours": Contender(lambda: spend(0.001), ending.append),
        }

    simulator = SimpleNamespace(TASKS={"t": 3}, PEER="peer", open_contenders=open_contenders)
    args = argparse.Namespace(rounds=1, calls=2, cpu_seconds=0.0)
    result = adapters.measure(simulator, "t", args)
    assert opened == [("t", 3, True), ("t", 3, False)]
    assert set(ending) == {0, 1}
    assert set(handed_over) == {"result"}
    assert result["rounds_with_physics"] == 15
    assert list(result["us_per_step"]) == ["step alone", "alone, handed over", "none ends", "one ends"]
    assert all(values["ours"] >= 1000 for values in result["us_per_step"].values())

    circumstances = {"date": "today", "cpu": "fast", "cores": 1, "versions": {"torch": "2"}}
    table = tables.adapter({**circumstances, "simulator": "sim", "peer": "peer", "tasks": {"t": result}})
    assert "### Adapter sim" in table
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| t, 3")]
    assert [row[1] for row in rows] == ["peer", "ours"]
    assert all(len(row) == 6 for row in rows)


@pytest.mark.parametrize("hand_over", [RslRlHandOver(), OurHandOver()])
def test_both_hand_overs_look_for_nan(hand_over):
    obs = TensorDict({"policy": torch.full((2, 3), torch.nan)}, batch_size=[2], device="cpu")
    result = (obs, torch.zeros(2), torch.zeros(2, dtype=torch.bool), {})
    with pytest.raises(ValueError, match="NaN"):
        repeat(24, lambda: hand_over(result))
