"""``sim-rl plot``: learning curves of one or many runs."""

from __future__ import annotations

from pathlib import Path

import click

from sim_rl_plugin.cli.options import FILE
from sim_rl_plugin.config.yaml_text import read_mapping
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.plotting import DEFAULT_METRIC, X_AXES, plot_curves, read_curve


@click.command("plot")
@click.argument("runs", nargs=-1, required=True)
@click.option("--output", type=FILE, default=Path("learning_curves.png"), show_default=True, help="File to write.")
@click.option("--x", type=click.Choice(list(X_AXES)), default="iteration", show_default=True, help="Horizontal axis.")
@click.option("--metric", default=DEFAULT_METRIC, show_default=True, help="Column of metrics.csv.")
def plot(runs: tuple[str, ...], output: Path, x: str, metric: str) -> None:
    """Draw the learning curves of RUNS (run folders) to a PNG.

    Runs of one label become one line, their mean, with a band of one standard deviation. The label
    is a run's run_name, or else its task and simulator; LABEL=FOLDER gives another.
    """
    curves = []
    for run in runs:
        folder, label = parse_run(run)
        curves.append(read_curve(folder / "metrics.csv", label or default_label(folder), x, metric))
    click.echo(f"plot: {plot_curves(curves, output, x, metric)}")


def default_label(folder: Path) -> str:
    """Return what a run is called in a legend, the same for runs that differ in their seed."""
    config = folder / "config.yaml"
    settings = read_mapping(config) if config.is_file() else {}
    if settings.get("run_name"):
        return str(settings["run_name"])
    if settings.get("task"):
        return f"{settings['task']} ({settings.get('simulator')})"
    return folder.name


def parse_run(run: str) -> tuple[Path, str]:
    """Return the folder and the label, if any, of ``FOLDER`` or ``LABEL=FOLDER``.

    Raises:
        UserError: There is no such folder.
    """
    path = Path(run)
    label, equals, rest = run.partition("=")
    if equals and not path.exists():
        path = Path(rest)
    else:
        label = ""
    if path.is_file():
        path = path.parent
    if not path.is_dir():
        raise UserError(f"no run folder at {path}")
    return path, label
