"""Four small tasks, each of which needs one feature: memory, eyes, curiosity, symmetry.

Every task trains the same PPO with and without the feature, with the same settings, seeds and number of steps, through
the public runner. A return of 1 is the most that is possible. The final return is that of the deterministic policy,
in episodes with starts of their own; the curves are training episodes, exploration included. The exit status is 1 if
a claim does not hold.

    python benchmarks/learning.py                                   # all of it, into benchmarks/results
    python benchmarks/learning.py --tasks memory --seeds 0 --iterations 20
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
from learning_tasks import Image, Memory, Task, Trot, Valley, mirrored_trot

from sim_rl_plugin.evaluation import EVALUATION_SEED_OFFSET, evaluate
from sim_rl_plugin.plotting import Curve, draw_curves, new_figure, read_curve, save_figure
from sim_rl_plugin.runners import OnPolicyRunner

NUM_ENVS = 128
EVALUATION_ENVS = 256
SOLVED = 0.9
"""Share of the maximum from which a task counts as solved."""
FOUND = 0.8
"""The same where the way to the goal costs something, too."""
CHANCE = 0.05
"""What a policy may have above the best blind one, by the luck of its 256 evaluation episodes."""

GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 0.6}
MLP = {"class_name": "MLPModel", "hidden_dims": [32, 32], "activation": "elu", "obs_normalization": True}
GRU = {**MLP, "class_name": "RNNModel", "rnn_type": "gru", "rnn_hidden_dim": 32}
LSTM = {**GRU, "rnn_type": "lstm"}
CNN = {**MLP, "class_name": "CNNModel", "cnn_cfg": {"output_channels": [8, 8], "kernel_size": 3, "stride": 2}}
RND = {
    "num_outputs": 16,
    "predictor_hidden_dims": [64, 64],
    "target_hidden_dims": [64, 64],
    "state_normalization": True,
    "reward_normalization": True,
    "weight": 1.0,
    # In control steps of 32 an iteration: curiosity for half of the training, the task alone in the last quarter.
    "weight_schedule": {"mode": "linear", "initial_step": 60 * 32, "final_step": 90 * 32, "final_value": 0.0},
}


@dataclass(frozen=True)
class Outcome:
    """One training: what the policy returns in the end, and how it got there.

    Attributes:
        final: Mean return of the deterministic policy, share of the maximum.
        curve: Mean return of training episodes over control steps.
        cpu_s: Processor time of the training, which has one thread.
    """

    final: float
    curve: Curve
    cpu_s: float

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
        about: The task, and what is compared on it, in words.
        make_env: The task, by number of environments and seed.
        settings: What its training dict has different from ``training_dict``, for all variants.
        variants: What each variant changes in turn; the first one has the feature, the last one has not.
        judge: From the outcomes of each variant to whether the claim holds.
        iterations: Length of a training.
        seeds: How many seeds unless told.
        threshold: A return that is drawn and timed.
        is_race: Whether the claim is about the steps to the threshold and not about the final return.
        blind: Whether to draw the most that a policy reaches that does not know the target.
    """

    claim: str
    about: str
    make_env: Callable[..., Task]
    settings: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    judge: Callable[[Outcomes], bool]
    iterations: int
    seeds: int = 3
    threshold: float = SOLVED
    is_race: bool = False
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


def solved(outcomes: Sequence[Outcome], threshold: float = SOLVED) -> bool:
    return all(outcome.final >= threshold for outcome in outcomes)


def only_last_is_blind(outcomes: Outcomes, limit: float) -> bool:
    """Say whether the last variant stays where the blind do and the others solve the task, with every seed."""
    *others, last = outcomes.values()
    return all(map(solved, others)) and all(outcome.final <= limit + CHANCE for outcome in last)


def only_first_arrives(outcomes: Outcomes) -> bool:
    """Say whether the first variant reaches its goal in nearly all episodes and the last one never, with every seed."""
    first, *_, last = outcomes.values()
    return solved(first, FOUND) and all(outcome.final <= CHANCE for outcome in last)


def first_is_faster(outcomes: Outcomes, threshold: float) -> bool:
    """Say whether the slowest seed of the first variant needs fewer steps than the fastest one of the last."""
    first, *_, last = ([outcome.steps_to(threshold) for outcome in group] for group in outcomes.values())
    times = [steps for steps in first if steps is not None]
    rivals = [steps for steps in last if steps is not None]
    return len(times) == len(first) and all(max(times) < steps for steps in rivals)


def studies() -> dict[str, Study]:
    """Return every comparison by the name of its task."""
    return {"memory": memory_study(), "image": image_study(), "sparse": sparse_study(), "symmetric": symmetry_study()}


# The critic is told the target: it makes learning short, and only the policies that are called told read it.
TOLD_CRITIC = {"critic": ["policy", "target"]}
TOLD_ACTOR = {"obs_groups": {"actor": ["policy", "target"]}}


