"""Run folders: where a training keeps its settings, checkpoints and logs, and how to come back to it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim_rl_plugin.checkpoint import find_checkpoint, read_checkpoint
from sim_rl_plugin.config import RunConfig, dump_config
from sim_rl_plugin.config.yaml_text import read_mapping
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import Policy
from sim_rl_plugin.folder_lock import FolderInUse, owned_folder
from sim_rl_plugin.layout import check_layout
from sim_rl_plugin.registry import resolve_callable
from sim_rl_plugin.whole_file import write_text_whole

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.csv"

_RUN_NAME = re.compile(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)(.*)")
_MAX_ATTEMPTS = 100_000


@dataclass(frozen=True)
class SavedRun:
    """A run that was found on disk.

    Attributes:
        folder: Its folder.
        checkpoint: The checkpoint file to continue from.
        settings: The settings that it was trained with.
        completed_iterations: Iterations that it has done in all.
        training_time_s: Time that these iterations took, 0 if nobody measured it.
        layout: What its policy expects of an environment; None if it does not say.
        reached_return: Mean return of the evaluation that ended the training early; None if none did.
        waited: Evaluations in a row without improvement when the checkpoint was written.
        is_trusted: Whether the checkpoint may hold code, which is run when it is loaded.
    """

    folder: Path
    checkpoint: Path
    settings: dict[str, Any]
    completed_iterations: int
    training_time_s: float
    layout: dict[str, Any] | None = None
    reached_return: float | None = None
    waited: int = 0
    is_trusted: bool = False

    def is_complete(self, config: RunConfig) -> bool:
        """Return whether it has all the iterations, or the return, that settings ask for, or is on a plateau."""
        target = config.evaluation.get("stop_at_return")
        reached = target is not None and self.reached_return is not None and self.reached_return >= target
        return reached or self.is_on_plateau(config) or self.completed_iterations >= config.max_iterations

    def is_on_plateau(self, config: RunConfig) -> bool:
        """Return whether it has waited for an improvement as often as settings ask for."""
        patience = config.evaluation.get("patience")
        return patience is not None and self.waited >= patience

    @property
    def load_options(self) -> dict[str, Any]:
        """What a runner's ``load`` and ``resume`` are told beyond the path; runners of others need not know trust."""
        return {"trust": True} if self.is_trusted else {}


def find_run(run_or_file: Path, *, best: bool = False, trust: bool = False) -> SavedRun:
    """Return the run of a folder (its last checkpoint) or of a checkpoint file.

    Args:
        run_or_file: Run folder or checkpoint.
        best: Take the folder's best checkpoint by evaluation.
        trust: Load a checkpoint that holds code, too, and run it.

    Raises:
        UserError: There is no checkpoint, it is damaged, or its settings are nowhere to be found.
    """
    checkpoint = find_checkpoint(run_or_file, best=best, trust=trust)
    contents = read_checkpoint(checkpoint, trust=trust)
    ours = contents.get("sim_rl") or {}
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
        layout=ours.get("layout"),
        reached_return=ours.get("reached_return"),
        waited=(ours.get("evaluations") or {}).get("waited", 0),
        is_trusted=trust,
    )


def new_run_folder(root: Path, config: RunConfig) -> Path:
    """Create ``<root>/<experiment or task>/<time stamp>[_<run name>]`` and return it.

    Runs that start in the same second get folders of their own. A later run never has the name of an
    earlier time, even if the clock was put back: names tell the order.
    """
    parent = _experiment_folder(root, config)
    stamps = [match[1] for path in _subfolders(parent) if (match := _RUN_NAME.fullmatch(path.name))]
    name = max([time.strftime("%Y-%m-%d_%H-%M-%S"), *stamps])
    if config.run_name:
        name += f"_{_as_file_name(config.run_name)}"
    for attempt in range(1, _MAX_ATTEMPTS):
        folder = parent / (name if attempt == 1 else f"{name}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot create the run folder {folder}: {error.strerror}") from error
        return folder
    raise UserError(f"cannot create a run folder: {parent / name} and {_MAX_ATTEMPTS - 2} others exist")


def runs_like(root: Path, config: RunConfig) -> list[Path]:
    """Return the folders of runs of a config's simulator, task, experiment and run name, the latest first."""
    found = []
    run_name = f"_{_as_file_name(config.run_name)}" if config.run_name else ""
    for path in _subfolders(_experiment_folder(root, config)):
        match = _RUN_NAME.fullmatch(path.name)
        number = re.fullmatch(rf"{re.escape(run_name)}(?:_(\d+))?", match[2]) if match else None
        if match and number and _is_like(path, config):
            found.append((match[1], int(number[1] or 1), path))
    return [path for *_, path in sorted(found, reverse=True)]


