"""Environment steps per second of the MuJoCo adapter beside its peers, in one interleaved run.

The limit is ``mujoco.rollout`` on the same number of threads: physics alone, no observation, no
reward, no reset, no conversion. Every contender gets the same number of environments and random
actions from the control range; the rounds alternate, so that a busy machine hits all of them, and
medians are compared. Frame skip is included: one step is one control step.

    python benchmarks/simulation.py --envs 256 --threads 2 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib import metadata, util
from pathlib import Path
from typing import Any

import mujoco
import mujoco.rollout
import numpy as np
import torch
from sim_rl_mujoco import open_task
from sim_rl_mujoco.engine import usable_cores

OURS, LIMIT, ENVPOOL = "sim-rl mujoco", "mujoco.rollout (limit)", "EnvPool"
SYNC, ASYNC = "Gymnasium sync", "Gymnasium async"
# Fewer steps for the slow: a round of each contender should last about as long.
SLOWDOWN = {SYNC: 4, ASYNC: 4}

Contender = tuple[Callable[[int], None], Callable[[], None]]


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    results: dict[str, Any] = {}
    for task in args.tasks:
        contenders, missing = open_contenders(task, args)
        rates = measure(contenders, args)
        for _, close in contenders.values():
            close()
        results[task] = {"env_steps_per_s": rates, "missing": missing}
        report(task, rates, missing)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(circumstances(args) | {"tasks": results}, indent=2) + "\n")
    print(f"written to {args.output}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["HalfCheetah", "Ant", "Humanoid"])
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--steps", type=int, default=0, help="control steps per round; 0 picks about a second's worth")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--only", nargs="+", help="contenders to run, by a part of their name")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "simulation.json")
    return parser.parse_args()


def open_contenders(task: str, args: argparse.Namespace) -> tuple[dict[str, Contender], dict[str, str]]:
    """Return what can run, and why the others cannot."""
    contenders: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    for name, build in ((LIMIT, limit), (OURS, ours), (ENVPOOL, envpool), (SYNC, gymnasium_sync), (ASYNC, async_)):
        if args.only and not any(part.lower() in name.lower() for part in args.only):
            missing[name] = "left out by --only"
            continue
        needs = {ENVPOOL: "envpool", SYNC: "gymnasium", ASYNC: "gymnasium"}.get(name)
        if needs is not None and util.find_spec(needs) is None:
            missing[name] = f"{needs} is not installed"
            continue
        contenders[name] = build(task, args.envs, args.threads)
    return contenders, missing


def ours(task: str, num_envs: int, num_threads: int) -> Contender:
    """Everything included: observations, rewards, resets, TensorDict."""
    context = open_task(task, num_envs=num_envs, num_threads=num_threads)
    env = context.__enter__()
    low, high = (torch.from_numpy(bound).float() for bound in env.driver.action_range)
    actions = low + (high - low) * torch.rand(64, num_envs, env.num_actions)

    def run(steps: int) -> None:
        for step in range(steps):
            env.step(actions[step % 64])

    return run, lambda: context.__exit__(None, None, None)


def limit(task: str, num_envs: int, num_threads: int) -> Contender:
    """Physics alone, many control steps per call, from states of running episodes."""
    with open_task(task, num_envs=num_envs, num_threads=num_threads) as env:
        model, frame_skip = env.engine.model, env.engine.num_substeps
        low, high = env.driver.action_range
        state = np.empty((num_envs, mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
        for index, row in enumerate(state):
            mujoco.mj_getState(model, env.engine.simulation(index), row, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    pool = mujoco.rollout.Rollout(nthread=num_threads)
    datas = [mujoco.MjData(model) for _ in range(num_threads)]
    # Episodes as long as a random policy's, so that the contacts are those of the other contenders.
    episode = {"Humanoid": 20, "Hopper": 20, "Walker2d": 20}.get(task, 100)
    actions = np.random.default_rng(0).uniform(low, high, (num_envs, episode, model.nu))
    controls = np.repeat(actions, frame_skip, axis=1)

    def run(steps: int) -> None:
        while steps > 0:
            now = min(steps, episode)
            pool.rollout(model, datas, state, controls[:, : now * frame_skip])
            steps -= now

    return run, pool.close


def envpool(task: str, num_envs: int, num_threads: int) -> Contender:
    """EnvPool's own C++ batch, observations as numpy."""
    import envpool as package

    env = package.make(f"{task}-v5", "gymnasium", num_envs=num_envs, num_threads=num_threads)
    env.reset()
    return steps_of(env, env.action_space, num_envs), env.close


def gymnasium_sync(task: str, num_envs: int, num_threads: int) -> Contender:
    """One process, one environment after another."""
    import gymnasium

    env = gymnasium.make_vec(f"{task}-v5", num_envs=num_envs, vectorization_mode="sync")
    env.reset(seed=0)
    return steps_of(env, env.single_action_space, num_envs), env.close


def async_(task: str, num_envs: int, num_threads: int) -> Contender:
    """A process per environment, which is Gymnasium's only way to several cores."""
    import gymnasium

    env = gymnasium.make_vec(f"{task}-v5", num_envs=num_envs, vectorization_mode="async")
    env.reset(seed=0)
    return steps_of(env, env.single_action_space, num_envs), env.close


def steps_of(env: Any, space: Any, num_envs: int) -> Callable[[int], None]:
    shape = (64, num_envs, *space.shape)
    actions = np.random.default_rng(0).uniform(space.low, space.high, shape).astype(space.dtype)

    def run(steps: int) -> None:
        for step in range(steps):
            env.step(actions[step % 64])

    return run


def measure(contenders: dict[str, Contender], args: argparse.Namespace) -> dict[str, float]:
    """Return each contender's median rate over interleaved rounds, after a warm-up."""
    steps = {}
    for name, (run, _) in contenders.items():
        run(5)
        started = time.perf_counter()
        run(10)
        per_step_s = (time.perf_counter() - started) / 10
        steps[name] = args.steps // SLOWDOWN.get(name, 1) if args.steps else max(10, round(1.0 / per_step_s))
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, (run, _) in contenders.items():
            started = time.perf_counter()
            run(steps[name])
            samples[name].append(steps[name] * args.envs / (time.perf_counter() - started))
    return {name: round(statistics.median(rates), 1) for name, rates in samples.items()}


def report(task: str, rates: dict[str, float], missing: dict[str, str]) -> None:
    print(f"\n{task:<24}{'env-steps/s':>12}{'of the limit':>14}{'of EnvPool':>12}")
    for name, rate in rates.items():
        against = [f"{rate / rates[peer]:.2f}" if peer in rates else "-" for peer in (LIMIT, ENVPOOL)]
        print(f"{name:<24}{rate:>12,.0f}{against[0]:>14}{against[1]:>12}")
    for name, reason in missing.items():
        print(f"{name:<24}{'not run: ' + reason}")


def circumstances(args: argparse.Namespace) -> dict[str, Any]:
    """Return what is needed to judge the numbers."""
    versions = {}
    for package in ("mujoco", "gymnasium", "envpool", "numba", "numpy", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "date": date.today().isoformat(),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "versions": versions,
        "envs": args.envs,
        "threads": args.threads,
        "rounds": args.rounds,
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
