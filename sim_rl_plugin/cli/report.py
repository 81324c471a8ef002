"""``sim-rl report``: one page about one or many runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from sim_rl_plugin.cli.options import FILE
from sim_rl_plugin.cli.plot import default_label, parse_run
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.plotting import X_AXES
from sim_rl_plugin.run_report.contents import RunContents, read_run
from sim_rl_plugin.run_report.page import page_of
from sim_rl_plugin.whole_file import write_text_whole


@click.command("report")
@click.argument("runs", nargs=-1, required=True)
@click.option("--output", type=FILE, default=Path("report.html"), show_default=True, help="File to write.")
@click.option("--title", default="Training report", show_default=True, help="Heading of the page.")
@click.option("--x", type=click.Choice(list(X_AXES)), default="iteration", show_default=True, help="Horizontal axis.")
@click.option(
    "--episodes", type=click.IntRange(min=0), default=0, show_default=True, help="Evaluate each run's policy."
)
def report(runs: tuple[str, ...], output: Path, title: str, x: str, episodes: int) -> None:
    """Write one HTML page about RUNS (run folders): curves, evaluations, settings, times, videos, versions.

    The page holds everything itself and can be sent around. Runs of one label, which is a run's run_name or else
    its task and simulator, are one curve with a band of confidence; LABEL=FOLDER gives another.
    """
    contents = []
    for run in runs:
        folder, label = parse_run(run)
        read = read_run(folder, label or default_label(folder))
        contents.append(_evaluated(read, episodes) if episodes else read)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(output, page_of(contents, title, x))
    except OSError as error:
        raise UserError(f"cannot write the report {output}: {error.strerror or error}") from error
    click.echo(f"report: {output}")


def _evaluated(run: RunContents, episodes: int) -> RunContents:
    """Return a run with episodes of its last policy, or with a line that says why there are none."""
    from sim_rl_plugin.cli.reuse import config_of_run
    from sim_rl_plugin.evaluation import EVALUATION_SEED_OFFSET, evaluate
    from sim_rl_plugin.run_folder import find_run, load_policy
    from sim_rl_plugin.simulation import open_env, prepare_process, resolve_device

    try:
        saved = find_run(run.folder)
        config = config_of_run(saved, {})
        device = resolve_device(config.device)
        prepare_process(config)
        seed = config.seed + EVALUATION_SEED_OFFSET
        with open_env(config, device=device, num_envs=episodes, seed=seed) as env:
            result = evaluate(load_policy(saved, config, env, device), env, episodes)
    except UserError as error:
        return dataclasses.replace(run, problems=(*run.problems, f"{run.folder} was not evaluated: {error}"))
    return dataclasses.replace(run, evaluation=result)
