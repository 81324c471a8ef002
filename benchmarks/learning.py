"""Three small tasks, each of which needs one feature: memory, eyes, symmetry.

Every task trains the same PPO with and without the feature, with the same settings, seeds and number of steps, through
the public runner. A return of 1 is the most that is possible. The final return is that of the deterministic policy,
in episodes with starts of their own; the curves are training episodes, exploration included. The exit status is 1 if
a claim does not hold.

    python benchmarks/learning.py --tasks memory image symmetric --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from circumstances import RESULTS, circumstances, write_results
from learning_tasks import Image, Memory, Task, Trot, mirrored_trot

from sim_rl_plugin.evaluation import EVALUATION_SEED_OFFSET, evaluate
from sim_rl_plugin.plotting import Curve, draw_curves, new_figure, read_curve, save_figure
from sim_rl_plugin.runners import OnPolicyRunner

EVALUATION_ENVS = 256
SOLVED = 0.9
"""Share of the maximum from which a task counts as solved."""
CHANCE = 0.05
"""What a policy may have above the best blind one, by the luck of its 256 evaluation episodes."""

GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 0.6}
MLP = {"class_name": "MLPModel", "hidden_dims": [32, 32], "activation": "elu", "obs_normalization": True}
GRU = {**MLP, "class_name": "RNNModel", "rnn_type": "gru", "rnn_hidden_dim": 32}
CNN = {**MLP, "class_name": "CNNModel", "cnn_cfg": {"output_channels": [8, 8], "kernel_size": 3, "stride": 2}}


@dataclass(frozen=True)
class Outcome:
    """One training: what the policy returns in the end, and how it got there.

    Attributes:
        final: Mean return of the deterministic policy, share of the maximum.
        curve: Mean return of training episodes over control steps.
        seconds: Duration of the training.
    """

    final: float
    curve: Curve
    seconds: float

    def steps_to(self, threshold: float) -> int | None:
        """Return the control steps after which training episodes first return ``threshold``."""
        reached = self.curve.x[self.curve.y >= threshold]
        return int(reached[0]) if reached.size else None


Outcomes = dict[str, list[Outcome]]


@dataclass(frozen=True)
class Study:
    """A task, the variants that are compared on it, and what they are to show.

    Attributes:
        claim: What is to hold, in words.
        make_env: The task, by number of environments and seed.
        settings: What its training dict has different from ``training_dict``, for all variants.
        variants: What each variant changes in turn; the first one has the feature.
        judge: From the outcomes of each variant to whether the claim holds.
        iterations: Length of a training.
        seeds: How many seeds unless told.
        num_envs: Environments that are trained on.
        threshold: A return that is drawn and timed.
        blind: Whether to draw the most that a policy reaches that does not know the target.
    """

    claim: str
    make_env: Callable[..., Task]
    settings: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    judge: Callable[[Outcomes], bool]
    iterations: int
    seeds: int = 3
    num_envs: int = 128
    threshold: float = SOLVED
    blind: bool = False


def training_dict(seed: int) -> dict[str, Any]:
    """Return the training dict that all tasks start from."""
    return {
        "seed": seed,
        "num_steps_per_env": 32,
        "save_interval": 10**6,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "logger": ["csv"],
        "console": False,
        "algorithm": {
            "class_name": "PPO",
            "num_learning_epochs": 4,
            "num_mini_batches": 4,
            "learning_rate": 3e-3,
            "desired_kl": 0.02,
            "entropy_coef": 0.0,
            "gamma": 0.95,
            "lam": 0.9,
        },
        "actor": {**MLP, "distribution_cfg": dict(GAUSSIAN)},
        "critic": dict(MLP),
    }


def layered(base: dict[str, Any], *layers: dict[str, Any]) -> dict[str, Any]:
    """Return a dict with the entries of others in place of its own, section by section."""
    result = copy.deepcopy(base)
    for layer in layers:
        for key, value in layer.items():
            nested = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = layered(result[key], value) if nested else copy.deepcopy(value)
    return result


def solved(outcomes: Sequence[Outcome]) -> bool:
    return all(outcome.final >= SOLVED for outcome in outcomes)


def only_first_knows(outcomes: Outcomes, limit: float) -> bool:
    """Say whether the first variant solves its task and the others stay where the blind do, with every seed."""
    first, *others = outcomes.values()
    return solved(first) and all(outcome.final <= limit + CHANCE for other in others for outcome in other)


def first_is_faster(outcomes: Outcomes, threshold: float) -> bool:
    """Say whether the slowest seed of the first variant needs fewer steps than the fastest one of the others."""
    first, *others = ([outcome.steps_to(threshold) for outcome in group] for group in outcomes.values())
    times = [steps for steps in first if steps is not None]
    rivals = [steps for other in others for steps in other if steps is not None]
    return len(times) == len(first) and all(max(times) < steps for steps in rivals)


def studies() -> dict[str, Study]:
    """Return every comparison by the name of its task."""
    memory_limit, image_limit = Memory(1).blind_limit(), Image(1).blind_limit()
    # The critic is told the target: it makes learning short, and no policy reads it.
    told = {"critic": ["policy", "target"]}
    augmentation = {"data_augmentation_func": mirrored_trot, "use_data_augmentation": True}
    return {
        "memory": Study(
            "a GRU solves what an MLP cannot: the target is shown in the first 3 of 26 steps",
            Memory,
            {"obs_groups": {"actor": ["policy", "cue"], **told}},
            {"GRU": {"actor": GRU}, "MLP": {}},
            lambda outcomes: only_first_knows(outcomes, memory_limit),
            iterations=45,
            blind=True,
        ),
        "image": Study(
            "a CNN solves what a policy without the picture cannot: the target is a red spot in it",
            Image,
            {"obs_groups": {"actor": ["policy"], **told}},
            {"CNN": {"actor": CNN, "obs_groups": {"actor": ["policy", "camera"]}}, "blind MLP": {}},
            lambda outcomes: only_first_knows(outcomes, image_limit),
            iterations=32,
            blind=True,
        ),
        "symmetric": Study(
            "PPO with mirrored samples learns faster: a trot that looks the same from four sides",
            Trot,
            {},
            {"PPO + augmentation": {"algorithm": {"symmetry_cfg": augmentation}}, "PPO": {}},
            lambda outcomes: first_is_faster(outcomes, 0.7),
            iterations=60,
            seeds=5,
            num_envs=64,
            threshold=0.7,
        ),
    }


def train(study: Study, label: str, seed: int) -> Outcome:
    """Train one variant with one seed, and evaluate it."""
    torch.manual_seed(seed)
    env = study.make_env(study.num_envs, seed=seed)
    settings = layered(training_dict(seed), study.settings, study.variants[label])
    with tempfile.TemporaryDirectory() as folder:
        start_s = time.perf_counter()
        runner = OnPolicyRunner(env, settings, folder, "cpu")
        runner.learn(study.iterations, init_at_random_ep_len=True)
        seconds = time.perf_counter() - start_s
        curve = read_curve(Path(folder) / "metrics.csv", label, "steps", "Train/mean_reward")
    fresh = study.make_env(EVALUATION_ENVS, seed=seed + EVALUATION_SEED_OFFSET)
    return Outcome(evaluate(runner.get_inference_policy(), fresh, EVALUATION_ENVS).mean, curve, seconds)


def run(name: str, study: Study, seeds: Sequence[int]) -> tuple[bool, dict[str, Any]]:
    """Train every variant with every seed in turn, draw them; return whether the claim holds, and the numbers."""
    outcomes: Outcomes = {label: [] for label in study.variants}
    for seed in seeds:
        for label, group in outcomes.items():
            group.append(train(study, label, seed))
            steps = group[-1].steps_to(study.threshold)
            print(
                f"{name:10s} seed {seed}  {label:20s} return {group[-1].final:.3f}  "
                f"{study.threshold} after {steps or '-'} steps  {group[-1].seconds:.1f} s",
                flush=True,
            )
    holds = study.judge(outcomes)
    numbers: dict[str, Any] = {
        "claim": study.claim,
        "holds": holds,
        "num_envs": study.num_envs,
        "iterations": study.iterations,
        "seeds": list(seeds),
        "threshold": study.threshold,
    }
    limit = study.make_env(1).blind_limit() if study.blind else None
    if limit is not None:
        numbers["blind_limit"] = round(limit, 3)
    numbers["variants"] = {label: summary(group, study.threshold) for label, group in outcomes.items()}
    plot(study, outcomes, limit, RESULTS / f"learning_{name}.png")
    return holds, numbers


def summary(group: Sequence[Outcome], threshold: float) -> dict[str, Any]:
    """Return a variant's numbers, one entry per seed, for JSON."""
    return {
        "final_return": [round(outcome.final, 3) for outcome in group],
        "median_final_return": round(statistics.median(outcome.final for outcome in group), 3),
        "steps_to_threshold": [outcome.steps_to(threshold) for outcome in group],
        "seconds": [round(outcome.seconds, 1) for outcome in group],
        "curves": [
            [[int(x), round(float(y), 3)] for x, y in zip(outcome.curve.x, outcome.curve.y, strict=True)]
            for outcome in group
        ],
    }


