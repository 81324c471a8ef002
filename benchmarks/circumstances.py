"""Machine, versions and date that every result is written with."""

from __future__ import annotations

import json
import os
import platform
import re
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("sim-rl-plugin", "torch", "tensordict", "mujoco", "gymnasium", "numpy", "numba", "envpool", "rsl-rl-lib",
            "stable-baselines3", "playground", "mujoco-mjx", "jax", "mjlab", "mujoco-warp", "warp-lang")  # fmt: skip
RESULTS = Path(__file__).parent / "results"


def circumstances() -> dict[str, Any]:
    """Return date, processor, usable cores and the versions of what is installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": date.today().isoformat(),
        "cpu": _processor(),
        "cores": cores,
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def write_results(name: str, results: dict[str, Any]) -> Path:
    """Write ``results/<name>.json`` and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps(circumstances() | results, indent=2)
    # A list of numbers on one line: a curve is nothing to read point by point.
    text = re.sub(r"\[(?:[-\d.,\se]|null)*\]", lambda found: " ".join(found[0].split()), text)
    path.write_text(text + "\n")
    print(f"written to {path}")
    return path
