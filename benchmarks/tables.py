"""Writes the tables of docs/performance.md from benchmarks/results.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from circumstances import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
INTRODUCTION = """# Performance

Written by `python benchmarks/tables.py` from what `make bench` left in `benchmarks/results/`: peers beside us
in one process tree, in turn, medians. CUDA has not been measured: the code paths for it are reviewed and
untested.
"""


def main() -> None:
    simulations = [simulation(load(path.stem)) for path in sorted(RESULTS.glob("simulation*.json"))]
    sections = [INTRODUCTION, *simulations, time_to_reward(load("time_to_reward"))]
    PAGE.write_text("\n".join([*sections, startup(load("startup")), learning(load("learning"))]))
    print(f"written to {PAGE}")


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def heading(title: str, results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return f"## {title}\n\n{results['date']}, {results['cpu']}, {results['cores']} cores; {versions}.\n"


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


def startup(results: dict[str, Any]) -> str:
    """Return the table of start-up times."""
    rows = [f"| `{name}` | {median_s:.3f} |" for name, median_s in results["median_s"].items()]
    return "\n".join([heading("Start-up", results), "| command | median s |", "| --- | ---: |", *rows]) + "\n"


def learning(results: dict[str, Any]) -> str:
    """Return the table of tasks that need one feature, with their curves."""
    lines = [
        heading("What the features are for", results),
        "Small tasks that each need one feature, trained with and without it: same settings, seeds and number of "
        "control steps. Final returns are of the deterministic policy in 256 new episodes, as share of the maximum; "
        "the curves are training episodes, with bands of one standard deviation over the seeds.\n",
        "| task | | final return, each seed | control steps to the threshold, each seed |",
        "| --- | --- | --- | --- |",
    ]
    for name, task in results["tasks"].items():
        for variant, row in task["variants"].items():
            finals = ", ".join(f"{value:.2f}" for value in row["final_return"])
            steps = ", ".join("not reached" if value is None else f"{value:,}" for value in row["steps_to_threshold"])
            lines.append(f"| {name}, {task['threshold']} | {variant} | {finals} | {steps} |")
    for name, task in results["tasks"].items():
        lines.append(
            f"\n{task['claim'][0].upper()}{task['claim'][1:]}: {'holds' if task['holds'] else 'does not hold'}."
        )
        lines.append(f"\n![{name}](../benchmarks/results/learning_{name}.png)")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
