"""What lies in a stage's run folder: how far it is, and whether it is still the training that is asked for."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sim_rl_plugin.checkpoint import load_checkpoint
from sim_rl_plugin.config import with_overrides
from sim_rl_plugin.config.signature import shorten
from sim_rl_plugin.config.yaml_text import read_mapping
from sim_rl_plugin.pipelines.plan import PlannedStage
from sim_rl_plugin.run_folder import CONFIG_FILE, SavedRun, find_run
from sim_rl_plugin.whole_file import write_text_whole

INPUTS_FILE = "inputs.json"
"""Which checkpoints a stage started from: name of the input to a digest of its models."""

# They change what is shown and kept of a training, not the training.
_WITHOUT_EFFECT = ("console", "experiment_name", "keep_checkpoints", "logger", "run_name", "save_interval")

_ABSENT = object()


@dataclass(frozen=True)
class StageStatus:
    """A stage and what is there of it.

    Attributes:
        planned: The stage as it shall be.
        folder: Its run folder, which may not exist.
        saved: Its last checkpoint that can be read; None before the first one.
    """

    planned: PlannedStage
    folder: Path
    saved: SavedRun | None

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.planned.name

    @property
    def is_complete(self) -> bool:
        """Whether its last checkpoint has reached ``max_iterations``, or the return at which it stops."""
        return self.saved is not None and self.saved.is_complete(self.planned.config)

    def describe(self) -> str:
        """Return how far it is."""
        if self.saved is None:
            return "not started"
        if self.is_complete:
            return f"complete, {self.saved.completed_iterations} iterations"
        return f"{self.saved.completed_iterations} of {self.planned.config.max_iterations} iterations"


def stage_status(planned: PlannedStage, root: Path) -> StageStatus:
    """Return how far a stage is in the pipeline folder ``root``.

    Raises:
        UserError: There are checkpoints, and none of them can be read.
    """
    folder = root / planned.name
    return StageStatus(planned, folder, find_run(folder) if any(folder.glob("model_*.pt")) else None)


def changed_setting(status: StageStatus) -> str | None:
    """Return what differs between the settings that a stage was trained with and those that it shall have.

    Returns:
        ``"algorithm.gamma: 0.9 then, 0.99 now"``, or None if nothing differs that changes the training.
    """
    if status.saved is None:
        return None
    written = status.folder / CONFIG_FILE
    settings = read_mapping(written) if written.is_file() else status.saved.settings
    # Declared inputs are compared by what they hold, not by where they lie.
    ignored = (*_WITHOUT_EFFECT, "init_from") if status.planned.stage.inputs else _WITHOUT_EFFECT
    then, now = (
        {key: value for key, value in config.to_dict().items() if key not in ignored}
        for config in (with_overrides(settings), status.planned.config)
    )
    return _first_difference(then, now)


def _first_difference(then: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> str | None:
    for key in dict.fromkeys([*then, *now]):
        old, new = then.get(key, _ABSENT), now.get(key, _ABSENT)
        if isinstance(old, dict) and isinstance(new, dict):
            deeper = _first_difference(old, new, f"{path}{key}.")
            if deeper:
                return deeper
        elif old != new:
            texts = ["unset" if value is _ABSENT else shorten(value) for value in (old, new)]
            return f"{path}{key}: {texts[0]} then, {texts[1]} now"
    return None


def start_folder(folder: Path, inputs: Mapping[str, str]) -> Path:
    """Make the run folder of a stage that starts afresh, and note its inputs' fingerprints in it.

    What a training left that was cut off before its first checkpoint is removed.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_text_whole(folder / INPUTS_FILE, json.dumps(dict(inputs), indent=2) + "\n")
    return folder


def noted_inputs(folder: Path) -> dict[str, str]:
    """Return the fingerprints of the inputs that a stage started from."""
    file = folder / INPUTS_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def fingerprint(checkpoint: Path) -> str:
    """Return a digest of a checkpoint's models, the same for the same parameters wherever they come from."""
    contents = load_checkpoint(checkpoint)
    digest = hashlib.sha256()
    for key in sorted(contents):
        if key.endswith("state_dict") and "optimizer" not in key and isinstance(contents[key], dict):
            for name, value in contents[key].items():
                digest.update(f"{key}.{name}".encode())
                digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Any) -> bytes:
    if not torch.is_tensor(value):
        return repr(value).encode()
    # NumPy does not know every dtype of torch, but bytes it does.
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{value.dtype}{tuple(value.shape)}".encode() + flat.numpy().tobytes()
