"""What an environment step costs through an adapter, beside the bare simulator and its own wrapper for rsl_rl.

Three measurements of each task, in CPU time of this process, in turn, medians over the rounds:

- the adapter alone: the simulator repeats itself, so only the wrapping is timed. Once ``step`` by itself, and
  once with what the runner does to its result until the learner has it on its device: rsl_rl's looks
  for NaN in every tensor and moves three (also to the device they are on), ours adds every tensor to a running
  sum, looks at these once an iteration, and moves what is not there. Neither storage nor network is counted;
- whole steps with physics, handed over, in which no environment ends;
- the same with one environment at its time limit each time, as with thousands of them and episodes of a thousand
  steps.

``step`` by itself flatters a wrapper that hands out the simulator's own buffers: ours are copies, which is in
the contract. Ratios to the peer are taken inside each round. Gymnasium has no wrapper for rsl_rl:
there it is what a careful script does by hand, and Stable-Baselines3's batch beside it. What the MuJoCo adapter
costs is in ``simulation.py``: it is its own simulator.

    python benchmarks/adapters.py gymnasium     # in the environment of `make bench`
    python benchmarks/adapters.py mjx           # where Playground is installed
    python benchmarks/adapters.py mjlab         # where mjlab is
    ISAACLAB_PATH=... python benchmarks/adapters.py isaaclab    # where the tests of Isaac Lab 3 run
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

for variable, value in (("OMP_NUM_THREADS", "1"), ("MJLAB_WARP_QUIET", "1")):
    os.environ.setdefault(variable, value)

import torch  # noqa: E402
from circumstances import write_results  # noqa: E402
from contenders import Contender  # noqa: E402

SIMULATORS = ("gymnasium", "isaaclab", "mjlab", "mjx")
ALONE, HANDED_OVER = "step alone", "alone, handed over"
WITH_PHYSICS = {"none ends": 0, "one ends": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulator", choices=SIMULATORS)
    parser.add_argument("--tasks", nargs="+", help="these instead of all; nothing is written then")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the adapter alone")
    parser.add_argument("--calls", type=int, default=300, help="calls of such a round")
    parser.add_argument(
        "--cpu-seconds", type=float, default=12.0, help="for each case with physics; a round is one step"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    simulator = importlib.import_module(f"contenders.{args.simulator}")
    tasks = {}
    for task in args.tasks or simulator.TASKS:
        tasks[task] = measure(simulator, task, args)
        report(task, tasks[task])
    if args.tasks is None:
        versions = {package: metadata.version(package) for package in simulator.PACKAGES}
        results = {"simulator": args.simulator, "versions": versions, "peer": simulator.PEER}
        results |= {"rounds": args.rounds, "calls": args.calls}
        write_results(f"adapters_{args.simulator}", results | {"tasks": tasks})


def measure(simulator: Any, task: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return microseconds of a step of all environments, by case and contender, and ratios to the peer."""
    num_envs = simulator.TASKS[task]
    samples: dict[str, dict[str, list[float]]] = {}
    with torch.inference_mode():
        with simulator.open_contenders(task, num_envs, frozen=True) as contenders:
            steps = {name: contender.step for name, contender in contenders.items()}
            samples[ALONE] = in_turn(steps, args.rounds, args.calls)
            steps = {name: whole(contender) for name, contender in contenders.items()}
            samples[HANDED_OVER] = in_turn(steps, args.rounds, args.calls)
        with simulator.open_contenders(task, num_envs, frozen=False) as contenders:
            steps = {name: whole(contender) for name, contender in contenders.items()}
            for case, num_ending in WITH_PHYSICS.items():
                preparations = {name: (lambda c=c, n=num_ending: c.let_end(n)) for name, c in contenders.items()}
                samples[case] = in_turn(steps, rounds_in(args.cpu_seconds, steps, preparations), 1, preparations)
    return {
        "num_envs": num_envs,
        "rounds_with_physics": len(samples["none ends"][simulator.PEER]),
        "us_per_step": {case: medians(rounds) for case, rounds in samples.items()},
        "of_peer": {case: ratios(rounds, simulator.PEER) for case, rounds in samples.items()},
    }


def whole(contender: Contender) -> Callable[[], None]:
    """Return a function that takes a step and hands the learner its tensors."""

    def step() -> None:
        contender.hand_over(contender.step())

    return step


def in_turn(
    steps: dict[str, Callable[[], Any]],
    rounds: int,
    calls: int,
    preparations: dict[str, Callable[[], None]] | None = None,
) -> dict[str, list[float]]:
    """Return the microseconds of one call of each kind in every round, after one that warms up.

    Each round has an order of its own, so that nobody always follows the same other.

    Args:
        steps: What to call.
        rounds: How often each has its turn.
        calls: Calls of a turn.
        preparations: What to do before each call, which is not counted.
    """
    samples: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(0)
    for round_ in range(rounds + 1):
        for name in order.sample(list(steps), len(steps)):
            step = steps[name]
            spent_s = timed(step, calls) if preparations is None else timed_apart(step, calls, preparations[name])
            if round_:
                samples[name].append(spent_s / calls * 1e6)
    return samples


def rounds_in(
    cpu_seconds: float, steps: dict[str, Callable[[], Any]], preparations: dict[str, Callable[[], None]]
) -> int:
    """Return how many rounds of one step take about so long, 15 at least."""
    in_turn(steps, 1, 1, preparations)  # compiles
    start_s = time.process_time()
    in_turn(steps, 1, 1, preparations)
    return max(15, int(2 * cpu_seconds / (time.process_time() - start_s)))


def timed(step: Callable[[], Any], calls: int) -> float:
    """Return the CPU seconds of so many calls."""
    start_s = time.process_time()
    for _ in range(calls):
        step()
    return time.process_time() - start_s


def timed_apart(step: Callable[[], Any], calls: int, prepare: Callable[[], None]) -> float:
    """Return the CPU seconds of so many calls, without those of what comes before each."""
    spent_s = 0.0
    for _ in range(calls):
        prepare()
        spent_s += timed(step, 1)
    return spent_s


def medians(rounds: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each contender."""
    return {name: round(statistics.median(values), 2) for name, values in rounds.items()}


def ratios(rounds: dict[str, list[float]], peer: str) -> dict[str, float]:
    """Return the median of each contender's ratio to the peer in the same round."""
    return {
        name: round(statistics.median(a / b for a, b in zip(values, rounds[peer], strict=True)), 3)
        for name, values in rounds.items()
    }


def report(task: str, result: dict[str, Any]) -> None:
    """Print one task's table."""
    print(f"\n{task}, {result['num_envs']} environments: us a step of all of them (times the peer's)")
    cases = list(result["us_per_step"])
    print(f"  {'':32s}" + "".join(f"{case:>22s}" for case in cases))
    names = dict.fromkeys(name for values in result["us_per_step"].values() for name in values)
    for name in names:
        cells = [
            f"{result['us_per_step'][case][name]:12.1f} ({result['of_peer'][case][name]:6.3f})"
            if name in result["us_per_step"][case]
            else "-"
            for case in cases
        ]
        print(f"  {name:32s}" + "".join(f"{cell:>22s}" for cell in cells))


if __name__ == "__main__":
    main()
