"""What the starts of one launch leave word of for each other: the run folder, so that a restart goes on in it."""

from __future__ import annotations

import os
from pathlib import Path

LAUNCH_FOLDER = "SIM_RL_LAUNCH_FOLDER"
"""Environment variable with the folder for it; a launcher sets it that starts processes again."""

_RUN_FOLDER = "run_folder"


def earlier_start() -> Path | None:
    """Return the run folder of an earlier start of this launch; None on the first, and without such a launcher."""
    folder = os.environ.get(LAUNCH_FOLDER)
    note = None if folder is None else Path(folder) / _RUN_FOLDER
    return Path(note.read_text(encoding="utf-8")) if note is not None and note.is_file() else None


def note_start(run_folder: Path) -> Path:
    """Leave word of the run folder for later starts, and return it."""
    folder = os.environ.get(LAUNCH_FOLDER)
    if folder is not None:
        (Path(folder) / _RUN_FOLDER).write_text(str(run_folder.resolve()), encoding="utf-8")
    return run_folder