def memory_study() -> Study:
    limit = Memory(1).blind_limit()
    return Study(
        "a GRU and an LSTM solve what an MLP cannot: the target is shown in the first 3 of 26 steps",
        "A point goes to a target that is shown in the first 3 steps; it can move from the eleventh on, so that it "
        "cannot remember by moving. All actors see the same, but for an MLP that is told the target throughout.",
        Memory,
        {"obs_groups": {"actor": ["policy", "cue"], **TOLD_CRITIC}},
        {"GRU": {"actor": GRU}, "LSTM": {"actor": LSTM}, "MLP, told throughout": TOLD_ACTOR, "MLP": {}},
        lambda outcomes: only_last_is_blind(outcomes, limit),
        iterations=45,
        blind=True,
    )


def image_study() -> Study:
    limit = Image(1).blind_limit()
    return Study(
        "a CNN solves what a policy without the picture cannot: the target is a red spot in it",
        "A point goes to a target that is the red spot, not the blue one, in a picture of 20 x 20 pixels. Where the "
        "point is stands in a flat group. The picture is uint8, and is stored as such in the rollout.",
        Image,
        {"obs_groups": {"actor": ["policy"], **TOLD_CRITIC}},
        {
            "CNN": {"actor": CNN, "obs_groups": {"actor": ["policy", "camera"]}},
            "MLP, told": TOLD_ACTOR,
            "MLP, blind": {},
        },
        lambda outcomes: only_last_is_blind(outcomes, limit),
        iterations=32,
        blind=True,
    )


def sparse_study() -> Study:
    return Study(
        "PPO with RND finds what PPO does not: one reward on a hill, after many swings",
        "A cart that is too weak to drive up a hill has to swing up. The goal gives 1 and nothing else does; force "
        "costs a little, so PPO that has not found the goal learns to stand still. The curves are of the task's "
        "rewards, without the intrinsic ones, whose weight is 1 until half of the training and 0 in its last quarter.",
        Valley,
        # Little noise, or a lucky series of pushes finds the goal without curiosity.
        {"algorithm": {"gamma": 0.99, "lam": 0.95}, "actor": {"distribution_cfg": {"init_std": 0.4}}},
        {"PPO + RND": {"algorithm": {"rnd_cfg": RND}, "obs_groups": {"rnd_state": ["policy"]}}, "PPO": {}},
        only_first_arrives,
        iterations=120,
        seeds=5,
        threshold=FOUND,
    )


def symmetry_study() -> Study:
    mirror = {"data_augmentation_func": mirrored_trot}
    augmentation = {**mirror, "use_data_augmentation": True}
    loss = {**mirror, "use_mirror_loss": True, "mirror_loss_coeff": 10.0}
    return Study(
        "PPO with mirrored samples needs fewer steps: a trot that looks the same from four sides",
        "A body on four legs trots at a commanded velocity; left and right, front and back can be exchanged. "
        "Augmentation learns from every sample and its three mirror images, at about twice the time per step; the "
        "mirror loss asks the policy to be symmetric and learns from the samples alone.",
        Trot,
        {},
        {
            "PPO + augmentation": {"algorithm": {"symmetry_cfg": augmentation}},
            "PPO + mirror loss": {"algorithm": {"symmetry_cfg": loss}},
            "PPO": {},
        },
        lambda outcomes: first_is_faster(outcomes, 0.8),
        iterations=90,
        seeds=5,
        threshold=0.8,
        is_race=True,
    )


def train(study: Study, label: str, seed: int, iterations: int) -> Outcome:
    """Train one variant with one seed, and evaluate it."""
    torch.manual_seed(seed)
    env = study.make_env(NUM_ENVS, seed=seed)
    settings = layered(training_dict(seed), study.settings, study.variants[label])
    with tempfile.TemporaryDirectory() as folder:
        start_s = time.process_time()
        runner = OnPolicyRunner(env, settings, folder, "cpu")
        runner.learn(iterations, init_at_random_ep_len=True)
        cpu_s = time.process_time() - start_s
        # With RND, Train/mean_reward counts the intrinsic reward, too.
        metric = "Rnd/mean_extrinsic_reward" if settings["algorithm"].get("rnd_cfg") else "Train/mean_reward"
        curve = read_curve(Path(folder) / "metrics.csv", label, "steps", metric)
    fresh = study.make_env(EVALUATION_ENVS, seed=seed + EVALUATION_SEED_OFFSET)
    return Outcome(evaluate(runner.get_inference_policy(), fresh, EVALUATION_ENVS).mean, curve, cpu_s)


