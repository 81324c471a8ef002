"""What a sweep ends with: a table, the best settings, and a page with a plot."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim_rl_plugin.config.yaml_text import dump
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.plotting import new_figure
from sim_rl_plugin.sweeps.definition import Sweep
from sim_rl_plugin.sweeps.study import TrialRecord, seeds_reported
from sim_rl_plugin.whole_file import write_text_whole

TABLE_FILE = "sweep.csv"
BEST_FILE = "best.yaml"
PAGE_FILE = "report.html"

_COLORS = {"complete": "C0", "pruned": "0.6", "failed": "C3", "running": "C1"}
_PANELS_PER_ROW = 3

_STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:80em}table{border-collapse:collapse}"
    "td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}img{max-width:100%}"
    "tr.best{background:#e8f4e8}pre{background:#f4f4f4;padding:1em}"
)


def ranked(sweep: Sweep, records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the complete trials, the best first; of two that are equally good, the earlier one."""
    complete = [record for record in records if record.state == "complete" and record.result is not None]
    sign = -1.0 if sweep.objective.direction == "maximize" else 1.0
    return sorted(complete, key=lambda record: (sign * (record.result or 0.0), record.number))


def best_of(sweep: Sweep, records: Iterable[TrialRecord]) -> TrialRecord | None:
    """Return the best of the complete trials; None while none is complete."""
    return next(iter(ranked(sweep, records)), None)


def describe(record: TrialRecord) -> str:
    """Return what became of a trial, in one line."""
    result = "" if record.result is None else f" {record.result:.6g}"
    error = f" ({record.error})" if record.error else ""
    settings = " ".join(f"{key}={_short(value)}" for key, value in record.values.items())
    return f"trial {record.number}:{result} {record.state} after {record.iterations} iterations{error}, {settings}"


def write_results(sweep: Sweep, records: Sequence[TrialRecord], root: Path) -> list[Path]:
    """Write the table of all trials and, once a trial is complete, the best settings.

    Returns:
        The files.

    Raises:
        UserError: A file cannot be written.
    """
    written = {TABLE_FILE: _table(sweep, records)}
    best = best_of(sweep, records)
    if best is not None:
        written[BEST_FILE] = _best_settings(sweep, best)
    try:
        for name, text in written.items():
            write_text_whole(root / name, text)
    except OSError as error:
        raise UserError(f"cannot write the results into {root}: {error.strerror}") from error
    return [root / name for name in written]


def write_report(sweep: Sweep, records: Sequence[TrialRecord], root: Path) -> list[Path]:
    """Write the table, the best settings, and a page that holds its plot and needs no other file.

    Returns:
        The files.

    Raises:
        UserError: A file cannot be written.
    """
    files = write_results(sweep, records, root)
    page = _page(sweep, records, _plot(sweep, records))
    try:
        write_text_whole(root / PAGE_FILE, page)
    except OSError as error:
        raise UserError(f"cannot write the results into {root}: {error.strerror}") from error
    return [*files, root / PAGE_FILE]


def _table(sweep: Sweep, records: Sequence[TrialRecord]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["trial", "state", sweep.objective.metric, "iterations", *sweep.parameters, "folders", "error"])
    for record in records:
        result = "" if record.result is None else repr(record.result)
        values = [_cell(record.values.get(key, "")) for key in sweep.parameters]
        folders = " ".join(str(sweep.run_folder(record.number, seed)) for seed in sweep.seeds)
        writer.writerow([record.number, record.state, result, record.iterations, *values, folders, record.error])
    return text.getvalue()


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _best_settings(sweep: Sweep, best: TrialRecord) -> str:
    """Return settings for ``sim-rl train --config`` that train what the best trial's first seed trained."""
    heading = (
        f"# Trial {best.number} of a sweep: {sweep.objective.metric} {best.result:.6g}, "
        f"{sweep.objective.direction}d over {', '.join(sweep.parameters)}.\n"
    )
    return heading + dump(sweep.layer_of(best.values, sweep.seeds[0]))


def _page(sweep: Sweep, records: Sequence[TrialRecord], plot: bytes) -> str:
    best = best_of(sweep, records)
    counts = Counter(record.state for record in records)
    task = f"{sweep.train['task']} on {sweep.train.get('simulator', 'mujoco')}"
    title = html.escape(f"Sweep of {task}")
    states = ", ".join(f"{counts[state]} {state}" for state in _COLORS if counts[state])
    lines = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>",
        f"<h1>{title}</h1>",
        f"<p>{html.escape(sweep.objective.direction)} {html.escape(sweep.objective.metric)}, "
        f"{len(sweep.seeds)} seed(s) of {sweep.budget.iterations} iterations each. "
        f"{len(records)} trials: {states}; {sum(record.iterations for record in records):,} iterations.</p>",
    ]
    if best is not None:
        lines += [
            f"<h2>Best: trial {best.number} with {best.result:.6g}</h2>",
            f"<pre>{html.escape(_best_settings(sweep, best))}</pre>",
        ]
    image = base64.b64encode(plot).decode()
    lines += [f"<p><img alt='Trials' src='data:image/png;base64,{image}'></p>", "<h2>Trials</h2>"]
    return "\n".join([*lines, *_html_table(sweep, records), "</html>"]) + "\n"


