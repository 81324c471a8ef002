"""Writes the tables of docs/performance.md from benchmarks/results.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from circumstances import RESULTS
from simulators import AS_GOOD, RUNS

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
INTRODUCTION = """# Performance

Written by `python benchmarks/tables.py` from what `make bench` left in `benchmarks/results/`: peers beside us
in one process tree, in turn, medians. CUDA has not been measured: the code paths for it are reviewed and
untested.
"""
DEFAULTS = f"""## Learning with the defaults

`sim-rl train --sim S --task T`, nothing else said: the settings are those that the simulator or `configs/` has for the
task. Returns are of the deterministic policy, in episodes of its own. Gymnasium's and MuJoCo's tasks are trained for
as many iterations as their settings say, mjlab's for fewer: there the question is what mjlab's own `train` reaches,
with rsl_rl and the same seeds, environments and number of steps, and the target is {AS_GOOD:.0%} of the mean of its
final returns. Seeds differ more than learners do at that length: one swings up late, or balances late, with either.
CPU seconds are those of the process on all cores, imports and compilation included, evaluations not.

`make bench` runs Gymnasium's and MuJoCo's. The others need a simulator, each in an environment of its own:

<!-- not run: they take hours and need the simulators -->
```bash
pip install "sim-rl-plugin[mjx]"
python benchmarks/simulators.py mjx-cartpole-balance
pip install "sim-rl-plugin[mjlab]"
python benchmarks/simulators.py mjlab-cartpole-balance mjlab-cartpole-swingup
```
"""

SETTINGS = """## What makes it fast, and how to switch it off

- **Passes by hand**: where actor and critic are `MLPModel`s, or `RNNModel`s with a GRU of one layer, on a CPU, with a
  `GaussianDistribution` and nothing overridden, the update goes forward and back in chunks that stay in the
  processor's caches, and every thread takes its share of a mini-batch from beginning to end; rollouts of perceptrons
  do the same. Anything else takes the plain path: the first line of a training says which paths are on, and why not
  the others (`runner.fast_paths`). `--no-fast`, or `fast: false`, takes the plain path always. Both give rsl_rl's
  numbers to float32 rounding, as `make parity` and `tests/algorithms/test_fast_paths.py` hold.
- **On a GPU** the step of the optimizer (perceptrons and convolutions, Adam, AdamW or SGD) is recorded as a CUDA graph
  after three warm-up steps and replayed for every mini-batch; where that fails, a line says why and the plain path
  goes on. `float32_matmul_precision: high` takes TF32. **No GPU has run this yet**: the recording is tested with a
  stand-in on the CPU (`tests/algorithms/test_recorded_update.py`), `make gpu` has the tests that a GPU must pass, and
  there are no rows of a GPU on this page. An iteration waits for the device twice, once after the rollout to see
  whether it is finite, once after the update for its losses; `tests/runners/test_host_reads.py` counts.
- **Mixed precision** (`algorithm.use_mixed_precision`): the products of the update in bfloat16, with sums over samples
  and everything between the losses and the optimizer in float32. The rollout stays in float32.
- **Allocator**: `sim-rl` tells glibc to keep freed memory (`keep_freed_memory: false` leaves it), unless
  `GLIBC_TUNABLES` says something about `malloc`. From Python: `sim_rl_plugin.allocator.keep_freed_memory()`.
- **Threads**: `torch_num_threads`, or all cores where it is null. A task whose networks are small is tuned with 1.
"""

ADAPTERS = """## What an adapter costs

Written by `benchmarks/adapters.py`, whose docstring says what is counted: CPU time of one process for a step of all
environments, in microseconds, in turn, medians; in brackets the ratio to the simulator's own wrapper for rsl_rl
(Gymnasium has none: to what a script does by hand), taken inside each round. `make bench` measures Gymnasium; the
others run where their simulator is installed:

<!-- not run: they take hours and need the simulators -->
```bash
python benchmarks/adapters.py mjx
python benchmarks/adapters.py mjlab
ISAACLAB_PATH=FOLDER python benchmarks/adapters.py isaaclab   # as the tests of Isaac Lab 3, see simulators.md
python benchmarks/tables.py
```

