"""What an environment step costs through the adapter, beside bare mjlab and mjlab's own wrapper for rsl_rl.

Two measurements, in CPU time of this process, in turn, medians:

- the adapter alone, until the learner has its tensors: mjlab's environment hands out the same step again and
  again, so only the wrapping is timed, with what rsl_rl's runner does to the result of its wrapper (three moves
  to the learner's device) and ours does to ours (none where the device is known to be the same);
- whole steps with physics, in which no environment ends, and in which one ends each time (as with thousands of
  environments and episodes of a thousand steps).

    python benchmarks/adapters_mjlab.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

for variable, value in (("OMP_NUM_THREADS", "1"), ("MJLAB_WARP_QUIET", "1")):
    os.environ.setdefault(variable, value)

import torch  # noqa: E402

TASKS = {"Mjlab-Cartpole-Balance": 256, "Mjlab-Velocity-Flat-Unitree-Go1": 64}
BARE, THEIRS, OURS = "bare mjlab", "mjlab's wrapper", "ours"
BARE_BY_HAND, OURS_FINAL = "bare mjlab, auto_reset=False", "ours with final_obs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="steps of a round with physics")
    parser.add_argument("--calls", type=int, default=500, help="calls of a round of the adapter alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {task: measure(task, num_envs, args) for task, num_envs in TASKS.items()}
    for task, result in results.items():
        print(f"\n{task}, {result['num_envs']} environments")
        for name, value in result["adapter_alone_us_per_step"].items():
            print(f"  alone       {name:28s} {value:8.1f} us a step of all environments")
        for case, values in result["env_steps_per_cpu_s"].items():
            for name, value in values.items():
                print(f"  {case:11s} {name:28s} {value:8.0f} environment steps a CPU second")
    from circumstances import write_results

    write_results("adapters_mjlab", {"mjlab": _version("mjlab"), "tasks": results})


def measure(task: str, num_envs: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return both measurements of a task."""
    envs = {name: make(name, task, num_envs) for name in (BARE, THEIRS, OURS, BARE_BY_HAND, OURS_FINAL)}
    actions = torch.zeros(num_envs, envs[OURS].num_actions)
    steps = {name: stepper(name, env, actions) for name, env in envs.items()}
    whole = {}
    for case, num_ending in (("none ends", 0), ("one ends", 1)):
        seconds = in_turn(steps, args.rounds, args.steps, lambda name, n=num_ending: set_ages(envs[name], n))
        whole[case] = {name: num_envs / value for name, value in seconds.items()}
    for env in envs.values():
        freeze(env, actions)
    alone = {name: steps[name] for name in (THEIRS, OURS, OURS_FINAL)}
    seconds = in_turn(alone, args.rounds, args.calls, lambda name: None)
    return {
        "num_envs": num_envs,
        "adapter_alone_us_per_step": {name: value * 1e6 for name, value in seconds.items()},
        "env_steps_per_cpu_s": whole,
    }


def make(name: str, task: str, num_envs: int) -> Any:
    """Return an environment of one kind."""
    import mjlab.tasks  # noqa: F401
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.rl import RslRlVecEnvWrapper
    from mjlab.tasks.registry import load_env_cfg
    from sim_rl_mjlab.vec_env import MjlabVecEnv

    cfg = load_env_cfg(task)
    cfg.scene.num_envs, cfg.seed, cfg.auto_reset = num_envs, 1, name not in (BARE_BY_HAND, OURS_FINAL)
    env = ManagerBasedRlEnv(cfg, device="cpu")
    if name == THEIRS:
        return RslRlVecEnvWrapper(env)
    if name in (OURS, OURS_FINAL):
        return MjlabVecEnv(env, reset=True)
    env.reset()
    return env


def stepper(name: str, env: Any, actions: torch.Tensor) -> Callable[[], Any]:
    """Return a function that takes one step and hands the learner its tensors."""

    def theirs() -> None:
        obs, rewards, dones, _ = env.step(actions)
        obs.to("cpu"), rewards.to("cpu"), dones.to("cpu")

    def by_hand() -> None:
        _, _, terminated, truncated, _ = env.step(actions)
        env_ids = (terminated | truncated).nonzero().squeeze(-1)
        if len(env_ids):
            env.reset(env_ids=env_ids)

    return {THEIRS: theirs, BARE_BY_HAND: by_hand}.get(name, lambda: env.step(actions))


def set_ages(env: Any, num_ending: int) -> None:
    """Let environments time out in the next step, or none of them."""
    ages = env.unwrapped.episode_length_buf
    ages.fill_(0)
    ages[:num_ending] = env.max_episode_length - 1


def freeze(env: Any, actions: torch.Tensor) -> None:
    """Let mjlab's environment repeat a step in which nothing ended."""
    set_ages(env, 0)
    inner = env.unwrapped
    result = inner.step(actions)
    inner.step = lambda actions: result


def in_turn(
    steps: dict[str, Callable[[], Any]], rounds: int, calls: int, prepare: Callable[[str], None]
) -> dict[str, float]:
    """Return the median CPU seconds of one call of each kind, measured in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            spent_s = 0.0
            for _ in range(calls):
                prepare(name)
                start_s = time.process_time()
                with torch.inference_mode():
                    step()
                spent_s += time.process_time() - start_s
            if round_:  # the first one warms up
                seconds[name].append(spent_s / calls)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


if __name__ == "__main__":
    main()
