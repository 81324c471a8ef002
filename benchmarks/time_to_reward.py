"""Seconds to a HalfCheetah return of 2000: ours, rsl-rl-lib and Stable-Baselines3, everything included.

Ours simulates with its MuJoCo adapter; rsl-rl-lib and Stable-Baselines3 train on Gymnasium's vectors,
rsl-rl-lib through our Gymnasium adapter, whose contract is its own. All three get the settings of
configs/mujoco/HalfCheetah.yaml as far as they know them, the same number of torch threads, and both
cores. rsl-rl-lib thus gets our tuning. The clock starts with the process, so imports and compilation
count. The return is the mean of the last 20 training episodes that ran their full length, exploration noise included.

    python benchmarks/time_to_reward.py --seeds 0 1 2 --target 2000
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

START_S = time.perf_counter()
FULL_EPISODE = 1000
EPISODES = 20
CONTENDERS = ("sim-rl", "rsl-rl-lib", "stable-baselines3")


class Curve:
    """Mean return of recent full episodes over seconds, which says when the target is reached."""

    def __init__(self, target: float, limit_s: float) -> None:
        self.target, self.limit_s = target, limit_s
        self.recent: collections.deque[float] = collections.deque(maxlen=EPISODES)
        self.points: list[tuple[float, int, float]] = []

    def add(self, returns: list[float], steps: int) -> bool:
        """Note the episodes of an iteration; return whether to stop."""
        self.recent.extend(returns)
        elapsed_s = time.perf_counter() - START_S
        if len(self.recent) == EPISODES:
            self.points.append((round(elapsed_s, 2), steps, round(statistics.fmean(self.recent), 1)))
        return elapsed_s > self.limit_s or bool(self.points and self.points[-1][2] >= self.target)


class Stop(Exception):
    """Ends a training from inside."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--target", type=float, default=2000.0)
    parser.add_argument("--limit-s", type=float, default=600.0, help="give up after this many seconds")
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=list(CONTENDERS))
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        curve = Curve(args.target, args.limit_s)
        with contextlib.suppress(Stop):
            {"sim-rl": ours, "rsl-rl-lib": rsl_rl, "stable-baselines3": stable_baselines}[args.contender](
                args.seeds[0], curve
            )
        print(json.dumps(curve.points))
        return
    compare(args)


