"""Wrong input by the thousand: the properties of ``tests/reliability/test_fuzz_*.py``, with as many cases as asked for.

    python benchmarks/fuzz.py --cases 1000

Each case either works or is refused with one ``UserError`` of one line; the first that does neither fails its
property, and pytest prints it. The counts go to ``results/fuzz.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from circumstances import write_results

ROOT = Path(__file__).parents[1]


def run(cases: int, processes: int, tally: Path) -> int:
    """Run the properties with ``cases`` new cases each and return pytest's exit status."""
    files = sorted((ROOT / "tests").glob("reliability/test_fuzz_*.py"))
    files += [ROOT / "tests" / "env" / "test_form.py", ROOT / "tests" / "adapters" / "mujoco" / "test_bad_options.py"]
    environ = {**os.environ, "FUZZ_CASES": str(cases), "FUZZ_TALLY": str(tally), "OMP_NUM_THREADS": "1"}
    parallel = ["-n", str(processes)] if processes > 1 else ["-n", "0"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *parallel, *map(str, files)], env=environ, cwd=ROOT
    ).returncode


def counts(tally: Path) -> dict[str, dict[str, int]]:
    """Return outcomes and their numbers by kind of input, summed over all processes."""
    total: Counter[str] = Counter()
    for part in tally.parent.glob(f"{tally.name}.*"):
        total.update(json.loads(part.read_text()))
    table: dict[str, dict[str, int]] = {}
    for key, number in sorted(total.items()):
        what, _, outcome = key.partition(": ")
        table.setdefault(what, {"worked": 0, "refused": 0})[outcome] = number
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="cases per property")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = Path(folder) / "tally"
        status = run(arguments.cases, arguments.processes, tally)
        table = counts(tally)
    for what, outcomes in table.items():
        print(f"{what:<36} {outcomes['worked']:>8} worked {outcomes['refused']:>8} refused")
    total = sum(sum(outcomes.values()) for outcomes in table.values())
    print(f"{total} cases, {'no failure' if status == 0 else 'with failures'}")
    if status == 0:
        measured = {"cases": total, "per_property": arguments.cases, "time_s": round(time.monotonic() - start_s)}
        write_results("fuzz", {**measured, "outcomes": table})
    sys.exit(status)


if __name__ == "__main__":
    main()
