"""``sim-rl export``: a policy in one file, for a robot or for another program."""

from __future__ import annotations

from pathlib import Path

import click

from sim_rl_plugin.cli import options
from sim_rl_plugin.cli.reuse import config_of_run
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.export import SUFFIXES, export_policy
from sim_rl_plugin.export.description import describe, describe_checkpoint
from sim_rl_plugin.export.gate import copied_to_cpu, record
from sim_rl_plugin.layout import describe_layout
from sim_rl_plugin.run_folder import find_run, load_policy
from sim_rl_plugin.simulation import open_env, prepare_process, resolve_device

_ENVIRONMENTS = 4


@click.command("export")
@options.run_argument
@click.option("--to", type=click.Choice(list(SUFFIXES)), default="onnx", show_default=True, help="Format of the file.")
@click.option("--output", type=options.FILE, metavar="FILE", help="The file; by default policy.* in the run folder.")
@click.option("--dynamic-batch", is_flag=True, help="Take any number of robots at once (onnx, pt2) instead of one.")
@click.option("--steps", type=click.IntRange(min=2), default=200, show_default=True, help="Control steps to compare.")
@options.best_option
@options.trust_option
@options.simulator_option
@options.task_option
@options.seed_option
@options.device_option
def export(
    run: Path,
    to: str,
    output: Path | None,
    dynamic_batch: bool,
    steps: int,
    best: bool,
    trust: bool,
    simulator: str | None,
    task: str | None,
    seed: int | None,
    device: str | None,
) -> None:
    """Export the deterministic policy of RUN (a run folder or a checkpoint) with all that a robot must know.

    The policy acts in its environment, the file sees what it saw, and is kept only if it does the same.
    """
    saved = find_run(run, best=best, trust=trust)
    config = config_of_run(saved, {"simulator": simulator, "task": task, "seed": seed, "device": device})
    path = output or saved.folder / f"policy{SUFFIXES[to]}"
    if path.suffix.lower() != SUFFIXES[to]:
        raise UserError(f"--output: the name of a file for {to} ends with {SUFFIXES[to]}, found {path.name!r}")
    where = resolve_device(config.device)
    prepare_process(config)
    with open_env(config, device=where, num_envs=_ENVIRONMENTS) as env:
        policy = copied_to_cpu(load_policy(saved, config, env, where))
        about = describe(policy, env, saved.layout or describe_layout(env), config.to_dict())
        about["iteration"] = saved.completed_iterations - 1
        about["checkpoint"] = describe_checkpoint(saved.checkpoint)
        recording = record(policy, env, steps)
    exported = export_policy(policy, recording, about, path, to, dynamic_batch=dynamic_batch)
    click.echo(f"{to}: {exported.path}")
    click.echo(f"checked: {exported.agreement}")
