"""Does `sim-rl train --sim S --task T` learn with nothing but its defaults, and how soon?

Each entry of RUNS is a task, trained with several seeds, each in a process of its own. The random numbers are those of
`sim-rl train --seed N`. There are two curves: the mean reward of each rollout, exploration included, and every few
iterations the mean return of the deterministic policy, in whole episodes of environments of its own (the same
episodes each time where the simulator can be put back). The clock starts with the process, so imports and
compilation count; the evaluations do not. Beside the seconds that passed there are those of the process on all cores,
which other work on the machine does not lengthen.

mjlab's tasks are trained by what mjlab's `train` command runs, too, with the same seeds and environments. The exit
status is 1 if a target is not reached.

    python benchmarks/simulators.py gymnasium-pendulum
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

START_S = time.perf_counter()
AS_GOOD = 0.98
"""Share of the peer's final return from which ours counts as the same: seeds differ by about as much."""

Curve = dict[str, list[float]]
"""Equally long lists, one number for each evaluation (iterations, env_steps, time_s, cpu_time_s, mean_return,
std_return); rollout_reward has one for each iteration."""


@dataclass(frozen=True)
class Run:
    """One task, trained with the defaults.

    Attributes:
        simulator: As `--sim` takes it.
        task: As `--task` takes it.
        target_is: What the target is, in words.
        target: Mean return; None is what the peer reaches in the end.
        iterations: Length of the training; None is what the defaults say.
        evaluate_every: Iterations between two evaluations.
        episodes: Episodes of an evaluation.
        seeds: How many trainings.
        stops_at_target: Whether a training ends there, and not by its length.
        learners: Ours, and peers.
    """

    simulator: str
    task: str
    target_is: str
    target: float | None = None
    iterations: int | None = None
    evaluate_every: int = 10
    episodes: int = 32
    seeds: int = 3
    stops_at_target: bool = False
    learners: tuple[str, ...] = ("sim-rl",)


RUNS: dict[str, Run] = {
    "gymnasium-pendulum": Run("gymnasium", "Pendulum-v1", "swung up and balanced", -200.0, episodes=64),
    "gymnasium-halfcheetah": Run("gymnasium", "HalfCheetah-v5", "a steady run", 2000.0, evaluate_every=30, seeds=1),
    "mujoco-halfcheetah": Run("mujoco", "HalfCheetah", "a steady run", 2000.0, evaluate_every=30, seeds=1),
    "mjx-cartpole-balance": Run(
        "mjx",
        "CartpoleBalance",
        "90 % of the largest possible return",
        900.0,
        iterations=200,
        evaluate_every=4,
        episodes=16,
        seeds=1,
        stops_at_target=True,
    ),
    "mjlab-cartpole-balance": Run(
        "mjlab",
        "Mjlab-Cartpole-Balance",
        "what mjlab's own train reaches",
        iterations=40,
        evaluate_every=20,
        seeds=2,
        learners=("sim-rl", "mjlab"),
    ),
    "mjlab-cartpole-swingup": Run(
        "mjlab",
        "Mjlab-Cartpole-Swingup",
        "what mjlab's own train reaches",
        iterations=40,
        evaluate_every=20,
        seeds=2,
        learners=("sim-rl", "mjlab"),
    ),
}


