"""What the NaN quarantine costs when nothing is wrong: whole iterations with and without it, in turn.

python benchmarks/quarantine.py

Two trainings that are equal but for ``check_for_nan`` take turns in one process, ten iterations at a time, and which
of them goes first alternates. The measure is the process's CPU time per iteration; the median of the ratios of
neighbouring turns is the cost.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
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

ITERATIONS_PER_TURN = {"small": 10, "large": 1, "HalfCheetah": 5}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=30, help="turns of each of the two per load")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--no-file", action="store_true", help="only print")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name in arguments.loads:
        results[name] = LOADS[name] | measure(name, arguments.turns)
        print(f"{name}: {results[name]['cost']:+.2%} of {results[name]['off_ms']:.1f} ms", flush=True)
    if not arguments.no_file:
        write_results("quarantine", {"turns": arguments.turns, "loads": results})


def measure(name: str, turns: int) -> dict[str, float]:
    """Return medians of CPU time per iteration, with and without the quarantine, and its cost."""
    runners = {on: runner(name, on) for on in (True, False)}
    iterations = ITERATIONS_PER_TURN[name]
    for each in runners.values():
        each.learn(2)
    times: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(turns):
        for on in (True, False) if turn % 2 else (False, True):
            start_s = time.process_time()
            runners[on].learn(iterations)
            times[on].append((time.process_time() - start_s) / iterations)
    # Each with the one beside it, so that what else the machine does touches both.
    ratios = [on / off for on, off in zip(times[True], times[False], strict=True)]
    quarters = statistics.quantiles(ratios, n=4)
    return {
        "on_ms": statistics.median(times[True]) * 1e3,
        "off_ms": statistics.median(times[False]) * 1e3,
        "cost": statistics.median(ratios) - 1.0,
        "cost_quartiles": [quarters[0] - 1.0, quarters[2] - 1.0],  # type: ignore[dict-item]
    }


def runner(name: str, check_for_nan: bool) -> OnPolicyRunner:
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
    return OnPolicyRunner(environment(name), cfg)


def environment(name: str) -> VecEnv:
    """Return the environment of a load."""
    load = LOADS[name]
    if name != "HalfCheetah":
        # Points that leave the field at all times, so that final observations are looked at in most steps.
        return PointEnv(load["envs"], load["actions"], load["obs"], max_episode_length=1000)
    from sim_rl_mujoco.open import open_task

    for env in itertools.islice(_opened(open_task(name, num_envs=load["envs"], device="cpu", seed=0, render=False)), 1):
        return env
    raise AssertionError("a task opens one environment")


def _opened(context: Any) -> Any:
    with context as env:
        yield env


if __name__ == "__main__":
    main()
