"""Where a process stands in its training: what the watchdog of a distributed run reports of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Position:
    """The last place that this process has reached, in words.

    Attributes:
        where: What it is doing.
        is_waiting: Whether it waits for the other processes there.
        number: How many places it has reached; one that stands still has the same number for long.
        since_s: When it got there, by ``time.monotonic``.
    """

    def __init__(self) -> None:
        """Begin."""
        self.where = "starting"
        self.is_waiting = False
        self.number = 0
        self.since_s = time.monotonic()

    def at(self, where: str) -> None:
        """Be somewhere else."""
        self._move(where, False)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Wait for the other processes, within the context."""
        before = self.where
        self._move(f"{before}, {what}", True)
        try:
            yield
        finally:
            self._move(before, False)

    def _move(self, where: str, is_waiting: bool) -> None:
        self.where, self.is_waiting = where, is_waiting
        self.number += 1
        self.since_s = time.monotonic()


POSITION = Position()
"""That of this process."""
