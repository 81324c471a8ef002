"""Environment steps per second of the MuJoCo adapter beside its peers, in one interleaved run.

The limit is ``mujoco.rollout`` on the same number of threads: physics alone, no observation, no
reward, no reset, no conversion. Every contender gets the same number of environments and random
actions from the control range. Short rounds alternate, and ratios are taken inside a round, so that
a load from outside weighs on all of them; medians over the rounds are printed. Frame skip is
included: one step is one control step.

    python benchmarks/simulation.py --envs 256 --threads 2 --rounds 15
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

import mujoco
import mujoco.rollout
import numpy as np
import torch
from circumstances import circumstances
from sim_rl_mujoco import open_task

from sim_rl_plugin.ranks import usable_cores

OURS, LIMIT, ENVPOOL = "sim-rl mujoco", "mujoco.rollout (limit)", "EnvPool"
SYNC, ASYNC = "Gymnasium sync", "Gymnasium async"
SLICE_S = 0.4

Contender = tuple[Callable[[int], None], Callable[[], None]]


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    # Otherwise each of Gymnasium's processes writes MuJoCo's remarks on the models into a log file.
    mujoco.set_mju_user_warning(lambda message: None)
    results: dict[str, Any] = {}
    for task in args.tasks:
        contenders, missing = open_contenders(task, args)
        summary = summarise(measure(contenders, args))
        for _, close in contenders.values():
            close()
        results[task] = {"measured": summary, "not_run": missing}
        report(task, summary, missing)
    settings = {"envs": args.envs, "threads": args.threads, "rounds": args.rounds}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(circumstances() | settings | {"tasks": results}, indent=2) + "\n")
    print(f"written to {args.output}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["HalfCheetah", "Ant", "Humanoid"])
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--steps", type=int, default=0, help="control steps per round; 0 picks 0.4 s worth")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--only", nargs="+", help="contenders to run, by a part of their name")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "simulation.json")
    return parser.parse_args()


def open_contenders(task: str, args: argparse.Namespace) -> tuple[dict[str, Contender], dict[str, str]]:
    """Return what can run, and why the others cannot."""
    contenders: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    # The one that forks comes first: a process with threads must not be forked.
    for name, build in ((ASYNC, async_), (SYNC, gymnasium_sync), (LIMIT, limit), (OURS, ours), (ENVPOOL, envpool)):
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
    return partial(run_ours, env, random_actions(env)), lambda: context.__exit__(None, None, None)


def random_actions(env: Any) -> torch.Tensor:
    low, high = (torch.from_numpy(bound).float() for bound in env.driver.action_range)
    return low + (high - low) * torch.rand(64, env.num_envs, env.num_actions)


def run_ours(env: Any, actions: torch.Tensor, steps: int) -> None:
    for step in range(steps):
        env.step(actions[step % 64])


def limit(task: str, num_envs: int, num_threads: int) -> Contender:
    """Physics alone, many control steps per call, from states of running episodes."""
    with open_task(task, num_envs=num_envs, num_threads=num_threads) as env:
        model, frame_skip = env.engine.model, env.engine.num_substeps
        low, high = env.driver.action_range
        # The same contacts as the others meet: a robot that falls at once is followed from its
        # start to about its fall, the others from the midst of their episodes.
        falls = task in ("Humanoid", "Hopper", "Walker2d")
        if not falls:
            run_ours(env, random_actions(env), 100)
        state = np.empty((num_envs, mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
        for index, row in enumerate(state):
            mujoco.mj_getState(model, env.engine.simulation(index), row, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    pool = mujoco.rollout.Rollout(nthread=num_threads)
    datas = [mujoco.MjData(model) for _ in range(num_threads)]
    episode = 24 if falls else 50
    actions = np.random.default_rng(0).uniform(low, high, (num_envs, episode, model.nu))
    controls = np.repeat(actions, frame_skip, axis=1)

    position, current = 0, state

    def run(steps: int) -> None:
        # A round goes on where the last one stopped: short rounds that all began at the start of an
        # episode would see robots in the air only, which are cheap.
        nonlocal position, current
        while steps > 0:
            now = min(steps, episode - position)
            part = controls[:, position * frame_skip : (position + now) * frame_skip]
            states, _ = pool.rollout(model, datas, current, part)
            position, current = position + now, states[:, -1]
            if position == episode:
                position, current = 0, state
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


def measure(contenders: dict[str, Contender], args: argparse.Namespace) -> dict[str, list[float]]:
    """Return each contender's rate in every round, after a warm-up."""
    steps = {}
    for name, (run, _) in contenders.items():
        run(5)
        started = time.perf_counter()
        run(10)
        per_step_s = (time.perf_counter() - started) / 10
        steps[name] = args.steps or max(5, round(SLICE_S / per_step_s))
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, (run, _) in contenders.items():
            started = time.perf_counter()
            run(steps[name])
            samples[name].append(steps[name] * args.envs / (time.perf_counter() - started))
    return samples


def summarise(samples: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return each contender's median rate, and the median over rounds of its ratio to two others.

    Ratios are taken inside a round, so that a load that comes and goes weighs on both sides.
    """
    summary = {}
    for name, rates in samples.items():
        summary[name] = {"env_steps_per_s": round(statistics.median(rates), 1)}
        for key, peer in (("of_limit", LIMIT), ("of_envpool", ENVPOOL)):
            if peer in samples:
                ratios = [rate / other for rate, other in zip(rates, samples[peer], strict=True)]
                summary[name][key] = round(statistics.median(ratios), 3)
    return summary


def report(task: str, summary: dict[str, dict[str, float]], missing: dict[str, str]) -> None:
    print(f"\n{task:<24}{'env-steps/s':>12}{'of the limit':>14}{'of EnvPool':>12}")
    for name, values in summary.items():
        ratios = [f"{values[key]:.2f}" if key in values else "-" for key in ("of_limit", "of_envpool")]
        print(f"{name:<24}{values['env_steps_per_s']:>12,.0f}{ratios[0]:>14}{ratios[1]:>12}")
    for name, reason in missing.items():
        print(f"{name:<24}not run: {reason}")


if __name__ == "__main__":
    main()
