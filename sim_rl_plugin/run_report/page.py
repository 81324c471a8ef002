"""The page: HTML with everything in it."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence
from html import escape
from typing import Any

from sim_rl_plugin.checkpoint_manifest import versions
from sim_rl_plugin.config.yaml_text import dump
from sim_rl_plugin.run_report.contents import VIDEOS, RunContents, differences
from sim_rl_plugin.run_report.curves import curves_of, svg_of

_MAIN = ("Train/mean_reward", "Eval/mean_return", "Train/mean_episode_length", "Policy/mean_std")
_DETAILS = ("Episode", "Loss", "Step", "Rnd", "Metrics", "Quarantine")
_MAX_PANELS = 30

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e3e3e3; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } video, img { max-width: 24rem; display: block; }
.films { display: flex; flex-wrap: wrap; gap: 1rem; }
.bar { display: flex; height: 1.1rem; min-width: 20rem; } .bar span { display: block; }
.part0 { background: #4c78a8; } .part1 { background: #f58518; } .part2 { background: #54a24b; }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; font-size: .85rem; } .problem { color: #a33; }
"""


def page_of(runs: Sequence[RunContents], title: str, x: str = "iteration") -> str:
    """Return the report of some runs as one HTML document.

    Args:
        runs: At least one.
        title: Its heading.
        x: Horizontal axis of the curves, see ``plotting.X_AXES``.
    """
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(sep=" ", timespec="minutes")
    sections = [
        _section("Runs", _overview(runs)),
        _section("Curves", _curves(runs, x)),
        _section("Evaluation", _evaluations(runs)),
        _section("Differences in the settings", _differences(runs)),
        _section("Where the time went", _times(runs)),
        _section("Videos", _videos(runs)),
        _section("Versions and code", _versions(runs)),
        _section("All settings", "".join(_details(_name(run), dump(run.settings)) for run in runs)),
        _section("All curves", _all_curves(runs, x)),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>{len(runs)} {'run' if len(runs) == 1 else 'runs'}, {escape(now)}, "
        f"sim-rl-plugin {escape(versions()['sim_rl_plugin'])}</p>\n"
        + "\n".join(filter(None, sections))
        + "</body></html>\n"
    )


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{body}</section>" if body else ""


def _name(run: RunContents) -> str:
    return f"{run.label}, seed {run.seed} ({run.folder.name})"


def _overview(runs: Sequence[RunContents]) -> str:
    heading = [
        "label",
        "folder",
        "simulator",
        "task",
        "algorithm",
        "seed",
        "iterations",
        "control steps",
        "time",
        "return",
    ]
    rows = []
    for run in runs:
        steps, seconds, reward = (
            run.last(tag) for tag in ("Perf/total_steps", "Perf/total_time_s", "Train/mean_reward")
        )
        done = run.manifest.get("completed_iterations", _iterations(run))
        rows.append(
            [
                run.label,
                str(run.folder),
                run.settings.get("simulator", "?"),
                run.settings.get("task", "?"),
                (run.settings.get("algorithm") or {}).get("class_name", "?"),
                run.seed,
                f"{done} of {run.settings.get('max_iterations', '?')}",
                "-" if steps is None else f"{steps:,.0f}",
                "-" if seconds is None else str(datetime.timedelta(seconds=round(seconds))),
                _number(reward),
            ]
        )
    problems = [problem for run in runs for problem in run.problems]
    lines = "".join(f'<p class="problem">{escape(problem)}</p>' for problem in problems)
    return _table(heading, rows) + lines


def _iterations(run: RunContents) -> Any:
    last = max((values[-1][0] for values in run.metrics.values()), default=None)
    return "?" if last is None else last + 1


def _curves(runs: Sequence[RunContents], x: str) -> str:
    panels = [(tag, curves) for tag in _MAIN if (curves := curves_of(runs, tag, x))]
    return svg_of(panels, _labels(runs), x) if panels else ""


def _all_curves(runs: Sequence[RunContents], x: str) -> str:
    tags = dict.fromkeys(tag for run in runs for tag in run.metrics if tag.partition("/")[0] in _DETAILS)
    panels = [(tag, curves) for tag in tags if (curves := curves_of(runs, tag, x))]
    if not panels:
        return ""
    left_out = f"<p>{len(panels) - _MAX_PANELS} more are in metrics.csv.</p>" if len(panels) > _MAX_PANELS else ""
    drawing = svg_of(panels[:_MAX_PANELS], _labels(runs), x, columns=3)
    return f"<details><summary>losses and the environment's own statistics</summary>{drawing}{left_out}</details>"


