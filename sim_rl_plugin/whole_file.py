"""Files that are written whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_UNFINISHED = ".unfinished."


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside ``path`` that takes its place on exit, and is dropped on an exception.

    Yields:
        The file, open for reading and writing bytes.

    Raises:
        OSError: The folder is missing or cannot be written to, or the disk is full.
    """
    descriptor, name = tempfile.mkstemp(prefix=f"{_UNFINISHED}{path.name}.", dir=path.parent)
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # A temporary file is its owner's alone; the real one is as open as any other file of theirs.
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
        _sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all.

    Raises:
        OSError: As for ``whole_file``.
    """
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def remove_unfinished(folder: Path) -> None:
    """Remove what processes have left in a folder that were killed while they wrote a file, and write no longer."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        path.unlink(missing_ok=True)


def _umask() -> int:
    """Return the process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut; not every platform can open folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