def compare(args: argparse.Namespace) -> None:
    """Run every contender with every seed in turn, each in a process of its own."""
    from circumstances import write_results

    curves: dict[str, dict[int, list[Any]]] = {name: {} for name in args.only}
    for seed in args.seeds:
        for name in args.only:
            command = [sys.executable, __file__, "--contender", name, "--seeds", str(seed)]
            command += ["--target", str(args.target), "--limit-s", str(args.limit_s)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            curves[name][seed] = json.loads(output.splitlines()[-1])
            time_s, steps, reward = curves[name][seed][-1]
            print(f"seed {seed}  {name:18s} {time_s:6.1f} s  {steps:9,d} steps  return {reward:.0f}", flush=True)
    times_s = {
        name: [points[-1][0] if points[-1][2] >= args.target else None for points in by_seed.values()]
        for name, by_seed in curves.items()
    }
    medians_s = {name: median_or_limit(values, args.limit_s) for name, values in times_s.items()}
    ratios = {name: round(value / medians_s["sim-rl"], 2) for name, value in medians_s.items()}
    for name, ratio in ratios.items():
        print(f"{name:18s} median {medians_s[name]:6.1f} s  {ratio:.2f} times ours")
    results = {"target": args.target, "limit_s": args.limit_s, "seconds_to_target": times_s, "median_s": medians_s,
               "times_ours": ratios, "curves": curves}  # fmt: skip
    path = write_results("time_to_reward", results)
    plot(curves, args.target, path.with_suffix(".png"))


def median_or_limit(times_s: list[float | None], limit_s: float) -> float:
    """Return the median, where a seed that never got there counts as the limit."""
    return statistics.median(limit_s if value is None else value for value in times_s)


def plot(curves: dict[str, dict[int, list[Any]]], target: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for index, (name, by_seed) in enumerate(curves.items()):
        for seed, points in by_seed.items():
            label = name if seed == next(iter(by_seed)) else None
            axes.plot([p[0] for p in points], [p[2] for p in points], color=f"C{index}", label=label)
    axes.axhline(target, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="seconds since the process started", ylabel="return", title="HalfCheetah-v5, two CPU cores")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def settings(seed: int) -> tuple[Any, dict[str, Any]]:
    from sim_rl_plugin.config import load_config
    from sim_rl_plugin.simulation import prepare_process

    config = load_config("mujoco", "HalfCheetah", None, [], {"seed": seed})
    prepare_process(config)  # seeds, and the number of torch threads
    return config, config.model_dump()


def watch(logger: Any, env: Any, steps_per_iteration: int, curve: Curve) -> None:
    """Make a runner's logger feed the curve with full episodes, and end the training."""
    import torch

    returns: list[float] = []
    current = torch.zeros(env.num_envs)
    ages = torch.zeros(env.num_envs)
    step, log = env.step, logger.log
    iterations = 0

    def counted_step(actions: torch.Tensor) -> Any:
        obs, rewards, dones, extras = step(actions)
        current.add_(rewards)
        ages.add_(1)
        ended = dones.bool()
        if ended.any():
            returns.extend(current[ended & (ages == FULL_EPISODE)].tolist())
            current.masked_fill_(ended, 0.0)
            ages.masked_fill_(ended, 0.0)
        return obs, rewards, dones, extras

    def counted_log(*args: Any, **kwargs: Any) -> Any:
        nonlocal iterations
        iterations += 1
        stop = curve.add(returns, iterations * steps_per_iteration)
        returns.clear()
        if stop:
            raise Stop
        return log(*args, **kwargs)

    env.step, logger.log = counted_step, counted_log


def ours(seed: int, curve: Curve) -> None:
    from sim_rl_plugin.runners import OnPolicyRunner
    from sim_rl_plugin.simulation import open_env

    config, cfg = settings(seed)
    with open_env(config, device="cpu") as env:
        runner = OnPolicyRunner(env, {**cfg, "console": False}, None, "cpu")
        watch(runner.logger, env, env.num_envs * config.num_steps_per_env, curve)
        runner.learn(10**6, init_at_random_ep_len=True)


def rsl_rl(seed: int, curve: Curve) -> None:
    import io
    import tempfile

    from rsl_rl.runners import OnPolicyRunner
    from sim_rl_gymnasium.open import open_task

    config, cfg = settings(seed)
    keys = ("num_steps_per_env", "obs_groups", "algorithm", "actor", "critic")
    train_cfg = {key: cfg[key] for key in keys} | {"save_interval": 10**6, "logger": "tensorboard"}
    with (
        open_task("HalfCheetah-v5", num_envs=config.num_envs, seed=seed) as env,
        tempfile.TemporaryDirectory() as log_dir,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        runner = OnPolicyRunner(env, train_cfg, log_dir, "cpu")
        watch(runner.logger, env, env.num_envs * config.num_steps_per_env, curve)
        runner.learn(10**6, init_at_random_ep_len=True)


def stable_baselines(seed: int, curve: Curve) -> None:
    import math

    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    config, cfg = settings(seed)
    algorithm, actor = cfg["algorithm"], cfg["actor"]

    class Watch(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.returns: list[float] = []

        def _on_step(self) -> bool:
            self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
            return True

        def _on_rollout_end(self) -> None:
            stop = curve.add(self.returns, self.num_timesteps)
            self.returns = []
            if stop:
                raise Stop

    env = VecNormalize(make_vec_env("HalfCheetah-v5", n_envs=config.num_envs, seed=seed), gamma=algorithm["gamma"])
    samples = config.num_envs * config.num_steps_per_env
    model = PPO(
        "MlpPolicy",
        env,
        # Its own learning-rate rule is a constant; 3e-4 is its default and about where ours settles.
        learning_rate=3e-4,
        n_steps=config.num_steps_per_env,
        batch_size=samples // algorithm["num_mini_batches"],
        n_epochs=algorithm["num_learning_epochs"],
        gamma=algorithm["gamma"],
        gae_lambda=algorithm["lam"],
        clip_range=algorithm.get("clip_param", 0.2),
        ent_coef=algorithm.get("entropy_coef", 0.0),
        max_grad_norm=algorithm.get("max_grad_norm", 1.0),
        policy_kwargs={
            "net_arch": list(actor["hidden_dims"]),
            "activation_fn": {"elu": torch.nn.ELU, "tanh": torch.nn.Tanh}[actor["activation"]],
            "log_std_init": math.log(actor["distribution_cfg"]["init_std"]),
        },
        seed=seed,
        device="cpu",
    )
    model.learn(10**9, callback=Watch())


if __name__ == "__main__":
    main()
