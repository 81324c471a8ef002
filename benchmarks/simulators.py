"""Does `sim-rl train --sim S --task T` learn with nothing but its defaults, and how soon?

Each entry of RUNS is one training. Every few iterations the deterministic policy plays whole episodes in
environments of its own, the same ones each time; their mean return is the curve, and the training ends at
the target. The clock starts with the process, so imports and compilation count; the evaluations do not.
Beside the seconds that passed there are those of the process on all cores, which other work on the machine
does not lengthen.

    python benchmarks/simulators.py mjx-cartpole-balance
"""

from __future__ import annotations

import argparse
import contextlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

START_S = time.perf_counter()


@dataclass(frozen=True)
class Run:
    """One training with the defaults.

    Attributes:
        simulator: As `--sim` takes it.
        task: As `--task` takes it.
        target: Mean return at which it ends.
        target_is: What the target is, for the plot.
        evaluate_every: Iterations between two evaluations.
        episodes: Episodes of an evaluation.
        give_up_after: Iterations.
    """

    simulator: str
    task: str
    target: float
    target_is: str
    evaluate_every: int
    episodes: int
    give_up_after: int


RUNS: dict[str, Run] = {
    "mjx-cartpole-balance": Run("mjx", "CartpoleBalance", 900.0, "90 % of the largest possible return", 1, 16, 100),
}


class Stop(Exception):
    """Ends a training from inside."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=sorted(RUNS))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    run = RUNS[args.run]
    config, curve = train(run, args.seed)
    report(args.run, run, config, curve)


def train(run: Run, seed: int) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Return the settings, and one point of the curve for each evaluation."""
    from sim_rl_plugin.config import load_config
    from sim_rl_plugin.evaluation import EVALUATION_SEED_OFFSET
    from sim_rl_plugin.run_folder import build_runner
    from sim_rl_plugin.simulation import open_env, prepare_process, resolve_device

    config = load_config(run.simulator, run.task, None, [], {"seed": seed})
    device = resolve_device(config.device)
    prepare_process(config)
    curve: list[dict[str, float]] = []
    with (
        open_env(config, device=device) as env,
        open_env(config, device=device, num_envs=run.episodes, seed=seed + EVALUATION_SEED_OFFSET) as arena,
        contextlib.suppress(Stop),
    ):
        runner = build_runner(config, env, device)
        watch(runner, arena, run, curve)
        runner.learn(run.give_up_after, init_at_random_ep_len=config.init_at_random_ep_len)
    return config.to_dict(), curve


def watch(runner: Any, arena: Any, run: Run, curve: list[dict[str, float]]) -> None:
    """Make the runner's logger evaluate the policy, and end the training at the target."""
    from sim_rl_plugin.evaluation import evaluate

    log, beginning = runner.logger.log, arena.state_dict()
    evaluating_s = evaluating_cpu_s = 0.0
    iterations = 0

    def logged(*args: Any, **kwargs: Any) -> Any:
        nonlocal evaluating_s, evaluating_cpu_s, iterations
        metrics = log(*args, **kwargs)
        iterations += 1
        if iterations % run.evaluate_every:
            return metrics
        now_s, now_cpu_s = time.perf_counter(), time.process_time()
        if beginning is not None:
            arena.load_state_dict(beginning)
        result = evaluate(runner.get_inference_policy(), arena, run.episodes)
        runner.alg.train_mode()
        curve.append(
            {
                "time_s": round(now_s - START_S - evaluating_s, 1),
                "cpu_time_s": round(now_cpu_s - evaluating_cpu_s, 1),
                "iterations": iterations,
                "env_steps": int(metrics["Perf/total_steps"]),
                "mean_return": round(result.mean, 1),
                "std_return": round(result.std, 1),
            }
        )
        print(curve[-1], flush=True)
        evaluating_s += time.perf_counter() - now_s
        evaluating_cpu_s += time.process_time() - now_cpu_s
        if result.mean >= run.target:
            raise Stop
        return metrics

    runner.logger.log = logged


def report(name: str, run: Run, config: dict[str, Any], curve: list[dict[str, float]]) -> None:
    from circumstances import write_results

    reached = next((point for point in curve if point["mean_return"] >= run.target), None)
    print(f"{name}: {reached or 'target not reached'}")
    results = {"run": asdict(run), "reached": reached, "curve": curve, "config": config}
    path = write_results(f"simulators_{name}", results)
    plot(run, curve, path.with_suffix(".png"))


def plot(run: Run, curve: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for panel, key, label in zip(axes, ("env_steps", "cpu_time_s"), ("environment steps", "CPU seconds"), strict=True):
        panel.plot([point[key] for point in curve], [point["mean_return"] for point in curve], marker=".")
        panel.axhline(run.target, color="grey", linewidth=0.8, linestyle="--", label=run.target_is)
        panel.set(xlabel=label)
    axes[0].set(ylabel="mean return of the deterministic policy")
    axes[1].legend(loc="lower right")
    figure.suptitle(f"sim-rl train --sim {run.simulator} --task {run.task}, defaults only")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
