"""The gap between two simulators, as one policy lives it: a table, or the numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.sim_to_sim.statistics import Behaviour
from sim_rl_plugin.whole_file import write_text_whole

DRIFT_ERRORS = 6.0
"""Standard errors by which two means must differ to count as apart: of ten episodes' tens of thousands of pairs, one
in ten times does by chance, of more episodes' hardly ever."""

_DRIFT_STEPS = 2
_SHOWN = 12


def gap_between(first: Behaviour, second: Behaviour) -> dict[str, Any]:
    """Return all numbers of two behaviours side by side, in plain data.

    ``gap`` is the difference of two means in units of their standard deviation, the root of the mean of both
    variances. ``drifts_at_step`` is the control step of an episode from which the means over the environments differ
    by more than ``DRIFT_ERRORS`` standard errors for two steps in a row; None if they never do.

    Args:
        first: Where the policy was trained.
        second: Where else it was tried; in the same layout.
    """
    drifts = _drifts(first, second)
    quantities = []
    for index, name in enumerate(first.names):
        one, two = (_numbers(behaviour, index) for behaviour in (first, second))
        spread = math.sqrt((one["std"] ** 2 + two["std"] ** 2) / 2.0)
        difference = two["mean"] - one["mean"]
        negligible = abs(difference) <= 1e-6 * max(1.0, abs(one["mean"]))
        quantities.append(
            {
                "name": name,
                "kind": _kind(first, index),
                "first": one,
                "second": two,
                "gap": 0.0 if negligible else abs(difference) / max(spread, 1e-6 * max(1.0, abs(one["mean"]))),
                "drifts_at_step": drifts[index],
            }
        )
    terms = dict.fromkeys([*first.reward_terms, *second.reward_terms])
    return {
        "places": [first.place, second.place],
        "control_step_s": [first.control_step_s, second.control_step_s],
        "episodes": [first.episodes.to_dict(), second.episodes.to_dict()],
        "return_gap_errors": _return_gap(first, second),
        "reward_terms": {name: [first.reward_terms.get(name), second.reward_terms.get(name)] for name in terms},
        "quantities": quantities,
    }


def remarks_on(gap: dict[str, Any]) -> list[str]:
    """Return what somebody who compares two simulators should not overlook, a sentence each."""
    remarks = []
    steps_s = gap["control_step_s"]
    if None not in steps_s and abs(steps_s[0] - steps_s[1]) > 1e-6 * steps_s[0]:
        remarks.append(f"the control step is {steps_s[0]:g} s in the one and {steps_s[1]:g} s in the other")
    reported = [[values[side] is not None for values in gap["reward_terms"].values()] for side in (0, 1)]
    if any(reported[0]) and any(reported[1]) and reported[0] != reported[1]:
        remarks.append("the rewards have other terms: compare returns with care")
    errors = gap["return_gap_errors"]
    verdict = "no more than chance" if errors < 3.0 else "more than chance"
    remarks.append(f"the returns differ by {errors:.1f} standard errors, {verdict}")
    drifting = [entry for entry in gap["quantities"] if entry["drifts_at_step"] is not None]
    if drifting:
        first = min(drifting, key=lambda entry: entry["drifts_at_step"])
        remarks.append(
            f"{len(drifting)} of {len(gap['quantities'])} quantities drift apart, {first['name']} first, at step "
            f"{first['drifts_at_step']}"
        )
    else:
        remarks.append("nothing drifts apart")
    return remarks


