"""A distributed training whose ranks are killed at random times: does it end with the right number of iterations?

    python benchmarks/faults.py --kills 20

Each run is ``sim-rl train`` in several processes; one of them, chosen at random, gets SIGKILL at a random time. Nobody
helps. Afterwards the run must be complete: status 0, the iterations that were asked for, once each in the learning
curve, and checkpoints that load.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circumstances import write_results

from sim_rl_plugin.checkpoint import read_checkpoint

SMALL = (
    "num_steps_per_env=16", "algorithm.num_learning_epochs=2", "actor.hidden_dims=[16]", "critic.hidden_dims=[16]",
    "console=false",
)  # fmt: skip


@dataclass
class Faults:
    """Runs that are hit, and what came of them.

    Attributes:
        root: Folder of the run folders.
        ranks: Processes of each training.
        iterations: Iterations of each training.
        seed: Of the kills.
        longest_s: Latest time of a kill, after the training has begun.
        runs: What happened in each.
    """

    root: Path
    ranks: int = 2
    iterations: int = 60
    seed: int = 1
    longest_s: float = 4.0
    runs: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def command(self, folder: Path) -> list[str]:
        """Return the training's command."""
        return [
            sys.executable, "-m", "sim_rl_plugin", "train", "--sim", "mujoco", "--task", "InvertedPendulum",
            "--run-dir", str(folder), "--num-envs", "8", "--max-iterations", str(self.iterations), "--no-video",
            "--eval-episodes", "0", "--nproc-per-node", str(self.ranks), "save_interval=5", *SMALL,
        ]  # fmt: skip

    def hit_one(self) -> dict[str, Any]:
        """Run a training, kill one of its ranks, and look at the outcome."""
        folder = self.root / f"run{len(self.runs)}"
        output = self.root / f"run{len(self.runs)}.txt"
        start_s = time.monotonic()
        with output.open("w") as file:
            process = subprocess.Popen(
                self.command(folder), stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            ranks: list[int] = []
            # Sometimes while they start, mostly while they train.
            is_early = self._random.random() < 0.2
            while process.poll() is None and (len(ranks) < self.ranks or not (is_early or _has_begun(folder))):
                time.sleep(0.02)
                ranks = rank_processes(process.pid)
            time.sleep(self._random.uniform(0.0, self.longest_s))
            victim = self._random.choice(ranks)
            at_iteration = _last_row(folder)
            was_running = process.poll() is None and victim in rank_processes(process.pid)
            if was_running:
                os.kill(victim, signal.SIGKILL)
            status = process.wait(timeout=300)
        result = {
            "rank": ranks.index(victim), "hit": was_running, "after_iteration": at_iteration, "status": status,
            "seconds": round(time.monotonic() - start_s, 1), "wrong": self.wrong(folder, status),
        }  # fmt: skip
        self.runs.append(result)
        return result

    def wrong(self, folder: Path, status: int) -> list[str]:
        """Return what is not as it should be."""
        found = [] if status == 0 else [f"status {status}"]
        rows = iterations_in(folder)
        if rows != list(range(self.iterations)):
            found.append(f"{len(rows)} rows in the learning curve, {len(set(rows))} different ones")
        last = folder / f"model_{self.iterations - 1}.pt"
        if not last.is_file():
            return [*found, "no last checkpoint"]
        completed = read_checkpoint(last)["sim_rl"]["completed_iterations"]
        return found if completed == self.iterations else [*found, f"{completed} iterations in the last checkpoint"]


def rank_processes(launcher: int) -> list[int]:
    """Return the processes that a launcher has started, by age; the helpers of ``multiprocessing`` are left out."""
    children = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == launcher and b"spawn_main" in command:
            children.append(int(path.name))
    return sorted(children)


def iterations_in(folder: Path) -> list[int]:
    """Return the iterations in a run's learning curve."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open() as file:
        return [int(row["iteration"]) for row in csv.DictReader(file) if row["iteration"]]


def _has_begun(folder: Path) -> bool:
    return any(folder.glob("model_*.pt"))


def _last_row(folder: Path) -> int:
    return max(iterations_in(folder), default=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faults = Faults(Path(folder), arguments.ranks, arguments.iterations, arguments.seed)
        while sum(run["hit"] for run in faults.runs) < arguments.kills:
            print(len(faults.runs), faults.hit_one(), flush=True)
        wrong = [run for run in faults.runs if run["wrong"]]
        print(f"{arguments.kills} kills in {len(faults.runs)} runs, {len(wrong)} went wrong")
        write_results("faults", {"ranks": arguments.ranks, "iterations": arguments.iterations, "runs": faults.runs})
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
