"""Learning curves from the tables of one or many runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim_rl_plugin.errors import UserError, unknown_name

X_AXES = {
    "iteration": ("iteration", "Iteration"),
    "steps": ("Perf/total_steps", "Control steps"),
    "time": ("Perf/total_time_s", "Training time [s]"),
}
"""What can be drawn along the horizontal axis: column of the table, and the axis' label."""

DEFAULT_METRIC = "Train/mean_reward"


@dataclass(frozen=True)
class Curve:
    """One run's metric.

    Attributes:
        label: Curves of one label are drawn as their mean and a band.
        x: ``(num_points,)``, increasing.
        y: ``(num_points,)``.
    """

    label: str
    x: np.ndarray
    y: np.ndarray


def read_curve(table: Path, label: str, x: str = "iteration", metric: str = DEFAULT_METRIC) -> Curve:
    """Read one metric from a run's ``metrics.csv``.

    Rows without the metric (no episode had ended yet) and a last row that was cut off are left out.

    Args:
        table: The file.
        label: The curve's label.
        x: One of ``X_AXES``.
        metric: The metric's tag.

    Raises:
        UserError: There is no table, or it does not have the metric.
    """
    if not table.is_file():
        raise UserError(f"{table.parent} has no {table.name}: train with 'csv' among the log writers")
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        rows = list(reader)
    for wanted in (X_AXES[x][0], metric):
        if wanted not in columns:
            raise unknown_name(f"metric in {table}:", wanted, columns)
    points = [point for row in rows if (point := _point(row, X_AXES[x][0], metric)) is not None]
    if not points:
        raise UserError(f"{table} has no value of {metric!r} yet")
    xs, ys = np.array(sorted(points), dtype=float).T
    return Curve(label, xs, ys)


def _point(row: dict[str, str], x: str, y: str) -> tuple[float, float] | None:
    try:
        return float(row[x]), float(row[y])
    except (TypeError, ValueError):
        return None


def mean_and_band(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``(x, mean, standard deviation)`` of several runs where all of them have values.

    Args:
        curves: At least one. Their points need not coincide: values between them are interpolated.
    """
    start, end = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    grid = np.unique(np.concatenate([curve.x for curve in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    if not grid.size:
        grid = np.array([start])
    values = np.stack([np.interp(grid, curve.x, curve.y) for curve in curves])
    return grid, values.mean(axis=0), values.std(axis=0)


def plot_curves(curves: Sequence[Curve], output: Path, x: str = "iteration", metric: str = DEFAULT_METRIC) -> Path:
    """Draw curves to a PNG: one line per label, with a band of one standard deviation over its runs.

    Returns:
        ``output``.

    Raises:
        UserError: The file cannot be written.
    """
    figure = new_figure(8, 5)
    draw_curves(figure.add_subplot(), curves, x, metric)
    return save_figure(figure, output)


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure, sizes in units of 120 pixels, that needs no display and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_curves(
    axes: Any, curves: Sequence[Curve], x: str, metric: str, colors: Mapping[str, str] | None = None
) -> None:
    """Draw curves, one line per label, into a figure's axes.

    Args:
        axes: matplotlib axes.
        curves: At least one.
        x: One of ``X_AXES``.
        metric: The vertical axis' label.
        colors: Label to matplotlib colour; others get the next one of the cycle.
    """
    labels = list(dict.fromkeys(curve.label for curve in curves))
    for label in labels:
        group = [curve for curve in curves if curve.label == label]
        grid, mean, deviation = mean_and_band(group)
        name = f"{label} ({len(group)} runs)" if len(group) > 1 else label
        (line,) = axes.plot(grid, mean, label=name, color=(colors or {}).get(label))
        if len(group) > 1:
            axes.fill_between(grid, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel(X_AXES[x][1])
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    axes.legend()


def save_figure(figure: Any, output: Path) -> Path:
    """Write a figure, and return where.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=120)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write the plot {output}: {error}") from error
    return output
