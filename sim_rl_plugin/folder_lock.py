"""Folders that one process at a time may write into."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sim_rl_plugin.errors import UserError

LOCK_FILE = ".lock"

_held: set[Path] = set()


class FolderInUse(UserError):
    """Another process is writing into a folder."""


@contextmanager
def owned_folder(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes out of a folder; the system forgets the lock when this one dies, however it dies.

    Within the process that owns the folder this can be entered again. Where files cannot be locked
    (Windows, some network file systems), nothing is kept out.

    Args:
        folder: The folder, which exists.
        what: What its owner does, for messages, such as ``training in``.

    Raises:
        FolderInUse: Another process owns it.
        UserError: It cannot be written to.
    """
    place = folder.resolve()
    if place in _held:
        yield
        return
    try:
        file = (folder / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {error.strerror}") from error
    with file:
        _lock(file, folder, what)
        _held.add(place)
        try:
            yield
        finally:
            _held.discard(place)


def _lock(file: IO[str], folder: Path, what: str) -> None:
    try:
        import fcntl
    except ImportError:
        return
    try:
        # Of the process and not of the open file: a simulator's worker processes, forked off this one, may outlive
        # it, and must not hold on to the lock. It is lost if this process closes the file through another handle.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        owner = file.read(200).strip() or "another process"
        raise FolderInUse(f"{owner} is {what} {folder}: wait for its end, or stop it") from None
    except OSError:  # no locks on this file system
        return
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