def take_latest_run(
    root: Path, config: RunConfig, is_complete: Callable[[SavedRun], bool], owned: ExitStack, say: Callable[[str], None]
) -> SavedRun | None:
    """Return the latest run like a config that can go on, and own its folder.

    One that another process is training, or that has no checkpoint that can be read, is passed over
    with a line. A complete one is returned if no later one was passed over because it is being trained; the
    search ends with it in any case, since what was left before it was left for good.

    Args:
        root: Folder of the experiments' folders.
        config: Simulator, task, experiment and run name are compared.
        is_complete: Tells whether a run has nothing left to do.
        owned: Gets what releases the folder.
        say: Gets the lines.

    Returns:
        The run; None if there is none to continue.
    """
    is_latest = True
    for folder in runs_like(root, config):
        with ExitStack() as attempt:
            try:
                attempt.enter_context(owned_run(folder))
                saved = find_run(folder)
            except FolderInUse as error:
                is_latest = False
                say(f"passed over: {error}")
                continue
            except UserError as error:
                say(f"passed over: {error}")
                continue
            if is_complete(saved) and not is_latest:
                return None
            owned.push(attempt.pop_all())
            return saved
    return None


def owned_run(folder: Path) -> AbstractContextManager[None]:
    """Keep other processes from training in a run folder, see ``owned_folder``."""
    return owned_folder(folder, "training in")


def set_aside_logs(folder: Path) -> None:
    """Rename the metrics that a training left that was cut off before its first checkpoint.

    Those of the training that starts over would be mixed with them.
    """
    number = 1
    while any(folder.glob(f"*.superseded{number}")):
        number += 1
    for path in [*folder.glob(METRICS_FILE), *folder.glob("events.out.tfevents.*")]:
        # TensorBoard reads whatever has its word in the name.
        path.rename(path.with_name(f"{path.name.replace('tfevents', 'events')}.superseded{number}"))


def holds_checkpoints(folder: Path) -> bool:
    """Return whether a folder holds checkpoints, readable or not."""
    return any(folder.glob("model_*.pt"))


def given_run_folder(folder: Path) -> Path:
    """Create the folder that the user chose for a new run and return it.

    Raises:
        UserError: It cannot be created, or holds a run, which must not be overwritten.
    """
    if holds_checkpoints(folder):
        raise UserError(f"{folder} holds a run already: continue it with --resume {folder}, or choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the run folder {folder}: {error.strerror}") from error
    return folder


def write_config(folder: Path, config: RunConfig) -> None:
    """Write the resolved settings into a run folder.

    Raises:
        UserError: It cannot be written to.
    """
    try:
        write_text_whole(folder / CONFIG_FILE, dump_config(config))
    except OSError as error:
        raise UserError(f"cannot write to the run folder {folder}: {error.strerror or error}") from error


def build_runner(
    config: RunConfig, env: VecEnv, device: str, folder: Path | None = None, saved: SavedRun | None = None
) -> Any:
    """Return the config's runner for an environment.

    Args:
        config: The settings.
        env: The environment.
        device: Where to learn, resolved.
        folder: The run folder; None writes nothing.
        saved: The run whose checkpoint the runner is about to load, if any.

    Raises:
        UserError: The settings do not fit the environment; the message names what differs from the environment
            that ``saved`` was trained in, if anything does.
    """
    runner_class = resolve_callable(config.class_name)
    try:
        return runner_class(env, config.to_dict(), log_dir=None if folder is None else str(folder), device=device)
    except UserError:
        # What a model lacks says less than what is different.
        check_layout(None if saved is None else saved.layout, env)
        raise


def load_policy(run: SavedRun, config: RunConfig, env: VecEnv, device: str) -> Policy:
    """Return the deterministic policy of a run's checkpoint.

    Nothing but the checkpoint is read: what the training started from may be gone.

    Raises:
        UserError: The policy belongs to another robot than ``env``.
    """
    changes: dict[str, Any] = {"init_from": None}
    if config.student is not None:
        # A teacher is not asked, and that of an exported file may be gone with it.
        groups = {name: groups for name, groups in config.obs_groups.items() if name != "teacher"}
        groups |= {"teacher": groups["student"]} if "student" in groups else {}
        changes |= {"teacher": config.student, "obs_groups": groups}
    runner = build_runner(config.model_copy(update=changes), env, device, saved=run)
    runner.load(str(run.checkpoint), {"actor": True, "student": True}, map_location=device, **run.load_options)
    return runner.get_inference_policy(device=device)


def _experiment_folder(root: Path, config: RunConfig) -> Path:
    return root / _as_file_name(config.experiment_name or config.task)


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _is_like(folder: Path, config: RunConfig) -> bool:
    """Return whether a run's settings name the simulator, the task and the run that a config names."""
    try:
        settings = read_mapping(folder / CONFIG_FILE)
    except (UserError, OSError):
        return False
    wanted = {"simulator": config.simulator, "task": config.task, "run_name": config.run_name or ""}
    return {key: settings.get(key) or "" for key in wanted} == wanted


def _as_file_name(name: str) -> str:
    """Return a name without the characters that mean something in a path (``ALE/Pong-v5``, ``a.py:Class``)."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "run"
