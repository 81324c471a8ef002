"""Runs of ``sim-rl`` with the plugin ``point_lab``, and what they leave, for several test files."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def in_a_process(*arguments: object, at: str = "", signal: str = "SIGKILL") -> subprocess.CompletedProcess[str]:
    """Run ``sim-rl`` in a process that gets a signal at the end of an iteration, as ``stage:iteration``."""
    code = (
        "import sys, point_lab; from sim_rl_plugin import plugins; "
        "plugins.get_manager().register(point_lab, 'point_lab'); "
        "from sim_rl_plugin.cli.main import main; main(sys.argv[1:], prog_name='sim-rl')"
    )
    path = os.pathsep.join(str(folder) for folder in (ROOT, ROOT / "adapters", ROOT / "tests"))
    environ = {**os.environ, "PYTHONPATH": path, "POINT_LAB_AT": at, "POINT_LAB_SIGNAL": signal}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)


@contextmanager
def owned_by_a_process(folder: Path) -> Iterator[int]:
    """Let another process own a folder meanwhile; its number is yielded."""
    code = (
        "import sys; from pathlib import Path; from sim_rl_plugin.folder_lock import owned_folder\n"
        "with owned_folder(Path(sys.argv[1]), 'training in'): print('owned', flush=True); sys.stdin.read()"
    )
    command, environ = [sys.executable, "-c", code, str(folder)], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        yield process.pid
        process.stdin.close()


def same(one, other, where: str = "") -> None:
    """Assert that two checkpoints hold the same, but for times, and for where they lie."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if key not in ("total_time_s", "init_from"):
                same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{where}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def iterations(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open() as file:
        return [int(row["iteration"]) for row in csv.DictReader(file)]
