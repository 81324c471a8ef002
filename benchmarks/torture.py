"""A training that never stops against the same training killed 50 times: is the result the same, bit for bit?

    python benchmarks/torture.py --kills 50

Both are ``sim-rl train`` on the MuJoCo adapter. One runs straight. The other is run again and again by the
command of a job script (``--resume-latest``) and killed by SIGKILL each time: while it starts, at a random
time, or while it writes a checkpoint. After every kill each checkpoint file must load. At the end all
checkpoints, the learning curve, TensorBoard's points and an evaluation are compared.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from circumstances import write_results

from sim_rl_plugin.checkpoint import read_checkpoint
from sim_rl_plugin.errors import UserError

TIME_COLUMNS = ("Perf/total_fps", "Perf/collection_time", "Perf/learning_time", "Perf/total_time_s")
SMALL = (
    "env.num_threads=1", "torch_num_threads=1", "num_steps_per_env=16", "algorithm.num_learning_epochs=2",
    "actor.hidden_dims=[16]", "critic.hidden_dims=[16]", "console=false",
)  # fmt: skip
# Pieces are forked off a process that has imported everything: what is killed is the training, not Python's imports.
_PRELOADED = [
    "sim_rl_plugin.cli.main",
    "sim_rl_plugin.cli.train",
    "sim_rl_mujoco.open",
    "tensorboard.compat.proto.event_pb2",
]


@dataclass
class Torture:
    """One training, straight and in pieces.

    Attributes:
        root: Folder of both run folders.
        task: Task of the MuJoCo adapter.
        iterations: Iterations of the training.
        save_interval: Iterations from checkpoint to checkpoint.
        seed: Of the training, and of the kills.
        settings: Further settings of the training.
        killed: How many kills hit what.
        checked: How many checkpoint files were looked at after kills.
        broken: What was wrong with those that failed to load.
    """

    root: Path
    task: str = "InvertedPendulum"
    iterations: int = 60
    save_interval: int = 3
    seed: int = 1
    settings: tuple[str, ...] = SMALL
    killed: Counter[str] = field(default_factory=Counter)
    checked: int = 0
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(_PRELOADED)

    def arguments(self, folder: str, *more: str) -> list[str]:
        """Return the arguments of ``sim-rl`` for a run folder."""
        return [
            "train", "--sim", "mujoco", "--task", self.task, "--run-dir", str(self.root / folder), "--num-envs", "8",
            "--seed", str(self.seed), "--max-iterations", str(self.iterations), "--no-video", "--eval-episodes", "0",
            f"save_interval={self.save_interval}", *self.settings, *more,
        ]  # fmt: skip

    def straight(self) -> float:
        """Train without a stop, and return how many seconds it took."""
        start_s = time.perf_counter()
        process = self._start(self.arguments("straight"))
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"the straight training failed, see {self.root / 'output.txt'}")
        return time.perf_counter() - start_s

    def in_pieces(self, kills: int) -> None:
        """Train until ``kills`` pieces have been killed, and then to the end."""
        folder = self.root / "cut"
        while self.killed.total() < kills:
            before = _last_iteration(folder)
            # On the way to the end, so that there is something left for each kill.
            left = max(1, self.iterations - before - 2 * self.save_interval)
            distance = self._random.randint(0, max(1, 2 * left // (kills - self.killed.total() + 1)))
            process = self._start(self.arguments("cut", "--resume-latest"))
            kind = self._kill(process, folder, before + distance)
            if process.exitcode == 0:
                raise RuntimeError(
                    f"the training was complete after {self.killed.total()} kills: give it more iterations"
                )
            if process.exitcode != -signal.SIGKILL:
                raise RuntimeError(f"a piece ended with {process.exitcode}, see {self.root / 'output.txt'}")
            self.killed[kind] += 1
            self._load_all(folder)
        process = self._start(self.arguments("cut", "--resume-latest"))
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"the last piece failed, see {self.root / 'output.txt'}")

    def _start(self, arguments: list[str]) -> Any:
        process = self._processes.Process(target=_sim_rl, args=(arguments, str(self.root / "output.txt")))
        process.start()
        return process

    def _kill(self, process: Any, folder: Path, iteration: int) -> str:
        """Kill a piece once it has reached an iteration, and return what it was doing."""
        kind = self._random.choices(["starting", "training", "writing a checkpoint"], weights=[1, 4, 5])[0]
        if kind == "starting":
            _wait(process, lambda: False, at_most_s=self._random.uniform(0.0, 1.0))
        else:
            _wait(process, lambda: _last_iteration(folder) >= iteration)
        if kind == "training":
            _wait(process, lambda: False, at_most_s=self._random.uniform(0.0, 0.5))
        known = _unfinished(folder)
        if kind == "writing a checkpoint":
            _wait(process, lambda: bool(_unfinished(folder) - known))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        # Whatever was meant: a file beside a checkpoint tells what was hit.
        if _unfinished(folder) - known:
            return "writing a checkpoint"
        return "training" if kind == "writing a checkpoint" else kind

    def _load_all(self, folder: Path) -> None:
        for path in folder.glob("model_*.pt"):
            try:
                read_checkpoint(path)
            except UserError as error:
                self.broken.append(str(error))
            self.checked += 1

    def differences(self) -> list[str]:
        """Return what is not the same in both runs; nothing if they are identical."""
        straight, cut = self.root / "straight", self.root / "cut"
        names = [sorted(path.name for path in folder.glob("model_*.pt")) for folder in (straight, cut)]
        found = [] if names[0] == names[1] else [f"checkpoints: {names[0]} and {names[1]}"]
        for name in set(names[0]) & set(names[1]):
            first, second = (read_checkpoint(folder / name) for folder in (straight, cut))
            found += [f"{name}: {where}" for where in differing(first, second)]
        for what, read in (("learning curve", read_curve), ("tensorboard", read_points)):
            if read(straight) != read(cut):
                found.append(what)
        if self._evaluation(straight) != self._evaluation(cut):
            found.append("evaluation")
        return found

    def _evaluation(self, folder: Path) -> dict[str, Any]:
        from sim_rl_plugin.cli.main import main

        output = io.StringIO()
        with redirect_stdout(output):
            main(["eval", str(folder), "--episodes", "8", "--json"], standalone_mode=False)
        return {key: value for key, value in json.loads(output.getvalue()).items() if key != "checkpoint"}


def _sim_rl(arguments: list[str], output: str) -> None:
    """Be ``sim-rl`` in a process of its own."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from sim_rl_plugin.cli.main import main

    main(arguments)


