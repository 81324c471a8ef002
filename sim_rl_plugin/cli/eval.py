"""``sim-rl eval``: how good a trained policy is."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sim_rl_plugin.cli import options
from sim_rl_plugin.cli.reuse import config_of_run
from sim_rl_plugin.evaluation import EvaluationResult, evaluate
from sim_rl_plugin.run_folder import find_run, load_policy
from sim_rl_plugin.simulation import open_env, prepare_process, resolve_device


@click.command("eval")
@options.run_argument
@options.best_option
@options.trust_option
@options.simulator_option
@options.task_option
@click.option("--episodes", type=click.IntRange(min=1), default=10, show_default=True, help="Number of episodes.")
@options.num_envs_option
@options.seed_option
@options.device_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every episode.")
def evaluate_run(
    run: Path,
    best: bool,
    trust: bool,
    simulator: str | None,
    task: str | None,
    episodes: int,
    num_envs: int | None,
    seed: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Measure the deterministic policy of RUN (a run folder or a checkpoint) over whole episodes.

    By default every episode has an environment of its own. Fewer environments play several
    episodes each; the first ones of each count. --sim tries the policy on another simulator.
    """
    saved = find_run(run, best=best, trust=trust)
    config = config_of_run(saved, {"simulator": simulator, "task": task, "seed": seed, "device": device})
    where = resolve_device(config.device)
    prepare_process(config)
    with open_env(config, device=where, num_envs=num_envs or episodes) as env:
        result = evaluate(load_policy(saved, config, env, where), env, episodes)
    if as_json:
        about = {"checkpoint": str(saved.checkpoint), "simulator": config.simulator, "task": config.task}
        click.echo(json.dumps({**about, "seed": config.seed, **result.to_dict()}, indent=2))
    else:
        click.echo(f"{config.task} on {config.simulator}, {saved.checkpoint}, seed {config.seed}")
        click.echo(describe_result(result))


def describe_result(result: EvaluationResult) -> str:
    """Return a result on one line."""
    return (
        f"return {result.mean:.1f} ± {result.std:.1f} (min {min(result.returns):.1f}, max {max(result.returns):.1f}), "
        f"length {result.mean_length:.1f} steps, {len(result.returns)} episodes"
    )
