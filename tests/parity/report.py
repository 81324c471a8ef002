"""The table of the largest differences, docs/parity.md."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version
from pathlib import Path

from parity.distillation_rows import DISTILLATION_ROWS
from parity.harness import TOLERANCES, Row
from parity.ppo_rows import ROWS

import sim_rl_plugin

CHECKPOINT_ROWS = (
    "MLP, defaults",
    "GRU",
    "LSTM, 2 layers",
    "CNN, shared encoders",
    "RND, both normalised",
    "symmetry, both",
    "MLP student",
    "GRU student",
)
"""Rows whose runners and checkpoints are compared, too."""
_ORIGINS = {"runner": "3 iterations of both runners", "from rsl_rl": "trained there", "to rsl_rl": "trained here"}


def expected_rows() -> set[str]:
    """Return the names of all rows that a whole run compares."""
    checkpoints = {f"{origin}: {name}" for origin in _ORIGINS for name in CHECKPOINT_ROWS}
    return {*ROWS, *DISTILLATION_ROWS, *checkpoints}


def write(path: Path, differences: dict[str, dict[str, float]], noticed: dict[str, set[str]]) -> None:
    """Write the page."""
    parts = [_head(), _table("PPO", ROWS, differences), _table("Distillation", DISTILLATION_ROWS, differences)]
    parts += [_checkpoints(differences), _exceptions(), _breakages(noticed)]
    path.write_text("\n".join(parts))


def _head() -> str:
    today = datetime.date.today()
    date = f"{today.day} {today:%B %Y}"
    packages = f"rsl-rl-lib {version('rsl-rl-lib')}, torch {version('torch').split('+')[0]}"
    machine = f"{platform.system()} on {platform.machine()}, one thread of the CPU"
    rollout = {TOLERANCES[name] for name in ("actions", "values", "log-prob.", "returns", "advantages", "losses")}
    return f"""# The same numbers as rsl_rl

Written by `make parity` on {date}: sim-rl-plugin {sim_rl_plugin.__version__}, {packages},
Python {platform.python_version()}, {machine}, float32. It installs rsl-rl-lib in an environment of its
own, gives both sides the same weights, rollout and permutation, and fails if a number below is above its
tolerance, or if mathematics broken on purpose goes unnoticed.

Each number is the largest relative difference of its kind, from the slower and the faster route where there are
two: the documented methods one by one, and with `begin_rollout` first, as the runner does it.

| quantity | what it is | tolerance |
| --- | --- | --- |
| actions ... advantages, memory | the first rollout, as a share of the largest value; *rewards* have intrinsic \
rewards and the value of time-outs added | {_one(rollout):g} |
| gradient | of the first mini-batch, after clipping, as a share of the largest entry | {TOLERANCES["gradient"]:g} |
| losses | means of the first update; the surrogate, in which numbers cancel, as a share of the mean absolute \
advantage | {TOLERANCES["losses"]:g} |
| KL | of every mini-batch of three updates, as a share of the largest | {TOLERANCES["KL"]:g} |
| later rollouts | all of the above quantities of rollouts two and three | {TOLERANCES["later rollouts"]:g} |
| learning rate | after each update | {TOLERANCES["learning rate"]:g} |
| statistics | of all normalisations after three updates | {TOLERANCES["statistics"]:g} |
| parameters | distance after three updates, as a share of the distance that they moved | {TOLERANCES["parameters"]:g} |

Environments end by time-outs and terminations, one never, one twice in a rollout, one in the first step and one
in the last; memories carry over from rollout to rollout. **Bold** is beyond the general tolerance; the reason
is in the list of exceptions.
"""


def _one(values: set[float]) -> float:
    (value,) = values
    return value


def _table(title: str, rows: dict[str, Row], differences: dict[str, dict[str, float]]) -> str:
    present = [name for name in TOLERANCES if any(name in differences[row] for row in rows)]
    lines = [f"## {title}", "", f"| row | {' | '.join(present)} |", f"| --- |{' --- |' * len(present)}"]
    for name in rows:
        cells = [_cell(quantity, differences[name].get(quantity)) for quantity in present]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _checkpoints(differences: dict[str, dict[str, float]]) -> str:
    lines = [
        "## Runners and checkpoints",
        "",
        "*3 iterations of both runners*: `learn(3)` on the same environment. *Trained there*: two iterations by",
        "rsl_rl's runner, `save`, then `load` by both runners, which continue for three updates, optimizer included.",
        "*Trained here*: the same with our runner's checkpoint. Each number is the largest of its row's quantities",
        "that have the tolerance 1e-5 (*rollout*), and the distance of the parameters as above.",
        "",
        "| row | "
        + " | ".join(f"{label}: {what}" for label in _ORIGINS.values() for what in ("rollout", "parameters")),
    ]
    lines[-1] += " |"
    lines.append("| --- |" + " --- |" * (2 * len(_ORIGINS)))
    for name in CHECKPOINT_ROWS:
        cells = []
        for origin in _ORIGINS:
            found = differences[f"{origin}: {name}"]
            first = [value for quantity, value in found.items() if TOLERANCES[quantity] == 1e-5]
            cells.append(_cell("losses", max(first, default=None)))
            cells.append(_cell("parameters", found["parameters"]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _exceptions() -> str:
    rows = [row for row in (*ROWS.values(), *DISTILLATION_ROWS.values()) if row.reason]
    lines = ["## Exceptions", "", "Rows with another tolerance, or with something done to the reference:", ""]
    for row in rows:
        limits = ", ".join(f"{quantity} {tolerance:g}" for quantity, tolerance in row.tolerances.items())
        lines.append(f"- **{row.name}**{f' ({limits})' if limits else ''}: {row.reason}.")
    return "\n".join([*lines, "", _REFERENCE, ""])


_REFERENCE = """In all rows the reference is kept from raising its learning rate by a KL divergence below 1e-8, which is
rounding: it does so in the first mini-batch of an update, where the policy has not moved yet.

What rsl_rl does and we do not, on purpose; the first two have tests here, the others cannot be compared:

- A parameter that actor and critic share is twice in rsl_rl's optimizer, which steps it twice.
- When a recurrent mini-batch has one environment, `squeeze` in rsl_rl's loss takes that dimension away, too, and
  every step's ratio meets every step's advantage. Ours keeps them together.
- When a model's memory was emptied between rollouts, rsl_rl's storage keeps the memory of the rollout before as
  the start of the first step. Ours is empty then, too.
- rsl_rl fails on `obs_normalization` with image groups alone, on padding that would be negative, and on images in
  uint8. Ours has nothing to normalise, pads by zero, and scales uint8 to [0, 1].
- rsl_rl scales the first intrinsic reward of a single environment inside its running sum; ours does not touch the sum.
- Buffers of a new storage hold NaN instead of zero, so that a forgotten write shows.
"""


def _breakages(noticed: dict[str, set[str]]) -> str:
    lines = [
        "## Broken on purpose",
        "",
        "Each of these was done to our side, and the comparison went red, in every row that it concerns:",
        "",
        "| what was broken | rows |",
        "| --- | --- |",
    ]
    lines += [f"| {breakage} | {len(rows)} |" for breakage, rows in sorted(noticed.items())]
    return "\n".join([*lines, ""])


def _cell(quantity: str, difference: float | None) -> str:
    if difference is None:
        return ""
    text = "0" if difference == 0.0 else f"{difference:.0e}".replace("e-0", "e-")
    return f"**{text}**" if difference > TOLERANCES[quantity] else text