The first two columns are without physics: `step` by itself, and until the learner has the result, which is
what a training pays. `step` by itself costs more here than in a wrapper that hands out the simulator's own
buffers: ours are copies that no later step writes into, and tell the runner that nothing has to be moved. In the
last two columns, with physics, two hundredths are noise. What mjlab's final observations cost there is mjlab's
second look at the physics, as beside bare mjlab without its auto-reset. The MuJoCo adapter is its own simulator,
and compared with Gymnasium and EnvPool above.
"""


def main() -> None:
    simulations = [simulation(load(path.stem)) for path in sorted(RESULTS.glob("simulation*.json"))]
    adapters = [adapter(load(path.stem)) for path in sorted(RESULTS.glob("adapters_*.json"))]
    learners = [learner(load("learner"))] if (RESULTS / "learner.json").exists() else []
    sections = [INTRODUCTION, SETTINGS, *learners, *simulations, ADAPTERS, *adapters]
    sections.append(time_to_reward(load("time_to_reward")))
    sections += [startup(load("startup")), defaults(RUNS)]
    PAGE.write_text("\n".join([*sections, learning(load("learning"))]))
    print(f"written to {PAGE}")


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def heading(title: str, results: dict[str, Any], level: int = 2) -> str:
    return f"{'#' * level} {title}\n\n{measured_on(results)}.\n"


def measured_on(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return f"{results['date']}, {results['cpu']}, {results['cores']} cores; {versions}"


def simulation(results: dict[str, Any]) -> str:
    """Return the table of batched simulation."""
    lines = [
        heading(f"Batched simulation, MuJoCo {results['versions']['mujoco']}", results),
        f"{results['envs']} environments on {results['threads']} threads, random actions, observations, rewards and "
        f"resets included; medians of {results['rounds']} rounds. The limit is `mujoco.rollout`: physics alone, "
        "without the contact forces that Ant and Humanoid observe. The ratio to it is taken inside each round; between "
        "runs of the benchmark it moves by about five hundredths.\n",
        "| task | | env-steps/s | of the limit | of EnvPool |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for task, result in results["tasks"].items():
        for name, row in result["measured"].items():
            ratios = [f"{row[key]:.0%}" if key in row else "-" for key in ("of_limit", "of_envpool")]
            lines.append(f"| {task} | {name} | {row['env_steps_per_s']:,.0f} | {ratios[0]} | {ratios[1]} |")
    return "\n".join(lines) + "\n"


def adapter(results: dict[str, Any]) -> str:
    """Return the table of what one simulator's adapter costs."""
    cases = list(next(iter(results["tasks"].values()))["us_per_step"])
    lines = [
        heading(f"Adapter {results['simulator']}", results, level=3),
        f"Ratios to {results['peer']}.\n",
        f"| task | | {' | '.join(cases)} |",
        f"| --- | --- |{' ---: |' * len(cases)}",
    ]
    for task, result in results["tasks"].items():
        about = f"{task.rpartition(':')[2]}, {result['num_envs']}"
        for name in dict.fromkeys(name for values in result["us_per_step"].values() for name in values):
            cells = []
            for case in cases:
                value, ratio = (result[key][case].get(name) for key in ("us_per_step", "of_peer"))
                cells.append("-" if value is None else f"{value:,.{1 if value < 100 else 0}f} ({ratio:.2f})")
            lines.append(f"| {about} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def time_to_reward(results: dict[str, Any]) -> str:
    """Return the table of seconds to a return."""
    lines = [
        heading(f"Seconds to a HalfCheetah return of {results['target']:.0f}", results),
        "Everything included from the start of the process: imports, compilation, simulation, learning. All three "
        "have our tuned settings as far as they know them, one torch thread and both cores; rsl-rl-lib and "
        "Stable-Baselines3 simulate with Gymnasium's environments in one process.\n",
        "| | median s | times ours | each seed, s |",
        "| --- | ---: | ---: | --- |",
    ]
    for name, median_s in results["median_s"].items():
        times = ", ".join(
            "not reached" if value is None else f"{value:.1f}" for value in results["seconds_to_target"][name]
        )
        lines.append(f"| {name} | {median_s:.1f} | {results['times_ours'][name]:.2f} | {times} |")
    return "\n".join(lines) + "\n\n![Return over seconds](../benchmarks/results/time_to_reward.png)\n"


def learner(results: dict[str, Any]) -> str:
    """Return the table of whole iterations of the learner."""
    peaks = ", ".join(f"{rate:.0f} GFLOP/s in {name}" for name, rate in results["peak_gflops"].items())
    lines = [
        heading("The learner: whole iterations", results),
        "Rollout, returns, update and log through each one's own runner, on an environment that is free; medians of "
        f"{results['rounds']} interleaved rounds on {results['threads']} threads, each contender in a process of its "
        "own, all with the same allocator setting. `times ours` is the median of the rounds' ratios, in seconds and, "
        "in brackets, in CPU seconds. `of peak` is the time that the matrix products and convolutions alone would "
        f"take at the measured peak ({peaks}): where rsl-rl-lib is at 80 %, nothing can be more than 1.25 times as "
        "fast without fewer operations.\n",
        "| load | precision | sim-rl, s | rsl-rl-lib, s | times ours | of peak, ours | of peak, theirs | MiB, ours "
        "| MiB, theirs |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, load in results["loads"].items():
        for precision, ratio in load["ratios"].items():
            ours, theirs = load["contenders"][f"sim-rl {precision}"], load["contenders"][ratio["peer"]]
            lines.append(
                f"| {name} | {precision} | {ours['wall_s']:.3f} | {theirs['wall_s']:.3f}"
                f"{setting_of(ratio['peer'])} | {ratio['wall_s']:.2f} "
                f"({ratio['cpu_s']:.2f}) | {ours['share_of_peak']:.0%} | {theirs['share_of_peak']:.0%} "
                f"| {ours['peak_mib']:.0f} | {theirs['peak_mib']:.0f} |"
            )
    return "\n".join([*lines, *growth(results["growth"])]) + "\n\n![learner](../benchmarks/results/learner.png)\n"


def setting_of(label: str) -> str:
    """Return what is special about the peer's best setting, in brackets."""
    special = label.removeprefix("rsl-rl-lib").rpartition(" ")[0].strip()
    return f" ({special})" if special else ""


def growth(results: dict[str, Any]) -> list[str]:
    """Return a table of the time per sample for each way in which a load can grow."""
    lines = []
    for kind, rows in results.items():
        labels = list(next(iter(rows.values()))["contenders"])
        lines += [f"\n| {kind}, µs per sample | {' | '.join(labels)} |", f"| --- |{' ---: |' * len(labels)}"]
        for name, row in rows.items():
            cells = [f"{row['contenders'][label]['us_per_sample']:.2f}" for label in labels]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def startup(results: dict[str, Any]) -> str:
    """Return the table of start-up times."""
    rows = [f"| `{name}` | {median_s:.3f} |" for name, median_s in results["median_s"].items()]
    return "\n".join([heading("Start-up", results), "| command | median s |", "| --- | ---: |", *rows]) + "\n"


def defaults(names: Iterable[str]) -> str:
    """Return the table of trainings with nothing but a simulator and a task, and their curves."""
    runs = {name: load(f"simulators_{name}") for name in names if (RESULTS / f"simulators_{name}.json").is_file()}
    columns = ("task", "learner", "final return, each seed", "target", "thousand steps to it, each seed")
    lines = [
        DEFAULTS,
        f"| {' | '.join(columns)} | CPU s of a training, median |",
        "| --- | --- | --- | ---: | --- | ---: |",
    ]
    for results in runs.values():
        run = results["run"]
        for learner, curves in results["curves"].items():
            steps = [point and f"{point['env_steps'] / 1000:.0f}" for point in results["reached"][learner]]
            cells = [f"`--sim {run['simulator']} --task {run['task']}`", learner]
            cells.append(", ".join(f"{value:.1f}" for value in results["final"][learner]))
            cells += [f"{results['target']:.1f}", each(steps)]
            cells.append(f"{statistics.median(curve['cpu_time_s'][-1] for curve in curves):.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for name, results in runs.items():
        run, verdict = results["run"], "reached" if results["holds"] else "**not reached**"
        last = next(iter(results["curves"].values()))[0]
        length = f"{last['iterations'][-1]:.0f} iterations, {last['env_steps'][-1] / 1e6:.2f} million control steps"
        lines += [f"`{name}`: {run['target_is']}: {verdict}. {length}. {measured_on(results)}.\n"]
        lines += [f"![{name}](../benchmarks/results/simulators_{name}.png)\n"]
    return "\n".join(lines)


def learning(results: dict[str, Any]) -> str:
    """Return a table for each task that needs one feature, with its curves."""
    tasks = results["tasks"]
    total_s = sum(sum(row["cpu_s"]) for task in tasks.values() for row in task["variants"].values())
    lines = [
        heading("What the features are for", next(iter(tasks.values()))["circumstances"]),
        "Small tasks that each need one feature, trained with and without it: same settings, seeds and number of "
        "control steps, through `OnPolicyRunner`. Final returns are of the deterministic policy in 256 new episodes, "
        "as share of the maximum; the curves are training episodes, with bands of one standard deviation over the "
        f"seeds. All of it is {total_s / 60:.0f} minutes of one core.",
    ]
    return "\n".join([*lines, *(comparison(name, task) for name, task in tasks.items())]) + "\n"


def comparison(name: str, task: dict[str, Any]) -> str:
    """Return the section of one task: what it is, whether the claim holds, the numbers, the picture."""
    claim = f"{task['claim'][0].upper()}{task['claim'][1:]}: **{'holds' if task['holds'] else 'does not hold'}**."
    limit = f" Without the target no policy gets more than {task['blind_limit']:.2f}." if "blind_limit" in task else ""
    is_race = "steps_of_last" in task
    columns = ["", "final return, median (each seed)", f"thousand steps to {task['threshold']}, each seed"]
    columns += ["share of the last one's steps, each seed"] if is_race else []
    columns.append("core-seconds, median")
    lines = [f"\n### {name.capitalize()}\n\n{claim} {task['about']}{limit}\n"]
    lines += [f"| {' | '.join(columns)} |", f"| --- |{' --- |' * (len(columns) - 2)} ---: |"]
    for variant, row in task["variants"].items():
        finals = ", ".join(f"{value:.2f}" for value in row["final_return"])
        cells = [variant, f"{row['median_final_return']:.2f} ({finals})"]
        cells.append(each([None if steps is None else f"{steps / 1000:.0f}" for steps in row["steps_to_threshold"]]))
        if is_race:
            ratios = task["steps_of_last"][variant]
            cells.append(each([None if ratio is None else f"{ratio:.2f}" for ratio in ratios]))
        cells.append(f"{statistics.median(row['cpu_s']):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n![{name}](../benchmarks/results/learning_{name}.png)"


def each(values: list[str | None]) -> str:
    """Return the values of all seeds, or one word where none has any."""
    return ", ".join(value or "-" for value in values) if any(values) else "not reached"


if __name__ == "__main__":
    main()
