"""Seconds until `sim-rl --help` and `sim-rl plugins` have answered, beside a bare Python.

python benchmarks/startup.py --rounds 15
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from circumstances import write_results

SIM_RL = str(Path(sys.executable).with_name("sim-rl"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "sim-rl --help": [SIM_RL, "--help"],
    "sim-rl plugins": [SIM_RL, "plugins"],
    "sim-rl list": [SIM_RL, "list"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    times_s: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(args.rounds):
        for name, command in COMMANDS.items():
            start_s = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times_s[name].append(time.perf_counter() - start_s)
    medians_s = {name: round(statistics.median(values), 3) for name, values in times_s.items()}
    for name, median_s in medians_s.items():
        print(f"{name:20s} {median_s:.3f} s")
    write_results("startup", {"rounds": args.rounds, "median_s": medians_s})


if __name__ == "__main__":
    main()
