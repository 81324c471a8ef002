"""Run folders: where a training keeps its settings, checkpoints and logs, and how to come back to it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim_rl_plugin.checkpoint import find_checkpoint, read_checkpoint
from sim_rl_plugin.config import RunConfig, dump_config
from sim_rl_plugin.config.yaml_text import read_mapping
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import Policy
from sim_rl_plugin.registry import resolve_callable
from sim_rl_plugin.whole_file import write_text_whole

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.csv"


@dataclass(frozen=True)
class SavedRun:
    """A run that was found on disk.

    Attributes:
        folder: Its folder.
        checkpoint: The checkpoint file to continue from.
        settings: The settings that it was trained with.
        completed_iterations: Iterations that it has done in all.
        training_time_s: Time that these iterations took, 0 if nobody measured it.
    """

    folder: Path
    checkpoint: Path
    settings: dict[str, Any]
    completed_iterations: int
    training_time_s: float


def find_run(run_or_file: Path) -> SavedRun:
    """Return the run of a folder (its last checkpoint) or of a checkpoint file.

    Raises:
        UserError: There is no checkpoint, it is damaged, or its settings are nowhere to be found.
    """
    checkpoint = find_checkpoint(run_or_file)
    contents = read_checkpoint(checkpoint)
    ours = contents.get("sim_rl", {})
    settings = ours.get("config")
    if settings is None:
        beside = checkpoint.parent / CONFIG_FILE
        if not beside.is_file():
            raise UserError(f"{checkpoint} holds no settings, and there is no {CONFIG_FILE} beside it")
        settings = read_mapping(beside)
    return SavedRun(
        checkpoint.parent,
        checkpoint,
        settings,
        completed_iterations=ours.get("completed_iterations", contents.get("iter", -1) + 1),
        training_time_s=ours.get("logger", {}).get("total_time_s", 0.0),
    )


def new_run_folder(root: Path, config: RunConfig) -> Path:
    """Create ``<root>/<experiment or task>/<time stamp>[_<run name>]`` and return it.

    Runs that start in the same second get folders of their own.
    """
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    if config.run_name:
        name += f"_{_as_file_name(config.run_name)}"
    parent = root / _as_file_name(config.experiment_name or config.task)
    for attempt in range(1, 1000):
        folder = parent / (name if attempt == 1 else f"{name}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot create the run folder {folder}: {error.strerror}") from error
        return folder
    raise UserError(f"cannot create a run folder: {parent / name} and 999 others exist")


def given_run_folder(folder: Path) -> Path:
    """Create the folder that the user chose for a new run and return it.

    Raises:
        UserError: It cannot be created, or holds a run, which must not be overwritten.
    """
    if any(folder.glob("model_*.pt")):
        raise UserError(f"{folder} holds a run already: continue it with --resume {folder}, or choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the run folder {folder}: {error.strerror}") from error
    return folder


def write_config(folder: Path, config: RunConfig) -> None:
    """Write the resolved settings into a run folder."""
    write_text_whole(folder / CONFIG_FILE, dump_config(config))


def build_runner(config: RunConfig, env: VecEnv, device: str, folder: Path | None = None) -> Any:
    """Return the config's runner for an environment; without a folder it writes nothing."""
    runner_class = resolve_callable(config.class_name)
    return runner_class(env, config.to_dict(), log_dir=None if folder is None else str(folder), device=device)


def load_policy(run: SavedRun, config: RunConfig, env: VecEnv, device: str) -> Policy:
    """Return the deterministic policy of a run's checkpoint.

    Raises:
        UserError: The policy belongs to another robot than ``env``.
    """
    runner = build_runner(config, env, device)
    runner.load(str(run.checkpoint), map_location=device)
    return runner.get_inference_policy(device=device)


def _as_file_name(name: str) -> str:
    """Return a name without the characters that mean something in a path (``ALE/Pong-v5``, ``a.py:Class``)."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "run"
