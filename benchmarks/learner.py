"""Whole iterations of our learner beside rsl-rl-lib's, through each one's own runner, on an environment that is free.

Every contender lives in a process of its own, and they take turns: a round is a few iterations of each. Ratios are
taken inside a round, so that a load from outside weighs on both, and medians over the rounds are reported. rsl-rl-lib
runs plain and compiled, and on one thread beside all of them, for some of torch's operations are slower on several; the
best of these counts. Both sides get the same allocator settings.

    python benchmarks/learner.py                       # all loads, all usable cores
    python benchmarks/learner.py --quick --threads 1   # a look: few rounds, one precision
    python benchmarks/learner.py --growth envs networks horizon
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

OURS, PEER = "sim-rl", "rsl-rl-lib"
ALLOCATOR = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
"""Keeps freed memory in the process; without it glibc gives every large buffer back and faults it in again."""
COMPILE_MODE = "default"


def main() -> None:
    args = parse_arguments()
    if args.worker:
        work(**json.loads(args.worker))
        return
    from circumstances import write_results
    from learner_loads import LOADS, growth

    loads = {name: LOADS[name] for name in args.loads}
    results: dict[str, Any] = {
        "threads": args.threads,
        "rounds": args.rounds,
        "allocator": ALLOCATOR,
        "peak_gflops": {precision: measured_peak(precision, args.threads) for precision in args.precisions},
        "loads": {name: measure(name, load, args) for name, load in loads.items()},
        "growth": {},
    }
    for kind in args.growth:
        # One precision: the largest loads of several would not fit into memory together.
        args.rounds, args.iterations, args.compiled, args.precisions = 1, 1, False, args.precisions[:1]
        results["growth"][kind] = {name: measure(name, load, args) for name, load in growth(kind).items()}
    add_shares(results)
    report(results)
    if args.output:
        path = write_results(args.output, results)
        plot(results, path.with_suffix(".png"))


def parse_arguments() -> argparse.Namespace:
    from learner_loads import LOADS

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", nargs="*", choices=LOADS, default=list(LOADS))
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "mixed"), default=["fp32", "mixed"])
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--iterations", type=int, default=0, help="per round; 0 picks a second's worth")
    parser.add_argument("--growth", nargs="*", choices=("envs", "networks", "horizon"), default=[])
    parser.add_argument(
        "--compiled", action=argparse.BooleanOptionalAction, default=True, help="rsl-rl-lib compiled, too"
    )
    parser.add_argument("--plain", action="store_true", help="our plain path, too")
    parser.add_argument("--quick", action="store_true", help="three rounds, rsl-rl-lib plain only, no file")
    parser.add_argument("--output", default="learner", help="name of the results; empty writes none")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.compiled, args.output = min(args.rounds, 3), False, ""
    return args


def measure(name: str, load: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Return what each contender needed for one load: per iteration, medians over the rounds."""
    from learner_loads import operations_per_iteration

    workers: dict[str, Worker] = {}
    for precision in args.precisions:
        for side, mode, fast, threads in contenders(args):
            label = f"{side}{' compiled' if mode else ''}{'' if fast else ' plain'}"
            label += f"{' 1 thread' if threads != args.threads else ''} {precision}"
            workers[label] = Worker(name, load, side, precision == "mixed", mode, fast, threads)
    samples: dict[str, list[dict[str, float]]] = {label: [] for label in workers}
    try:
        first_s = {label: worker.run(1)["wall_s"] for label, worker in workers.items()}
        numbers = {label: args.iterations or max(1, round(1.0 / worker.run(1)["wall_s"]))
                   for label, worker in workers.items()}  # fmt: skip
        for index in range(args.rounds):
            order = list(workers) if index % 2 == 0 else list(reversed(workers))
            for label in order:
                samples[label].append(workers[label].run(numbers[label]))
    finally:
        for worker in workers.values():
            worker.close()
    rows = {label: summary(rounds, first_s[label]) for label, rounds in samples.items()}
    result: dict[str, Any] = {
        "samples": load.num_samples,
        "gflop": round(operations_per_iteration(load) / 1e9, 3),
        "contenders": rows,
        "ratios": {precision: ratios(samples, precision) for precision in args.precisions},
    }
    print(name, json.dumps(result["ratios"]), flush=True)
    return result


def contenders(args: argparse.Namespace) -> list[tuple[str, str | None, bool, int]]:
    """Return side, compile mode, whether fast paths are allowed, and threads."""
    found: list[tuple[str, str | None, bool, int]] = [
        (OURS, None, True, args.threads),
        (PEER, None, True, args.threads),
    ]
    if args.threads > 1:
        found.append((PEER, None, True, 1))
    if args.compiled:
        found.append((PEER, COMPILE_MODE, True, args.threads))
    return found + ([(OURS, None, False, args.threads)] if args.plain else [])


def summary(rounds: list[dict[str, float]], first_s: float) -> dict[str, float]:
    keys = ("wall_s", "cpu_s", "minor_faults")
    row = {key: round(statistics.median(sample[key] for sample in rounds), 5) for key in keys}
    return {**row, "first_iteration_s": round(first_s, 2), "peak_mib": rounds[-1]["peak_mib"]}


def ratios(samples: dict[str, list[dict[str, float]]], precision: str) -> dict[str, Any]:
    """Return how many times our time the peer's best setting takes, medians over rounds."""
    ours = samples[f"{OURS} {precision}"]
    peers = [label for label in samples if label.startswith(PEER) and label.endswith(precision)]
    best = min(peers, key=lambda label: statistics.median(sample["wall_s"] for sample in samples[label]))
    found: dict[str, Any] = {"peer": best}
    for key in ("wall_s", "cpu_s"):
        pairs = zip(samples[best], ours, strict=True)
        found[key] = round(statistics.median(theirs[key] / own[key] for theirs, own in pairs), 2)
    # The peer's leanest setting, so that the comparison of memory does not count its compiler.
    found["memory"] = round(min(samples[label][-1]["peak_mib"] for label in peers) / ours[-1]["peak_mib"], 2)
    return found


