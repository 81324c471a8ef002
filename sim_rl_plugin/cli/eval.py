"""``sim-rl eval``: how good a trained policy is, here or in another simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sim_rl_plugin.cli import options
from sim_rl_plugin.cli.reuse import config_of_run
from sim_rl_plugin.config import RunConfig
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import EvaluationResult, evaluate
from sim_rl_plugin.policy_source import PolicySource, find_policy
from sim_rl_plugin.sim_to_sim.gap import check_name, gap_between, remarks_on, write_gap
from sim_rl_plugin.sim_to_sim.layout_map import LayoutMap, read_layout_map
from sim_rl_plugin.sim_to_sim.mapped_env import MappedEnv
from sim_rl_plugin.sim_to_sim.statistics import Behaviour, behaviour_of
from sim_rl_plugin.simulation import open_env, prepare_process, resolve_device


@click.command("eval")
@options.run_argument
@options.best_option
@options.trust_option
@options.simulator_option
@options.task_option
@click.option("--map", "map_file", type=options.FILE, metavar="FILE", help="YAML map of what is called otherwise.")
@click.option("--report", type=options.FILE, metavar="FILE", help="Compare with where it was trained (.md or .json).")
@click.option("--episodes", type=click.IntRange(min=1), default=10, show_default=True, help="Number of episodes.")
@options.num_envs_option
@options.seed_option
@options.device_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every episode.")
def evaluate_run(
    run: Path,
    best: bool,
    trust: bool,
    map_file: Path | None,
    report: Path | None,
    episodes: int,
    num_envs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure the deterministic policy of RUN over whole episodes.

    RUN is a run folder, a checkpoint, or a policy that was exported as ONNX or TorchScript. By default every episode
    has an environment of its own. Fewer environments play several episodes each; the first ones of each count.
    --sim tries the policy on another simulator, whose terms are compared with the policy's.
    """
    if report is not None:
        check_name(report)
    source = find_policy(run, best=best, trust=trust)
    if report is not None and source.settings.get("task") is None:
        raise UserError(
            f"--report: {source.path} does not say where it was trained, so there is nothing to compare with"
        )
    config = config_of_run(source, given)
    layout_map = None if map_file is None else read_layout_map(map_file)
    prepare_process(config)
    count = num_envs or episodes
    if report is None:
        with open_env(config, device=resolve_device(config.device), num_envs=count) as opened:
            env = _seen_through(layout_map, source, config, opened)
            result = evaluate(source.load(config, env, resolve_device(config.device)), env, episodes)
    else:
        trained_in = config_of_run(source, {**given, "simulator": None, "task": None})
        first = _behaviour(source, trained_in, None, episodes, count)
        second = _behaviour(source, config, layout_map, episodes, count)
        result, gap = second.episodes, gap_between(first, second)
        write_gap(gap, report)
    if as_json:
        about = {"checkpoint": str(source.path), "simulator": config.simulator, "task": config.task}
        click.echo(json.dumps({**about, "seed": config.seed, **result.to_dict()}, indent=2))
        return
    click.echo(f"{config.task} on {config.simulator}, {source.path}, seed {config.seed}")
    click.echo(describe_result(result))
    if report is not None:
        click.echo(f"{first.place}: {describe_result(first.episodes)}")
        for remark in remarks_on(gap):
            click.echo(remark)
        click.echo(f"report: {report}")


def _seen_through(layout_map: LayoutMap | None, source: PolicySource, config: RunConfig, env: Any) -> Any:
    """Return an environment in the policy's layout."""
    if layout_map is None:
        return env
    if source.layout is None:
        raise UserError(f"--map: {source.path} does not tell the terms that the policy reads")
    return MappedEnv(env, source.layout, layout_map, source.read_groups(config))


def _behaviour(
    source: PolicySource, config: RunConfig, layout_map: LayoutMap | None, episodes: int, num_envs: int
) -> Behaviour:
    """Evaluate in one simulator, which is closed again before the other is opened."""
    device = resolve_device(config.device)
    with open_env(config, device=device, num_envs=num_envs) as opened:
        env = _seen_through(layout_map, source, config, opened)
        policy = source.load(config, env, device)
        place = f"{config.task} on {config.simulator}"
        return behaviour_of(policy, env, episodes, place, source.read_groups(config))


def describe_result(result: EvaluationResult) -> str:
    """Return a result on one line."""
    return (
        f"return {result.mean:.1f} ± {result.std:.1f} (min {min(result.returns):.1f}, max {max(result.returns):.1f}), "
        f"length {result.mean_length:.1f} steps, {len(result.returns)} episodes"
    )