def as_markdown(gap: dict[str, Any]) -> str:
    """Return a report for readers."""
    one, two = gap["places"]
    lines = [f"# {one}, and {two}", "", *(f"- {remark}" for remark in remarks_on(gap)), ""]
    first, second = gap["episodes"]
    rows = [
        ["return", *(f"{side['mean']:.1f} ± {side['std']:.1f}" for side in (first, second))],
        ["smallest, largest", *(f"{side['min']:.1f}, {side['max']:.1f}" for side in (first, second))],
        ["episode length", *(f"{side['mean_episode_length']:.1f}" for side in (first, second))],
        ["episodes", *(str(side["episodes"]) for side in (first, second))],
        ["control step [s]", *("?" if step is None else f"{step:g}" for step in gap["control_step_s"])],
    ]
    lines += [*_table(["", one, two], rows), ""]
    if gap["reward_terms"]:
        rows = [
            [name, *("-" if value is None else f"{value:.4g}" for value in values)]
            for name, values in gap["reward_terms"].items()
        ]
        lines += ["## Reward per control step", "", *_table(["term", one, two], rows), ""]
    for kind, title in (("action", "Actions"), ("observation", "Observations and joints, the farthest apart first")):
        entries = [entry for entry in gap["quantities"] if entry["kind"] == kind]
        if kind == "observation":
            entries = sorted(entries, key=lambda entry: -entry["gap"])[:_SHOWN]
        rows = [
            [
                entry["name"],
                *(f"{side['mean']:.3g} ± {side['std']:.3g}" for side in (entry["first"], entry["second"])),
                *(f"{side['min']:.3g}, {side['max']:.3g}" for side in (entry["first"], entry["second"])),
                f"{entry['gap']:.2f}",
                "-" if entry["drifts_at_step"] is None else str(entry["drifts_at_step"]),
            ]
            for entry in entries
        ]
        heading = ["", one, two, "range", "range there", "gap [std]", "drifts at step"]
        lines += [f"## {title}", "", *_table(heading, rows), ""]
    return "\n".join(lines)


def write_gap(gap: dict[str, Any], path: Path) -> None:
    """Write the numbers (``.json``) or the report (``.md``).

    Raises:
        UserError: The name ends otherwise, or the file cannot be written.
    """
    check_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, json.dumps(gap, indent=1) if path.suffix == ".json" else as_markdown(gap))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def check_name(path: Path) -> None:
    """Raise unless a report can have this name.

    Raises:
        UserError: It ends neither with .md nor with .json.
    """
    if path.suffix not in (".md", ".json"):
        raise UserError(f"--report: the file's name ends with .md or .json, found {path.name!r}")


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def _numbers(behaviour: Behaviour, index: int) -> dict[str, float]:
    return {
        "mean": float(behaviour.mean[index]),
        "std": float(behaviour.std[index]),
        "min": float(behaviour.smallest[index]),
        "max": float(behaviour.largest[index]),
    }


def _kind(behaviour: Behaviour, index: int) -> str:
    count = len(behaviour.names)
    if index == count - 1:
        return "reward"
    return "action" if index >= count - 1 - behaviour.num_actions else "observation"


def _return_gap(first: Behaviour, second: Behaviour) -> float:
    """Return the difference of the mean returns in units of its standard error."""
    sides = [behaviour.episodes for behaviour in (first, second)]
    variance = sum(side.std**2 / max(1, len(side.returns) - 1) for side in sides)
    difference = abs(sides[0].mean - sides[1].mean)
    return difference / max(math.sqrt(variance), 1e-9 * max(1.0, abs(sides[0].mean)))


def _drifts(first: Behaviour, second: Behaviour) -> list[int | None]:
    """Return the step from which each quantity's means are apart."""
    steps = min(len(first.profile_count), len(second.profile_count))
    counts = [behaviour.profile_count[:steps].unsqueeze(1) for behaviour in (first, second)]
    # Of fewer than three environments, the spread is not known.
    known = ((counts[0] > 2) & (counts[1] > 2)).squeeze(1)
    difference = (first.profile_mean[:steps] - second.profile_mean[:steps]).abs()
    variance = sum(
        behaviour.profile_var[:steps] / (count - 1.0).clamp(min=1.0)
        for behaviour, count in zip((first, second), counts, strict=True)
    )
    # What both simulators keep constant differs by rounding alone.
    floor = 1e-4 * (first.std.square() + second.std.square()).sqrt() + 1e-6
    apart = (difference > DRIFT_ERRORS * torch.as_tensor(variance).sqrt() + floor) & known.unsqueeze(1)
    lasting = apart.clone()
    for ahead in range(1, _DRIFT_STEPS):
        lasting[:-ahead] &= apart[ahead:]
        lasting[-ahead:] = False
    return [int(column.nonzero()[0]) if bool(column.any()) else None for column in lasting.T]