def _html_table(sweep: Sweep, records: Sequence[TrialRecord]) -> list[str]:
    best = best_of(sweep, records)
    heading = ["trial", "state", sweep.objective.metric, "iterations", *sweep.parameters, ""]
    order = ranked(sweep, records)
    rows = ["<table><tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in heading) + "</tr>"]
    for record in [*order, *(record for record in records if record not in order)]:
        cells = [str(record.number), record.state, "" if record.result is None else f"{record.result:.6g}"]
        cells += [str(record.iterations), *(_short(record.values.get(key, "")) for key in sweep.parameters)]
        cells.append(record.error)
        kind = " class='best'" if record is best else ""
        rows.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return [*rows, "</table>"]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _cell(value)


def _plot(sweep: Sweep, records: Sequence[TrialRecord]) -> bytes:
    """Return a PNG: results over trials, learning curves, and results over each parameter."""
    panels = 2 + len(sweep.parameters)
    columns = min(panels, _PANELS_PER_ROW)
    rows = -(-panels // columns)
    figure = new_figure(4.5 * columns, 3.6 * rows)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    _draw_history(axes[0], sweep, records)
    _draw_curves(axes[1], sweep, records)
    for each, key in zip(axes[2:], sweep.parameters, strict=False):
        _draw_parameter(each, sweep, records, key)
    for unused in axes[panels:]:
        unused.axis("off")
    image = io.BytesIO()
    figure.savefig(image, dpi=100, format="png")
    return image.getvalue()


def _measured(records: Sequence[TrialRecord], state: str) -> list[TrialRecord]:
    return [
        record
        for record in records
        if record.state == state and record.result is not None and math.isfinite(record.result)
    ]


def _draw_history(axes: Any, sweep: Sweep, records: Sequence[TrialRecord]) -> None:
    for state, color in _COLORS.items():
        found = _measured(records, state)
        if found:
            results = [record.result for record in found]
            axes.scatter([record.number for record in found], results, color=color, label=state, s=18)
    complete = _measured(records, "complete")
    better = np.maximum if sweep.objective.direction == "maximize" else np.minimum
    if complete:
        best = better.accumulate(np.array([record.result for record in complete], dtype=float))
        axes.step([record.number for record in complete], best, where="post", color="C2", label="best so far")
        axes.legend(fontsize="small")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _label(axes, "Trial", sweep.objective.metric)


def _draw_curves(axes: Any, sweep: Sweep, records: Sequence[TrialRecord]) -> None:
    """Draw each trial's metric over iterations, the mean of its seeds where all of them have a value."""
    best = best_of(sweep, records)
    for record in records:
        curve = _curve(sweep, record)
        if curve:
            style = {"color": "C2", "linewidth": 2.0, "zorder": 3} if record is best else {
                "color": _COLORS[record.state], "linewidth": 0.8, "alpha": 0.6}  # fmt: skip
            axes.plot(list(curve), list(curve.values()), **style)
    _label(axes, "Iteration (green: the best trial)", sweep.objective.metric)


def _curve(sweep: Sweep, record: TrialRecord) -> dict[int, float]:
    length = sweep.budget.iterations
    begun = sum(bool(values) for values in seeds_reported(sweep, record.reports))
    values: dict[int, list[float]] = {}
    for step, value in record.reports.items():
        values.setdefault(step % length, []).append(value)
    return {step: statistics.fmean(found) for step, found in sorted(values.items()) if len(found) == begun}


def _draw_parameter(axes: Any, sweep: Sweep, records: Sequence[TrialRecord], key: str) -> None:
    parameter = sweep.parameters[key]
    names = [_cell(choice) for choice in parameter.choices or ()]
    for state, color in _COLORS.items():
        found = _measured(records, state)
        values = [record.values[key] for record in found]
        xs = [names.index(_cell(value)) for value in values] if names else values
        axes.scatter(xs, [record.result for record in found], color=color, s=18, clip_on=False)
    if names:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    else:
        axes.set_xscale("log" if parameter.is_logarithmic else "linear")
        axes.set_xlim(*parameter.samples)
    _label(axes, key, sweep.objective.metric)


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
