"""``sim-rl train`` on ``fault_points`` in processes of its own."""

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rank_processes import environ

from sim_rl_plugin.checkpoint import read_checkpoint

SMALL = (
    "num_steps_per_env=4", "save_interval=1", "console=false", "logger=[csv]", "actor.hidden_dims=[8]",
    "critic.hidden_dims=[8]", "algorithm.num_learning_epochs=1", "algorithm.num_mini_batches=2",
    "torch_num_threads=1", "fast=false",
)  # fmt: skip


class Launch:
    """One training in a folder, that may be started several times."""

    def __init__(self, folder: Path, iterations: int = 6, num_envs: int = 6) -> None:
        self.folder, self.run_dir = folder, folder / "run"
        self.iterations, self.num_envs = iterations, num_envs

    def start(self, *more: str, faults: str = "", name: str = "output", **variables: str) -> subprocess.Popen:
        arguments = [
            "train", "--sim", "fault_points:open_points", "--task", "Go", "--num-envs", str(self.num_envs),
            "--max-iterations", str(self.iterations), "--no-video", "--eval-episodes", "0", *SMALL,
            "--run-dir", str(self.run_dir), *more,
        ]  # fmt: skip
        self.output = self.folder / f"{name}.txt"
        told = {"FAULTS": faults, "FAULT_FOLDER": str(self.folder), "RUN": str(self.run_dir), "SIM_RL_PLUGINS": ""}
        with self.output.open("w") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "sim_rl_plugin", *arguments],
                env=environ(**told, **variables),
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )

    def run(self, *more: str, **options: str) -> int:
        """Start, and return the status."""
        return self.start(*more, **options).wait(timeout=240)

    def text(self, name: str = "output") -> str:
        return (self.folder / f"{name}.txt").read_text()

    def opened(self, rank: int) -> list[list[int]]:
        """Return number of environments and seed of each time that a rank opened the simulator."""
        return [[int(part) for part in line.split()] for line in
                (self.folder / f"opened_by_{rank}").read_text().splitlines()]  # fmt: skip

    def rows(self) -> list[int]:
        path = self.run_dir / "metrics.csv"
        if not path.is_file():
            return []
        with path.open() as file:
            return [int(row["iteration"]) for row in csv.DictReader(file) if row["iteration"]]

    def is_complete(self) -> bool:
        """Return whether every iteration was done, and counted once."""
        last = read_checkpoint(self.run_dir / f"model_{self.iterations - 1}.pt")
        return self.rows() == list(range(self.iterations)) and (
            last["sim_rl"]["completed_iterations"] == self.iterations
        )


def children(process: int) -> Sequence[int]:
    """Return the processes whose parent this one is."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == process:
                found.append(int(path.name))
    return found


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and os.path.exists(f"/proc/{process}")