class Stop(Exception):
    """Ends a training from inside."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", choices=sorted(RUNS), nargs="+", metavar="run", help=", ".join(sorted(RUNS)))
    parser.add_argument("--learner", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.learner:
        train, (name,) = {"sim-rl": train_ours, "mjlab": train_mjlab}[args.learner], args.runs
        print("TRAINED", json.dumps(train(RUNS[name], args.seed)))
        return
    sys.exit(0 if all([compare(name, RUNS[name]) for name in args.runs]) else 1)


def compare(name: str, run: Run) -> bool:
    """Train with each learner and seed, write what came out, and return whether the target was reached."""
    from circumstances import write_results

    trained: dict[str, list[tuple[dict[str, Any], Curve]]] = {learner: [] for learner in run.learners}
    for seed in range(1, run.seeds + 1):
        for learner, of_seeds in trained.items():
            of_seeds.append(in_own_process(name, learner, seed))
    curves = {learner: [curve for _, curve in of_seeds] for learner, of_seeds in trained.items()}
    results = summary(run, curves) | {"config": trained["sim-rl"][0][0]}
    path = write_results(f"simulators_{name}", results)
    plot(run, results, path.with_suffix(".png"))
    print(f"{name}: the target {'was' if results['holds'] else 'was not'} reached")
    return results["holds"]


def in_own_process(name: str, learner: str, seed: int) -> tuple[dict[str, Any], Curve]:
    """Return the settings and the curve of one training; its progress goes to stderr."""
    command = [sys.executable, __file__, name, "--learner", learner, "--seed", str(seed)]
    environ = {"OMP_NUM_THREADS": "1", **os.environ}
    output = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout
    (line,) = (line for line in output.splitlines() if line.startswith("TRAINED "))
    config, curve = json.loads(line.removeprefix("TRAINED "))
    return config, curve


def summary(run: Run, curves: dict[str, list[Curve]]) -> dict[str, Any]:
    """Return what the page says of a run: its target, whether the last policies have it, when it was first reached."""
    finals = {learner: [curve["mean_return"][-1] for curve in of_seeds] for learner, of_seeds in curves.items()}
    if run.target is None:
        target = round(AS_GOOD * statistics.fmean(finals["mjlab"]), 2)
        holds = statistics.fmean(finals["sim-rl"]) >= target
    else:
        target = run.target
        holds = min(finals["sim-rl"]) >= target
    reached = {learner: [first(curve, target) for curve in of_seeds] for learner, of_seeds in curves.items()}
    about = {"run": asdict(run), "target": target, "holds": holds}
    return about | {"final": finals, "reached": reached, "curves": curves}


def first(curve: Curve, target: float) -> dict[str, float] | None:
    """Return the first point of a curve at or above a return."""
    for index, value in enumerate(curve["mean_return"]):
        if value >= target:
            return {key: values[index] for key, values in curve.items() if key != "rollout_reward"}
    return None


def train_ours(run: Run, seed: int) -> tuple[dict[str, Any], Curve]:
    """Train as `sim-rl train` does; return the settings and the curve."""
    from sim_rl_plugin.run_folder import build_runner
    from sim_rl_plugin.simulation import open_env, prepare_process, resolve_device

    config = settings(run, seed)
    device = resolve_device(config.device)
    curve: Curve = {}
    with evaluation(run, config, device) as play, contextlib.suppress(Stop):
        prepare_process(config)  # now, so that the evaluation's environments cost the training no random numbers
        with open_env(config, device=device) as env:
            runner = build_runner(config, env, device)
            watch(runner, run, config, play, curve)
            runner.learn(config.max_iterations, init_at_random_ep_len=config.init_at_random_ep_len)
    return config.to_dict(), curve


def train_mjlab(run: Run, seed: int) -> tuple[dict[str, Any], Curve]:
    """Run what mjlab's `train` command runs in its process; return its settings and the curve."""
    from mjlab.scripts import train

    config = settings(run, seed)
    command = train.TrainConfig.from_task(run.task)
    command.env.scene.num_envs = config.num_envs
    command.agent.seed, command.agent.max_iterations = seed, config.max_iterations
    command.agent.logger = "tensorboard"
    curve: Curve = {}
    with evaluation(run, config, "cpu") as play, tempfile.TemporaryDirectory() as folder:

        class Watched(train.MjlabOnPolicyRunner):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                watch(self, run, config, play, curve)

        train.MjlabOnPolicyRunner = Watched
        train.run_train(run.task, command, Path(folder))
    return asdict(command.agent), curve


def settings(run: Run, seed: int) -> Any:
    """Return the defaults of a task."""
    from sim_rl_plugin.config import load_config

    options = {"seed": seed} | ({} if run.iterations is None else {"max_iterations": run.iterations})
    return load_config(run.simulator, run.task, None, [], options)


