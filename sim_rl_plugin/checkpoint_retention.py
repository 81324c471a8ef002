"""Which checkpoints of a run folder stay when newer ones have been written."""

from __future__ import annotations

import warnings
from pathlib import Path

from sim_rl_plugin.checkpoint import numbered_checkpoints
from sim_rl_plugin.config.schema import KeepCheckpoints


def remove_outdated(folder: Path, keep: KeepCheckpoints, resumed_from: Path | None) -> None:
    """Remove the numbered checkpoints of a run folder that the settings do not keep.

    To be called once the newest one is complete on disk: it and the best one always stay.

    Args:
        folder: The run folder.
        keep: The settings.
        resumed_from: What the training was resumed from, which stays.
    """
    if keep.last is None:
        return
    numbered = numbered_checkpoints(folder)
    origin = None if resumed_from is None else resumed_from.resolve()
    for iteration, path in list(numbered.items())[: -keep.last]:
        if path.resolve() == origin or (keep.every is not None and iteration % keep.every == 0):
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"cannot remove the checkpoint {path}: {error.strerror or error}", stacklevel=2)
            return