class Worker:
    """A contender in a process of its own, which runs iterations when it is told to."""

    def __init__(
        self, name: str, load: Any, side: str, mixed: bool, compile_mode: str | None, fast: bool, threads: int
    ) -> None:
        settings = {"name": name, "load": vars(load), "side": side, "mixed": mixed, "compile_mode": compile_mode,
                    "fast": fast, "threads": threads}  # fmt: skip
        environ = {**os.environ, "GLIBC_TUNABLES": ALLOCATOR, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )

    def run(self, iterations: int) -> dict[str, float]:
        """Return seconds per iteration, and the process's peak memory so far."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contender died: {self.process.args}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def work(
    name: str,
    load: dict[str, Any],
    side: str,
    mixed: bool,
    compile_mode: str | None,
    fast: bool,
    threads: int,
) -> None:
    """Run iterations as the standard input says, and report on the standard output."""
    import resource

    import torch
    from learner_loads import Load, make_env, training_dict

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sizes = Load(**load)
    cfg = training_dict(sizes, mixed, compile_mode)
    report_to = os.fdopen(os.dup(1), "w")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        if side == OURS:
            from sim_rl_plugin.env import VecEnv
            from sim_rl_plugin.runners import OnPolicyRunner

            cfg["fast"] = fast
        else:
            from rsl_rl.env import VecEnv  # type: ignore[no-redef]
            from rsl_rl.runners import OnPolicyRunner  # type: ignore[no-redef]
        runner = OnPolicyRunner(make_env(VecEnv, sizes), cfg, None, "cpu")
        for line in sys.stdin:
            iterations = int(line)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            runner.learn(iterations)
            result = {
                "wall_s": (time.perf_counter() - wall_s) / iterations,
                "cpu_s": (time.process_time() - cpu_s) / iterations,
            }
            usage = resource.getrusage(resource.RUSAGE_SELF)
            result["minor_faults"] = (usage.ru_minflt - faults) / iterations
            result["peak_mib"] = round(usage.ru_maxrss / 1024)
            print(json.dumps(result), file=report_to, flush=True)


def measured_peak(precision: str, threads: int) -> float:
    """Return the best rate of a large matrix product in GFLOP/s, which is the roof of the roofline."""
    import torch

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == "mixed" else torch.float32
    left, right, out = (torch.ones(2048, 2048, dtype=dtype) for _ in range(3))
    best_s = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        best_s = min(best_s, time.perf_counter() - started)
    return round(2 * 2048**3 / best_s / 1e9, 1)


def add_shares(results: dict[str, Any]) -> None:
    """Add to every row the share of its time that its matrix products would take at the measured peak."""
    for load in [*results["loads"].values(), *(row for kind in results["growth"].values() for row in kind.values())]:
        for label, row in load["contenders"].items():
            limit_s = load["gflop"] / results["peak_gflops"][label.split()[-1]]
            row["share_of_peak"] = round(limit_s / row["wall_s"], 3)
            row["us_per_sample"] = round(row["wall_s"] / load["samples"] * 1e6, 3)


def report(results: dict[str, Any]) -> None:
    sections = {
        **results["loads"],
        **{f"{k}: {n}": row for k, rows in results["growth"].items() for n, row in rows.items()},
    }
    for name, load in sections.items():
        print(f"\n{name:36s}{'wall s':>9}{'CPU s':>9}{'of peak':>9}{'us/sample':>11}{'faults':>9}{'peak MiB':>10}")
        for label, row in load["contenders"].items():
            print(f"{label:36s}{row['wall_s']:9.4f}{row['cpu_s']:9.4f}{row['share_of_peak']:9.0%}"
                  f"{row['us_per_sample']:11.2f}{row['minor_faults']:9.0f}{row['peak_mib']:10.0f}")  # fmt: skip
        for precision, found in load["ratios"].items():
            ratios_text = ", ".join(f"{found[key]:.2f}x {key}" for key in ("wall_s", "cpu_s", "memory"))
            print(f"  {precision}: {ratios_text} ({found['peer']})")


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw ratios of the loads, and time per sample as loads grow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    number = 1 + len(results["growth"])
    figure, axes_of_row = pyplot.subplots(1, number, figsize=(1 + 4 * number, 4), squeeze=False)
    left, *others = axes_of_row[0]
    for index, precision in enumerate(results["peak_gflops"]):
        heights = [load["ratios"][precision]["wall_s"] for load in results["loads"].values()]
        places = [place + 0.4 * index for place in range(len(heights))]
        left.bar(places, heights, 0.4, label=precision)
    left.set_xticks([place + 0.2 for place in range(len(results["loads"]))], list(results["loads"]))
    left.axhline(1.0, color="grey", linewidth=0.8)
    left.set(ylabel="rsl-rl-lib's time over ours", title="Whole iterations")
    left.legend()
    for axes, (kind, rows) in zip(others, results["growth"].items(), strict=True):
        for label in next(iter(rows.values()))["contenders"]:
            axes.plot(
                list(rows), [row["contenders"][label]["us_per_sample"] for row in rows.values()], "o-", label=label
            )
        axes.set(ylabel="µs per sample", title=kind, ylim=(0, None))
        axes.tick_params(axis="x", rotation=30)
        axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