def plot(study: Study, outcomes: Outcomes, limit: float | None, path: Path) -> None:
    """Draw the curves of every variant with bands over the seeds, and the lines that the claim is about."""
    figure = new_figure(7, 4.2)
    axes = figure.add_subplot()
    axes.axhline(study.threshold, color="grey", linewidth=0.8, linestyle="--")
    if limit is not None:
        axes.axhline(limit, color="grey", linewidth=0.8, linestyle=":", label="the most without the target")
    curves = [outcome.curve for group in outcomes.values() for outcome in group]
    draw_curves(axes, curves, "steps", "Return of training episodes, share of the maximum")
    axes.set_title(study.claim, fontsize=9)
    axes.set_ylim(-0.03, 1.03)
    save_figure(figure, path)


def record(name: str, numbers: dict[str, Any]) -> None:
    """Write a task's numbers beside those of the others, each with the circumstances that it was measured in."""
    path = RESULTS / "learning.json"
    tasks = json.loads(path.read_text())["tasks"] if path.exists() else {}
    tasks[name] = {**numbers, "circumstances": circumstances()}
    write_results("learning", {"solved": SOLVED, "tasks": dict(sorted(tasks.items()))})


def main() -> None:
    everything = studies()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", choices=everything, nargs="+", default=list(everything))
    parser.add_argument("--seeds", type=int, nargs="+", help="of every task, instead of its own number of them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name in args.tasks:
        study = everything[name]
        _, results[name] = run(name, study, args.seeds or range(study.seeds))
        record(name, results[name])
    for name, numbers in results.items():
        print(f"{name:10s} {'holds' if numbers['holds'] else 'DOES NOT HOLD'}: {numbers['claim']}")
    sys.exit(not all(numbers["holds"] for numbers in results.values()))


if __name__ == "__main__":
    main()