def run(name: str, study: Study, seeds: Sequence[int], iterations: int) -> Outcomes:
    """Train every variant with every seed, the variants in turn."""
    outcomes: Outcomes = {label: [] for label in study.variants}
    for seed in seeds:
        for label, group in outcomes.items():
            outcome = train(study, label, seed, iterations)
            group.append(outcome)
            steps = outcome.steps_to(study.threshold)
            print(
                f"{name:10s} seed {seed}  {label:20s} return {outcome.final:6.3f}  "
                f"{study.threshold} after {steps or '-'} steps  {outcome.cpu_s:.1f} s",
                flush=True,
            )
    return outcomes


def numbers_of(study: Study, outcomes: Outcomes, seeds: Sequence[int], iterations: int) -> dict[str, Any]:
    """Return everything about a comparison, for JSON."""
    numbers: dict[str, Any] = {
        "claim": study.claim,
        "holds": study.judge(outcomes),
        "about": study.about,
        "num_envs": NUM_ENVS,
        "iterations": iterations,
        "seeds": list(seeds),
        "threshold": study.threshold,
    }
    if study.blind:
        numbers["blind_limit"] = round(study.make_env(1).blind_limit(), 3)
    if study.is_race:
        numbers["steps_of_last"] = {label: step_ratios(outcomes, label, study.threshold) for label in outcomes}
    numbers["variants"] = {label: summary(group, study.threshold) for label, group in outcomes.items()}
    return numbers


def step_ratios(outcomes: Outcomes, label: str, threshold: float) -> list[float | None]:
    """Return a variant's steps to the threshold as share of the last variant's, seed by seed."""
    *_, last = outcomes.values()
    pairs = [(a.steps_to(threshold), b.steps_to(threshold)) for a, b in zip(outcomes[label], last, strict=True)]
    return [None if own is None or other is None else round(own / other, 2) for own, other in pairs]


def summary(group: Sequence[Outcome], threshold: float) -> dict[str, Any]:
    """Return a variant's numbers, one entry per seed."""
    return {
        "final_return": [round(outcome.final, 3) for outcome in group],
        "median_final_return": round(statistics.median(outcome.final for outcome in group), 3),
        "steps_to_threshold": [outcome.steps_to(threshold) for outcome in group],
        "cpu_s": [round(outcome.cpu_s, 1) for outcome in group],
        "curves": [
            {"steps": [int(x) for x in outcome.curve.x], "returns": [round(float(y), 3) for y in outcome.curve.y]}
            for outcome in group
        ],
    }


def verdict(name: str, numbers: dict[str, Any]) -> str:
    """Return one line that says whether the claim holds, and by how much."""
    parts = []
    for label, row in numbers["variants"].items():
        finals = row["final_return"]
        part = f"{label} {row['median_final_return']:.0%} of the maximum ({min(finals):.0%} to {max(finals):.0%})"
        ratios = [ratio for ratio in numbers.get("steps_of_last", {}).get(label, ()) if ratio is not None]
        if ratios:
            part += f", {numbers['threshold']:.0%} in {statistics.median(ratios):.2f} of the steps"
        parts.append(part)
    return f"{name:10s} {'holds' if numbers['holds'] else 'DOES NOT HOLD'}: {numbers['claim']}: {'; '.join(parts)}"


def plot(study: Study, outcomes: Outcomes, limit: float | None, path: Path) -> None:
    """Draw the curves of every variant with bands over the seeds, and the lines that the claim is about."""
    figure = new_figure(7, 4.2)
    axes = figure.add_subplot()
    axes.axhline(study.threshold, color="grey", linewidth=0.8, linestyle="--")
    if limit is not None:
        axes.axhline(limit, color="black", linewidth=1.0, linestyle=":", label="the most without the target")
    curves = [outcome.curve for group in outcomes.values() for outcome in group]
    draw_curves(axes, curves, "steps", "Return of training episodes, share of the maximum")
    axes.set_title(study.claim, fontsize=9)
    axes.set_ylim(min(-0.03, *(float(curve.y.min()) - 0.03 for curve in curves)), 1.03)
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:.0f}k")
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
    parser.add_argument("--seeds", type=int, nargs="+", help="of every task, instead of its own; nothing is written")
    parser.add_argument("--iterations", type=int, help="of every training, instead of its own; nothing is written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name in args.tasks:
        study = everything[name]
        seeds, iterations = args.seeds or range(study.seeds), args.iterations or study.iterations
        outcomes = run(name, study, seeds, iterations)
        results[name] = numbers_of(study, outcomes, seeds, iterations)
        if not args.seeds and not args.iterations:
            plot(study, outcomes, results[name].get("blind_limit"), RESULTS / f"learning_{name}.png")
            record(name, results[name])
    for name, numbers in results.items():
        print(verdict(name, numbers))
    sys.exit(not all(numbers["holds"] for numbers in results.values()))


if __name__ == "__main__":
    main()
