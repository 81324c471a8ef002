"""Signals that end a training after its iteration, with a checkpoint and a status that says so."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

EXIT_STATUS: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit status after each signal that a training stops for. All of them say: run me again, and I go on.

The first two are the shell's 128 + signal, which batch systems know. SIGUSR1, which clusters send by
arrangement some minutes before they end a job, has 75, the ``EX_TEMPFAIL`` of sysexits.h ("try again"): 128 +
SIGUSR1 differs from system to system, and is what a process returns that the signal has killed.
"""
if hasattr(signal, "SIGUSR1"):  # not on Windows
    EXIT_STATUS[signal.SIGUSR1] = 75


class StopSignal:
    """While active, the first signal of ``EXIT_STATUS`` is noted in ``number``, and a second one ends at once.

    One that follows within ``patience_s`` seconds is the same: a launcher passes on what a cluster has sent to its
    processes, too.

    Outside the main thread Python delivers no signals; there nothing changes.
    """

    def __init__(self, patience_s: float = 0.0) -> None:
        self._patience_s = patience_s
        self._since_s = 0.0
        self.number: int | None = None
        """The signal that asks the training to stop; None so far."""
        self._restore: Callable[[], None] = lambda: None

    @property
    def requested(self) -> bool:
        """Whether the training shall stop after the current iteration."""
        return self.number is not None

    def __enter__(self) -> StopSignal:
        self._restore = _install(self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.number, self._since_s = number, time.monotonic()
        elif time.monotonic() - self._since_s >= self._patience_s:
            leave(number)


def leave(number: int) -> NoReturn:
    """Leave as a signal demands.

    Raises:
        KeyboardInterrupt: The signal is Ctrl-C's.
        SystemExit: It is another one, with its status.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(EXIT_STATUS[number])


def leave_as_asked(stop: StopSignal) -> NoReturn:
    """Leave as the noted signal demands; where another process has got it, as SIGTERM, which launchers send.

    Raises:
        KeyboardInterrupt: The signal is Ctrl-C's.
        SystemExit: It is another one, with its status.
    """
    leave(stop.number or signal.SIGTERM)


def status_of(error: KeyboardInterrupt | SystemExit) -> int | None:
    """Return the exit status of what ``leave`` raised; None for somebody else's ``SystemExit``."""
    if isinstance(error, KeyboardInterrupt):
        return EXIT_STATUS[signal.SIGINT]
    return error.code if isinstance(error.code, int) and error.code in EXIT_STATUS.values() else None


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Make every signal of ``EXIT_STATUS`` leave at once, with its status and with whatever ``finally`` does.

    For the time before and after the iterations, when there is nothing to save.
    """
    restore = _install(lambda number, frame: leave(number))
    try:
        yield
    finally:
        restore()


def _install(handler: Callable[[int, FrameType | None], None]) -> Callable[[], None]:
    """Handle the signals of ``EXIT_STATUS``, and return what puts the previous handlers back."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    previous: dict[int, Any] = {}
    for number in EXIT_STATUS:
        # A shell lets its background jobs ignore Ctrl-C, which is then meant for another program.
        if number != signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, handler)

    def restore() -> None:
        for number, old in previous.items():
            if old is None:  # not set from Python (a simulator's own), so it cannot be set again from here
                old = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, old)

    return restore
