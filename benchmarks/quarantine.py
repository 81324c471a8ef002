"""What the NaN quarantine costs when nothing is wrong: whole iterations with and without it, in turn.

python benchmarks/quarantine.py

Three trainings take turns in one process, an iteration at a time, in random order: with the quarantine, without it
(``check_for_nan: false``), and again without it, as a control that says how well the difference of two equal trainings
is known here. The measure is CPU time of the thread. Since that control is often no better than a per cent, the time
spent inside the quarantine's own calls is measured as well, within the same iterations.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from circumstances import write_results

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv

LOADS: dict[str, dict[str, Any]] = {
    "small": {"envs": 256, "steps": 32, "obs": 17, "actions": 6, "hidden": [64, 64], "mini_batches": 8},
    "large": {"envs": 2048, "steps": 24, "obs": 48, "actions": 12, "hidden": [512, 256, 128], "mini_batches": 4},
    "HalfCheetah": {"envs": 256, "steps": 32, "obs": 17, "actions": 6, "hidden": [64, 64], "mini_batches": 8},
}
"""``small`` and ``large`` are points, which cost next to nothing to simulate: what the quarantine adds shows most."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=30, help="iterations of each of the three per load")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--no-file", action="store_true", help="only print")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name in arguments.loads:
        results[name] = LOADS[name] | measure(name, arguments.turns)
        row = results[name]
        print(
            f"{name}: {row['off_ms']:.1f} ms; {row['difference']:+.2%} (control {row['difference_of_control']:+.2%}), "
            f"own calls {row['own_calls']:.2%}",
            flush=True,
        )
    if not arguments.no_file:
        write_results("quarantine", {"turns": arguments.turns, "loads": results})


def measure(name: str, turns: int) -> dict[str, Any]:
    """Return medians of CPU time per iteration, and the quarantine's cost by both measures."""
    spent_s = Spent()
    times: dict[str, list[float]] = {"on": [], "off": [], "control": []}
    own: list[float] = []
    order = random.Random(0)
    with ExitStack() as stack:
        runners = {kind: runner(name, kind == "on", stack) for kind in times}
        spent_s.watch(runners["on"]._guard, "begin", "add_step", "inspect")
        for each in runners.values():
            each.learn(2)
        for _ in range(turns):
            for kind in order.sample(list(runners), 3):
                spent_s.total, start_s = 0.0, time.thread_time()
                runners[kind].learn(1)
                times[kind].append(time.thread_time() - start_s)
                if kind == "on":
                    own.append(spent_s.total / times[kind][-1])
    return {
        **{f"{kind}_ms": statistics.median(values) * 1e3 for kind, values in times.items()},
        "difference": _excess(times["on"], times["off"]),
        "difference_of_control": _excess(times["control"], times["off"]),
        "own_calls": statistics.median(own),
    }


def _excess(times: list[float], others: list[float]) -> float:
    """Return by what share the iterations took longer than those of the same turns."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True)) - 1.0


class Spent:
    """Adds up the thread's CPU time inside some methods of an object, in ``total`` seconds."""

    def __init__(self) -> None:
        self.total = 0.0

    def watch(self, owner: Any, *names: str) -> None:
        """Put a clock around these methods."""
        for name in names:
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start_s = time.thread_time()
            result = method(*arguments)
            self.total += time.thread_time() - start_s
            return result

        return timed


def runner(name: str, check_for_nan: bool, stack: ExitStack) -> OnPolicyRunner:
    """Return a training of a load."""
    load = LOADS[name]
    model = {"class_name": "MLPModel", "hidden_dims": load["hidden"], "obs_normalization": True}
    cfg = {
        "num_steps_per_env": load["steps"],
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "logger": [],
        "console": False,
        "check_for_nan": check_for_nan,
        "algorithm": {"class_name": "PPO", "num_mini_batches": load["mini_batches"]},
        "actor": {**model, "distribution_cfg": {"class_name": "GaussianDistribution"}},
        "critic": model,
    }
    torch.manual_seed(0)
    return OnPolicyRunner(environment(name, stack), cfg)


def environment(name: str, stack: ExitStack) -> VecEnv:
    """Return the environment of a load, to be closed with ``stack``."""
    load = LOADS[name]
    if name == "HalfCheetah":
        from sim_rl_mujoco.open import open_task

        return stack.enter_context(open_task(name, num_envs=load["envs"]))
    # Random actions drive points off the field at all times, so that final observations are there in most steps.
    return PointEnv(load["envs"], load["actions"], load["obs"], max_episode_length=1000)


if __name__ == "__main__":
    main()