def _wait(process: Any, condition: Callable[[], bool], at_most_s: float = 600.0) -> None:
    """Wait until a condition holds, the process ends, or the time is up."""
    end_s = time.monotonic() + at_most_s
    while process.is_alive() and not condition() and time.monotonic() < end_s:
        time.sleep(0.0002)


def _last_iteration(folder: Path) -> int:
    """Return the iteration of the last checkpoint, -1 before the first."""
    return max((int(path.stem.removeprefix("model_")) for path in folder.glob("model_*.pt")), default=-1)


def _unfinished(folder: Path) -> set[str]:
    """Return the names of files that are not yet, or will never be, checkpoints."""
    return {path.name for path in folder.glob(".unfinished.model_*")}


def read_curve(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a run's metrics, without what depends on the clock."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{tag: value for tag, value in row.items() if tag not in TIME_COLUMNS} for row in csv.DictReader(file)]


def read_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return TensorBoard's points as its own reader finds them, without what depends on the clock."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag not in TIME_COLUMNS and not tag.endswith("/time")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def differing(first: Any, second: Any, where: str = "") -> list[str]:
    """Return the places where two checkpoints differ in a bit; the time that was spent is not compared."""
    if where.endswith(".total_time_s"):
        return []
    if type(first) is not type(second):
        return [where]
    if isinstance(first, dict):
        keys = dict.fromkeys([*first, *second])
        missing = object()
        return [
            d for key in keys for d in differing(first.get(key, missing), second.get(key, missing), f"{where}.{key}")
        ]
    if isinstance(first, (list, tuple)) and len(first) == len(second):
        return [d for i, pair in enumerate(zip(first, second, strict=True)) for d in differing(*pair, f"{where}[{i}]")]
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape
        return [] if same and torch.equal(_bits(first), _bits(second)) else [where]
    return [] if first == second or (first != first and second != second) else [where]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--save-interval", type=int, default=3)
    parser.add_argument("--task", default="InvertedPendulum")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    start_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        torture = Torture(Path(folder), args.task, args.iterations, args.save_interval, args.seed)
        straight_s = torture.straight()
        torture.in_pieces(args.kills)
        differences = torture.differences()
        points = sum(len(values) for values in read_points(torture.root / "straight").values())
        results = {
            "arguments": vars(args),
            "settings": list(torture.settings),
            "kills": dict(torture.killed),
            "checkpoints_loaded_after_kills": torture.checked,
            "checkpoints_that_failed_to_load": len(torture.broken),
            "compared": {
                "checkpoints": len(list((torture.root / "straight").glob("model_*.pt"))),
                "rows_of_metrics": len(read_curve(torture.root / "straight")),
                "points_of_tensorboard": points,
                "episodes_of_evaluation": 8,
            },
            "differences": differences,
            "straight_s": round(straight_s, 1),
            "total_s": round(time.perf_counter() - start_s, 1),
        }
    print(json.dumps(results, indent=2))
    if differences or torture.broken:
        sys.exit("the runs differ")
    write_results("torture", results)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