def _labels(runs: Sequence[RunContents]) -> list[str]:
    return list(dict.fromkeys(run.label for run in runs))


def _evaluations(runs: Sequence[RunContents]) -> str:
    rows: list[list[Any]] = []
    for run in runs:
        last = run.last("Eval/mean_return")
        if last is not None:
            at = run.metrics["Eval/mean_return"][-1][0]
            values = (run.last(f"Eval/{name}") for name in ("std_return", "mean_episode_length"))
            rows.append([_name(run), f"last while training, iteration {at}", "", _number(last), *map(_number, values)])
        if run.best is not None:
            rows.append(
                [
                    _name(run),
                    f"best while training, iteration {run.best.get('iteration')}",
                    run.best.get("episodes"),
                    *(_number(run.best.get(key)) for key in ("mean_return", "std_return", "mean_episode_length")),
                ]
            )
        if run.evaluation is not None:
            result = run.evaluation
            numbers = map(_number, (result.mean, result.std, result.mean_length))
            rows.append([_name(run), "last checkpoint, for this page", len(result.returns), *numbers])
    return _table(["run", "policy", "episodes", "return", "std", "length"], rows) if rows else ""


def _differences(runs: Sequence[RunContents]) -> str:
    if len(runs) < 2:
        return ""
    rows = [[key, *map(_short, values)] for key, values in differences(runs).items()]
    if not rows:
        return "<p>none</p>"
    return _table(["setting", *(run.folder.name for run in runs)], rows)


def _times(runs: Sequence[RunContents]) -> str:
    rows = []
    for run in runs:
        total = sum(run.seconds.values())
        if total <= 0.0:
            continue
        shares = "".join(
            f'<span class="part{index}" style="width:{100.0 * seconds / total:.1f}%"></span>'
            for index, seconds in enumerate(run.seconds.values())
        )
        text = ", ".join(f"{name} {100.0 * value / total:.0f} %" for name, value in run.seconds.items())
        speed = [value for _, value in run.metrics.get("Perf/total_fps", ())]
        fps = f"{sorted(speed)[len(speed) // 2]:,.0f}" if speed else "-"
        cells = [escape(_name(run)), f"{total:,.1f}", f'<div class="bar">{shares}</div>{escape(text)}', fps]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heading = "".join(f"<th>{name}</th>" for name in ("run", "seconds", "shares", "control steps/s (median)"))
    return f"<table><tr>{heading}</tr>{''.join(rows)}</table>" if rows else ""


def _videos(runs: Sequence[RunContents]) -> str:
    films = []
    for run in runs:
        if run.video is None:
            continue
        kind = VIDEOS[run.video.suffix.lower()]
        source = f"data:{kind};base64,{base64.b64encode(run.video.read_bytes()).decode()}"
        film = (
            f'<video src="{source}" controls loop muted playsinline></video>'
            if kind.startswith("video")
            else f'<img src="{source}" alt="the policy of {escape(run.folder.name)}">'
        )
        films.append(f"<figure>{film}<figcaption>{escape(_name(run))}</figcaption></figure>")
    return f'<div class="films">{"".join(films)}</div>' if films else ""


def _versions(runs: Sequence[RunContents]) -> str:
    packages = dict.fromkeys(name for run in runs for name in run.manifest.get("versions", {}))
    rows = [[name, *(run.manifest.get("versions", {}).get(name, "-") for run in runs)] for name in packages]
    body = _table(["package", *(run.folder.name for run in runs)], rows) if rows else ""
    states = {(state.repository, state.commit, state.text): state for run in runs for state in run.git}
    for state in states.values():
        condition = "as committed" if state.is_clean else "changed since"
        body += _details(f"{state.repository} {state.commit[:12]}, {condition}", state.text)
    return body


def _details(summary: str, text: str) -> str:
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def _table(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = "<tr>" + "".join(f"<th>{escape(str(cell))}</th>" for cell in heading) + "</tr>"
    for row in rows:
        lines += "<tr>" + "".join(_cell(cell) for cell in row) + "</tr>"
    return f"<table>{lines}</table>"


def _cell(value: Any) -> str:
    text = str(value)
    is_number = text.replace(",", "").replace(".", "").replace("-", "").isdigit()
    return f'<td class="number">{escape(text)}</td>' if is_number else f"<td>{escape(text)}</td>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
