"""Curves as SVG: every seed thin, their mean thick, and the confidence band of the mean."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence

import numpy as np

from sim_rl_plugin.plotting import X_AXES, Curve, mean_and_band, new_figure
from sim_rl_plugin.run_report.contents import RunContents

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_NORMAL_95 = 1.96


def confidence_95(deviation: np.ndarray, count: int) -> np.ndarray:
    """Return half the width of the 95 % confidence interval of a mean.

    Args:
        deviation: Standard deviation of the values, divided by their number, as ``mean_and_band`` gives it.
        count: How many values, at least 2.
    """
    quantile = _T_95[count - 2] if count - 2 < len(_T_95) else _NORMAL_95
    return quantile * deviation / math.sqrt(count - 1)


def curves_of(runs: Sequence[RunContents], tag: str, x: str) -> list[Curve]:
    """Return the runs' curves of a metric; runs that do not have it, or not the axis, are left out."""
    curves = []
    for run in runs:
        places = dict(run.metrics.get(X_AXES[x][0], ())) if x != "iteration" else None
        points = [
            (iteration if places is None else places[iteration], value)
            for iteration, value in run.metrics.get(tag, ())
            if (places is None or iteration in places) and math.isfinite(value)
        ]
        if points:
            xs, ys = np.array(points, dtype=float).T
            curves.append(Curve(run.label, xs, ys))
    return curves


def svg_of(panels: Sequence[tuple[str, Sequence[Curve]]], labels: Sequence[str], x: str, columns: int = 2) -> str:
    """Return an SVG element with a panel for each metric.

    Args:
        panels: Title and curves of each.
        labels: All labels of the page, so that each has its colour everywhere.
        x: One of ``X_AXES``.
        columns: Panels side by side.
    """
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(5.5 * columns, 3.2 * rows)
    for index, (title, curves) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        for label in dict.fromkeys(curve.label for curve in curves):
            _draw(axes, [curve for curve in curves if curve.label == label], f"C{labels.index(label) % 10}")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(X_AXES[x][1], fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if index == 0:
            axes.legend(fontsize=8)
    buffer = io.StringIO()
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "sim-rl", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    # Within a page there is no document type, and sizes are the page's.
    element = text[text.index("<svg") :]
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element))


def _draw(axes: object, group: Sequence[Curve], color: str) -> None:
    """Draw the runs of one label."""
    plot = axes.plot  # type: ignore[attr-defined]
    if len(group) == 1:
        plot(group[0].x, group[0].y, color=color, label=group[0].label)
        return
    for curve in group:
        plot(curve.x, curve.y, color=color, linewidth=0.7, alpha=0.4)
    grid, mean, deviation = mean_and_band(group)
    half = confidence_95(deviation, len(group))
    plot(grid, mean, color=color, linewidth=1.8, label=f"{group[0].label} ({len(group)} seeds, 95 % of the mean)")
    axes.fill_between(grid, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)  # type: ignore[attr-defined]
