"""``sim-rl pipeline``: trainings in several stages."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim_rl_plugin import registry
from sim_rl_plugin.cli import options
from sim_rl_plugin.errors import UserError

if TYPE_CHECKING:
    from sim_rl_plugin.pipelines.plan import Plan

_run_dir_option = click.option(
    "--run-dir", type=options.FILE, metavar="DIR", help="The pipeline's folder, instead of one named like FILE."
)
_runs_root_option = click.option(
    "--runs-root", type=options.FILE, default=Path("runs"), show_default=True, help="Folder of pipelines/ and runs."
)
_eval_episodes_option = click.option(
    "--eval-episodes", type=click.IntRange(min=1), help="Episodes of the evaluation, instead of FILE's."
)


@click.group("pipeline")
def pipeline() -> None:
    """Train in several stages, such as teacher and student."""


def _file_and_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what every command that reads a pipeline file takes."""
    parts = (
        click.argument("file", type=options.FILE),
        _run_dir_option,
        _runs_root_option,
        options.device_option,
        options.seed_option,
        _eval_episodes_option,
        click.argument("overrides", nargs=-1),
    )
    for part in reversed(parts):
        command = part(command)
    return command


@pipeline.command("run")
@_file_and_options
@click.option("--redo", multiple=True, metavar="STAGE", help="Train this stage anew, and those that start from it.")
def run(
    file: Path,
    run_dir: Path | None,
    runs_root: Path,
    redo: tuple[str, ...],
    overrides: tuple[str, ...],
    **given: Any,
) -> None:
    """Train the stages of FILE one after the other, and compare their policies on the same episodes.

    Complete stages are skipped, and one that was cut off continues where it was: run the same
    command again. Ctrl-C, SIGTERM and SIGUSR1 save a checkpoint and end it, with status 130, 143 and 75.
    OVERRIDES set anything: student.algorithm.learning_rate=1e-3 common.num_envs=64.
    """
    from sim_rl_plugin.pipelines.report import table_of, write_report
    from sim_rl_plugin.pipelines.running import run_pipeline
    from sim_rl_plugin.runners.stop_signal import leaving_at_once, status_of
    from sim_rl_plugin.training import require_one_process

    require_one_process("sim-rl pipeline run")
    plan, folder = _plan(file, run_dir, runs_root, overrides, given)
    click.echo(f"pipeline folder: {folder}")
    try:
        with leaving_at_once():
            results = run_pipeline(plan, folder, redo=redo, say=click.echo)
            files = write_report(plan, results, folder)
    except (KeyboardInterrupt, SystemExit) as error:
        status = status_of(error)
        if status is None:
            raise
        click.echo(f"continue with: {_same_command(file, run_dir, runs_root, overrides, given)}")
        raise click.exceptions.Exit(status) from None
    _print_table(table_of(results, plan.pipeline.reference))
    for path in files:
        click.echo(f"written: {path}")


@pipeline.command("show")
@_file_and_options
def show(file: Path, run_dir: Path | None, runs_root: Path, overrides: tuple[str, ...], **given: Any) -> None:
    """Show the stages of FILE, from what each starts, and how far it is. Nothing is trained."""
    from sim_rl_plugin.pipelines.running import pipeline_status

    plan, folder = _plan(file, run_dir, runs_root, overrides, given)
    click.echo(f"{plan.name}: {plan.common.task} on {plan.common.simulator}, folder {folder}")
    rows = [["stage", "algorithm", "starts from", "control steps", "state", ""]]
    for status in pipeline_status(plan, folder):
        stage, config = status.planned.stage, status.planned.config
        start = ", ".join(stage.inputs) or "-"
        steps = f"{status.planned.control_steps:,}"
        rows.append([stage.name, config.algorithm["class_name"], start, steps, status.describe(), stage.summary])
    _print_table(rows)


@pipeline.command("list")
def list_pipelines() -> None:
    """List pipelines and their stages, and the files that come along."""
    from sim_rl_plugin.config.files import configs_folder
    from sim_rl_plugin.pipelines.plan import load_pipeline

    for owned in registry.owned_entries("pipelines"):
        click.echo(f"{owned.entry.name}  {owned.entry.summary}".rstrip())
        try:
            stages = load_pipeline(owned.entry.name).stages
        except UserError as error:
            # One that cannot be loaded must not hide the others.
            click.echo(f"  {error}")
            continue
        for stage in stages:
            click.echo(f"  {stage.name}{' (optional)' if stage.optional else ''}  {stage.summary}".rstrip())
    for path in sorted((configs_folder() / "pipelines").glob("*.yaml")):
        click.echo(f"file: {path}")


def _plan(
    file: Path, run_dir: Path | None, runs_root: Path, overrides: tuple[str, ...], given: dict[str, Any]
) -> tuple[Plan, Path]:
    """Return the checked plan, and the pipeline's folder."""
    from sim_rl_plugin.pipelines.plan import find_pipeline_file, load_plan

    found = find_pipeline_file(file)
    plan = load_plan(found, overrides, {"device": given["device"], "seed": given["seed"]})
    if given["eval_episodes"] is not None:
        plan = dataclasses.replace(plan, episodes=given["eval_episodes"])
    return plan, run_dir or runs_root / "pipelines" / found.stem


def _same_command(
    file: Path, run_dir: Path | None, runs_root: Path, overrides: tuple[str, ...], given: dict[str, Any]
) -> str:
    """Return the command that goes on; without --redo, which would start again."""
    words = ["sim-rl", "pipeline", "run", str(file)]
    words += ["--run-dir", str(run_dir)] if run_dir is not None else ["--runs-root", str(runs_root)]
    for option in ("device", "seed", "eval_episodes"):
        if given[option] is not None:
            words += [f"--{option.replace('_', '-')}", str(given[option])]
    return shlex.join([*words, *overrides])


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, heading in enumerate(rows[0]):
        numeric = all(row[index][:1].isdigit() or row[index][:1] == "-" for row in rows[1:])
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    # Where the terminal is narrower, it breaks the lines; rich would cut the cells.
    console.width = max(console.width, sum(max(len(row[i]) for row in rows) + 2 for i in range(len(rows[0]))))
    console.print(table)
