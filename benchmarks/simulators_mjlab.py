"""Does mjlab's Cartpole learn with our defaults what it learns with mjlab's own runner, in as many steps?

Each entry of RUNS is a task and a number of iterations. Both trainings have the task's own `rl_cfg`, the same
seeds and the same number of environments, each in a process of its own: ours by `sim-rl train`'s
defaults, theirs by `MjlabOnPolicyRunner` on mjlab's wrapper, as mjlab's `train` does. Every few iterations
the deterministic policy plays whole episodes in environments of its own; their mean return is the curve.

    python benchmarks/simulators_mjlab.py mjlab-cartpole-balance
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

for variable, value in (("OMP_NUM_THREADS", "1"), ("MJLAB_WARP_QUIET", "1")):
    os.environ.setdefault(variable, value)

RUNNERS = ("ours", "mjlab's")


@dataclass(frozen=True)
class Run:
    """One task, trained twice.

    Attributes:
        task: As `--task` takes it.
        num_envs: Environments; sim-rl's default on a machine without CUDA.
        iterations: Of the training.
        evaluate_every: Iterations between two evaluations.
        episodes: Episodes of an evaluation.
    """

    task: str
    num_envs: int
    iterations: int
    evaluate_every: int
    episodes: int


RUNS: dict[str, Run] = {
    "mjlab-cartpole-balance": Run("Mjlab-Cartpole-Balance", 256, 60, 10, 32),
    "mjlab-cartpole-swingup": Run("Mjlab-Cartpole-Swingup", 256, 150, 15, 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=sorted(RUNS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runner", choices=RUNNERS, help="train with this one only, here, and print its curve")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.runner is not None:
        print("CURVE", json.dumps(train(RUNS[args.run], args.runner, args.seed)))
        return
    curves: dict[str, list[list[dict[str, float]]]] = {runner: [] for runner in RUNNERS}
    for seed in range(1, args.seeds + 1):
        for runner in RUNNERS:
            curves[runner].append(in_own_process(args.run, runner, seed))
    report(args.run, RUNS[args.run], curves)


def in_own_process(name: str, runner: str, seed: int) -> list[dict[str, float]]:
    """Return the curve of one training."""
    command = [sys.executable, __file__, name, "--runner", runner, "--seed", str(seed)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in output.splitlines() if line.startswith("CURVE "))
    return json.loads(line.removeprefix("CURVE "))


def train(run: Run, runner_name: str, seed: int) -> list[dict[str, float]]:
    """Train in steps of ``evaluate_every`` iterations, and return a point of the curve for each."""
    import torch
    from sim_rl_mjlab.open import open_task

    from sim_rl_plugin.evaluation import EVALUATION_SEED_OFFSET, evaluate

    torch.set_num_threads(1)
    curve = []
    with open_task(run.task, num_envs=run.episodes, seed=seed + EVALUATION_SEED_OFFSET) as arena:
        beginning = arena.state_dict()
        runner = make_runner(run, runner_name, seed)
        steps_per_iteration = run.num_envs * runner.cfg["num_steps_per_env"]
        training_s = 0.0
        for done in range(0, run.iterations, run.evaluate_every):
            start_s = time.perf_counter()
            runner.learn(run.evaluate_every, init_at_random_ep_len=done == 0)
            training_s += time.perf_counter() - start_s
            state = torch.get_rng_state()
            torch.manual_seed(EVALUATION_SEED_OFFSET)
            arena.load_state_dict(beginning)
            with torch.inference_mode():
                result = evaluate(runner.get_inference_policy(), arena, run.episodes)
            torch.set_rng_state(state)
            runner.alg.train_mode()
            point = {"iterations": done + run.evaluate_every, "time_s": round(training_s, 1)}
            point["env_steps"] = point["iterations"] * steps_per_iteration
            curve.append(point | {"mean_return": round(result.mean, 3), "std_return": round(result.std, 3)})
            print(runner_name, seed, curve[-1], file=sys.stderr, flush=True)
    return curve


def make_runner(run: Run, name: str, seed: int) -> Any:
    """Return one of the two runners with the task's own settings."""
    from sim_rl_plugin.config import load_config
    from sim_rl_plugin.run_folder import build_runner
    from sim_rl_plugin.simulation import prepare_process

    config = load_config("mjlab", run.task, options={"seed": seed, "num_envs": run.num_envs})
    prepare_process(config)
    if name == "ours":
        from sim_rl_mjlab.open import open_task

        env = open_task(run.task, num_envs=run.num_envs, seed=seed).__enter__()  # closed with the process
        return build_runner(config, env, "cpu")
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.rl import MjlabOnPolicyRunner, RslRlVecEnvWrapper
    from mjlab.tasks.registry import load_env_cfg, load_rl_cfg

    env_cfg = load_env_cfg(run.task)
    env_cfg.scene.num_envs, env_cfg.seed = run.num_envs, seed
    wrapper = RslRlVecEnvWrapper(ManagerBasedRlEnv(env_cfg, device="cpu"))
    return MjlabOnPolicyRunner(wrapper, asdict(load_rl_cfg(run.task)), device="cpu")


def report(name: str, run: Run, curves: dict[str, list[list[dict[str, float]]]]) -> None:
    from circumstances import write_results

    path = write_results(f"simulators_{name}", {"run": asdict(run), "curves": curves})
    for runner, of_seeds in curves.items():
        print(f"{runner:8s} last returns:", [curve[-1]["mean_return"] for curve in of_seeds])
    plot(run, curves, path.with_suffix(".png"))


def plot(run: Run, curves: dict[str, list[list[dict[str, float]]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.5))
    for index, (runner, of_seeds) in enumerate(curves.items()):
        for number, curve in enumerate(of_seeds):
            axes.plot(
                [point["env_steps"] for point in curve],
                [point["mean_return"] for point in curve],
                color=f"C{index}",
                marker=".",
                label=runner if number == 0 else None,
            )
    axes.set(xlabel="environment steps", ylabel="mean return of the deterministic policy", title=run.task)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
