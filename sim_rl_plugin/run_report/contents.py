"""What a run folder tells about its training."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim_rl_plugin.checkpoint import BEST_FILE, numbered_checkpoints
from sim_rl_plugin.checkpoint_manifest import read_manifest
from sim_rl_plugin.config.yaml_text import read_mapping
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import EvaluationResult
from sim_rl_plugin.run_folder import CONFIG_FILE, METRICS_FILE

TIMES = {
    "Perf/collection_time": "rollout",
    "Perf/learning_time": "update",
    "Perf/evaluation_time": "evaluation",
}
"""Metrics in seconds per iteration, and what the time went into."""

VIDEOS = {".mp4": "video/mp4", ".gif": "image/gif"}

_MAX_VIDEO_BYTES = 30_000_000
_MAX_DIFF_CHARACTERS = 200_000


@dataclass(frozen=True)
class GitState:
    """The code that a run was trained with.

    Attributes:
        repository: Its name.
        commit: The commit.
        is_clean: Whether nothing was changed since.
        text: Commit, status and changes, cut off where they are very long.
    """

    repository: str
    commit: str
    is_clean: bool
    text: str


@dataclass(frozen=True)
class RunContents:
    """A run folder, read.

    Attributes:
        folder: The folder.
        label: What the run is called; runs that differ in their seed share it.
        settings: The settings.
        manifest: Of its last checkpoint; empty for one that has none.
        metrics: Tag to ``(iteration, value)`` pairs, in order.
        best: The best evaluation while training; None if there was none.
        git: The code's state.
        video: A video of the policy; None if there is none that a page can hold.
        problems: What could not be read, a sentence each.
        evaluation: Episodes that were played for the report; None for none.
    """

    folder: Path
    label: str
    settings: dict[str, Any]
    manifest: dict[str, Any]
    metrics: dict[str, list[tuple[int, float]]]
    best: dict[str, Any] | None
    git: tuple[GitState, ...]
    video: Path | None
    problems: tuple[str, ...] = ()
    evaluation: EvaluationResult | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """What the training's time went into."""

    @property
    def seed(self) -> Any:
        """The seed."""
        return self.settings.get("seed")

    def last(self, tag: str) -> float | None:
        """Return the last value of a metric, or None."""
        values = self.metrics.get(tag)
        return values[-1][1] if values else None


def read_run(folder: Path, label: str) -> RunContents:
    """Read a run folder; what is missing or damaged in it is told, and the rest is read.

    Raises:
        UserError: It holds neither settings nor metrics nor a checkpoint.
    """
    problems: list[str] = []
    checkpoints = list(numbered_checkpoints(folder).values())
    manifest = _attempt(problems, lambda: read_manifest(checkpoints[-1])) if checkpoints else None
    has_config = (folder / CONFIG_FILE).is_file()
    settings = _attempt(problems, lambda: read_mapping(folder / CONFIG_FILE)) if has_config else None
    metrics = _metrics_of(folder / METRICS_FILE)
    if not metrics:
        problems.append(f"{folder} has no {METRICS_FILE}: there are no curves without 'csv' among the log writers")
    if manifest is None and settings is None and not metrics:
        raise UserError(f"{folder} is no run folder: it holds no {CONFIG_FILE}, no checkpoint and no {METRICS_FILE}")
    manifest = manifest or {}
    has_best = (folder / BEST_FILE).is_file()
    best = _attempt(problems, lambda: read_manifest(folder / BEST_FILE)) if has_best else None
    return RunContents(
        folder,
        label,
        settings or manifest.get("config") or {},
        manifest,
        metrics,
        (best or {}).get("evaluation"),
        tuple(map(_git_state, sorted((folder / "git").glob("*.diff")))),
        _video_in(folder, problems),
        tuple(problems),
        seconds={name: sum(value for _, value in metrics[tag]) for tag, name in TIMES.items() if tag in metrics},
    )


def differences(runs: Sequence[RunContents]) -> dict[str, list[Any]]:
    """Return the settings in which runs differ: key path to one value per run, None where a run does not have it."""
    flat = [dict(_flattened(run.settings)) for run in runs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    rows = {key: [settings.get(key) for settings in flat] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _flattened(settings: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in settings.items():
        here = f"{path}.{key}" if path else str(key)
        found += _flattened(value, here) if isinstance(value, Mapping) and value else [(here, value)]
    return found


def _metrics_of(table: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the numbers of a table; a last row that was cut off, and cells without a number, are left out."""
    if not table.is_file():
        return {}
    metrics: dict[str, list[tuple[int, float]]] = {}
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                iteration = int(row.pop("iteration"))
            except (KeyError, TypeError, ValueError):
                continue
            for tag, text in row.items():
                try:
                    metrics.setdefault(tag, []).append((iteration, float(text)))
                except (TypeError, ValueError):
                    continue
    return metrics


def _git_state(file: Path) -> GitState:
    text = file.read_text(encoding="utf-8", errors="replace")
    commit, _, rest = text.partition("\n")
    if len(text) > _MAX_DIFF_CHARACTERS:
        text = f"{text[:_MAX_DIFF_CHARACTERS]}\n... cut off, the rest is in {file}"
    return GitState(file.stem, commit.strip(), "nothing to commit" in rest and "\ndiff " not in rest, text)


def _video_in(folder: Path, problems: list[str]) -> Path | None:
    for path in sorted(folder.glob("video*")) + sorted(folder.glob("play*")):
        if path.suffix.lower() in VIDEOS:
            if path.stat().st_size <= _MAX_VIDEO_BYTES:
                return path
            problems.append(f"{path} is too large for a page: {path.stat().st_size / 1e6:.0f} MB")
    return None


def _attempt(problems: list[str], read: Any) -> Any:
    """Return what ``read`` returns; None where that is a mistake in a file, which is noted."""
    try:
        return read()
    except UserError as error:
        problems.append(str(error))
        return None
