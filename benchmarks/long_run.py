"""Does a training grow? Memory, open files, threads and queues over 100,000 iterations of a tiny task.

    python benchmarks/long_run.py --iterations 100000

Everything that runs once an iteration runs here: rollout, update, both log writers, episode statistics, hooks, and
now and then a checkpoint. The task is as small as it can be, so that there are many iterations.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from circumstances import write_results

from sim_rl_plugin import plugins
from sim_rl_plugin.hooks import hookimpl
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv

NUM_ENVS = 2
STEPS = 2


def train_cfg(save_interval: int) -> dict[str, Any]:
    """Return the smallest training that does all that a large one does."""
    model = {"class_name": "MLPModel", "hidden_dims": [4], "obs_normalization": True}
    return {
        "num_steps_per_env": STEPS,
        "save_interval": save_interval,
        "obs_groups": {"actor": ["policy"], "critic": ["critic"]},
        "logger": ["csv", "tensorboard"],
        "console": False,
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 1},
        "actor": {**model, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 0.5}},
        "critic": model,
    }


class Meter:
    """Measures this process as iterations end."""

    def __init__(self, folder: Path, every: int, report: Callable[[list[dict[str, int]]], None]) -> None:
        self.folder, self.every, self.report = folder, every, report
        self.rows: list[dict[str, int]] = []

    @hookimpl
    def sim_rl_iteration_end(self, iteration: int) -> None:
        """Note what there is after every ``every`` iterations."""
        if (iteration + 1) % self.every:
            return
        gc.collect()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        self.rows.append(
            {
                "iterations": iteration + 1,
                "memory_kb": int(status["VmRSS"].split()[0]),
                "python_objects": len(gc.get_objects()),
                "python_blocks": sys.getallocatedblocks(),
                "open_files": len(os.listdir("/proc/self/fd")),
                "threads": int(status["Threads"]),
                "files_in_the_run_folder": sum(1 for path in self.folder.rglob("*") if path.is_file()),
            }
        )
        self.report(self.rows)


def measure(
    folder: Path,
    iterations: int,
    samples: int,
    save_interval: int,
    report: Callable[[list[dict[str, int]]], None] = lambda rows: None,
) -> list[dict[str, int]]:
    """Train, and return what there was at ``samples`` points on the way; ``report`` is told at each."""
    meter = Meter(folder, iterations // samples, report)
    plugins.get_manager().register(meter, "meter")
    try:
        torch.manual_seed(0)
        runner = OnPolicyRunner(PointEnv(NUM_ENVS, max_episode_length=8), train_cfg(save_interval), str(folder))
        runner.learn(iterations)
    finally:
        plugins.get_manager().unregister("meter")
    return meter.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start_s = time.perf_counter()

    def report(rows: list[dict[str, int]]) -> None:
        # The first tenth is warming up: caches fill, and allocators take what they then reuse.
        warm, last = rows[min(len(rows), args.samples // 10) - 1], rows[-1]
        growth = {key: last[key] - warm[key] for key in last if key not in ("iterations", "files_in_the_run_folder")}
        results = {
            "arguments": vars(args) | {"num_envs": NUM_ENVS, "num_steps_per_env": STEPS},
            "iterations": last["iterations"],
            "total_s": round(time.perf_counter() - start_s, 1),
            "growth_after_the_first_tenth": growth,
            "samples": rows,
        }
        write_results("long_run", results)

    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args.iterations, args.samples, args.iterations // args.samples, report)


if __name__ == "__main__":
    main()