@contextlib.contextmanager
def evaluation(run: Run, config: Any, device: str) -> Any:
    """Open environments; yield a function from a policy to its result that leaves torch's random state alone."""
    import torch

    from sim_rl_plugin.evaluation import EVALUATION_SEED_OFFSET, evaluate
    from sim_rl_plugin.simulation import open_env

    seed = config.seed + EVALUATION_SEED_OFFSET
    with open_env(config, device=device, num_envs=run.episodes, seed=seed) as arena:
        beginning = arena.state_dict()

        def play(policy: Any) -> Any:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                if beginning is not None:
                    arena.load_state_dict(beginning)
                return evaluate(policy, arena, run.episodes)

        yield play


def watch(runner: Any, run: Run, config: Any, play: Callable[[Any], Any], curve: Curve) -> None:
    """Make the runner's logger evaluate the policy, and end the training at the target where the run says so."""
    log, process_env_step = runner.logger.log, runner.logger.process_env_step
    evaluating_s = evaluating_cpu_s = 0.0
    iterations = 0
    rewards: list[Any] = []

    def processed(of_step: Any, *args: Any, **kwargs: Any) -> None:
        rewards.append(of_step.mean())
        process_env_step(of_step, *args, **kwargs)

    def logged(*args: Any, **kwargs: Any) -> Any:
        nonlocal evaluating_s, evaluating_cpu_s, iterations
        metrics = log(*args, **kwargs)
        iterations += 1
        curve.setdefault("rollout_reward", []).append(round(float(sum(rewards) / len(rewards)), 4))
        rewards.clear()
        if iterations % run.evaluate_every and iterations != config.max_iterations:
            return metrics
        now_s, now_cpu_s = time.perf_counter(), time.process_time()
        result = play(runner.get_inference_policy())
        runner.alg.train_mode()
        point = {
            "iterations": iterations,
            "env_steps": iterations * config.num_envs * config.num_steps_per_env,
            "time_s": round(now_s - START_S - evaluating_s, 1),
            "cpu_time_s": round(now_cpu_s - evaluating_cpu_s, 1),
            "mean_return": round(result.mean, 2),
            "std_return": round(result.std, 2),
        }
        for key, value in point.items():
            curve.setdefault(key, []).append(value)
        print(run.task, f"seed {config.seed}", point, file=sys.stderr, flush=True)
        evaluating_s += time.perf_counter() - now_s
        evaluating_cpu_s += time.process_time() - now_cpu_s
        if run.stops_at_target and run.target is not None and result.mean >= run.target:
            raise Stop
        return metrics

    runner.logger.log, runner.logger.process_env_step = logged, processed


def plot(run: Run, results: dict[str, Any], path: Path) -> None:
    """Draw both curves of each training over environment steps."""
    from sim_rl_plugin.plotting import new_figure, save_figure

    figure = new_figure(10, 3.5)
    rollouts, evaluations = figure.subplots(1, 2)
    for index, (learner, of_seeds) in enumerate(results["curves"].items()):
        for number, curve in enumerate(of_seeds):
            style = {"color": f"C{index}", "alpha": 0.8, "label": learner if number == 0 else None}
            thousands = [steps / 1000 for steps in curve["env_steps"]]
            evaluations.plot(thousands, curve["mean_return"], marker=".", **style)
            of_iteration = thousands[-1] / curve["iterations"][-1]
            rewards = curve["rollout_reward"]
            rollouts.plot([of_iteration * (done + 1) for done in range(len(rewards))], rewards, **style)
    evaluations.axhline(results["target"], color="grey", linewidth=0.8, linestyle="--", label="target")
    rollouts.set(xlabel="thousand control steps", ylabel="mean reward of the rollouts", xlim=(0, None))
    evaluations.set(xlabel="thousand control steps", ylabel="mean return, deterministic", xlim=(0, None))
    figure.legend(*evaluations.get_legend_handles_labels(), loc="outside right center")
    figure.suptitle(f"sim-rl train --sim {run.simulator} --task {run.task}, defaults only")
    save_figure(figure, path)


if __name__ == "__main__":
    main()
