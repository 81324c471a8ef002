"""The sweep's end of a process that trains."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from sim_rl_plugin.sweeps.trial import GO_ON, STOP, Order

LOG_FILE = "output.log"
"""In a trial's run folder: what its process printed."""

_LOOK_AFTER_S = 0.5


class Worker:
    """A process that trains one run.

    Attributes:
        connection: Becomes readable when there is something to ``receive``.
    """

    def __init__(self, order: Order) -> None:
        """Start the process.

        Args:
            order: What it trains.

        Raises:
            OSError: The folder cannot be written to.
        """
        self._is_told_to_stop = False
        order.folder.mkdir(parents=True, exist_ok=True)
        self.connection: Connection
        self.connection, theirs = Pipe()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from sim_rl_plugin.sweeps.trial import main; "
            f"main({theirs.fileno()})"
        )
        with theirs, (order.folder / LOG_FILE).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                # Ctrl-C is the sweep's, which then tells all.
                start_new_session=True,
            )
        self.connection.send(order)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def receive(self) -> tuple[Any, ...] | None:
        """Return the next message, waiting for it; None if the process has ended without one."""
        try:
            # Not for the socket alone: what the process has started may outlive it, and hold it open.
            while not self.connection.poll(_LOOK_AFTER_S):
                if not self.is_alive and not self.connection.poll():
                    return None
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def answer(self, is_to_go_on: bool) -> None:
        """Answer the report of an iteration."""
        if is_to_go_on:
            self._send(GO_ON)
        else:
            self.stop()

    def stop(self) -> None:
        """Have the training end after its iteration, with a checkpoint."""
        if not self._is_told_to_stop:
            self._is_told_to_stop = True
            self._send(STOP)

    def _send(self, answer: str) -> None:
        with contextlib.suppress(OSError):  # it has died, which is seen when it is listened to
            self.connection.send(answer)

    def wait(self) -> str:
        """Wait for the process's end, and return how it ended, in words."""
        status = self._process.wait()
        self.connection.close()
        if status >= 0:
            return f"its process ended with status {status}"
        return f"its process was ended by signal {-status} ({signal.strsignal(-status)})"

    def kill(self) -> None:
        """End the process at once, with whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.wait()


def shares_of_cores(jobs: int) -> list[tuple[int, ...]]:
    """Return the CPU cores of each of several processes, so that they do not wait for each other.

    Where a process cannot be bound to cores (macOS), all get an empty share, which binds nothing.
    """
    if not hasattr(os, "sched_getaffinity") or jobs == 1:
        return [()] * jobs
    cores = sorted(os.sched_getaffinity(0))
    return [tuple(cores[index::jobs]) or (cores[index % len(cores)],) for index in range(jobs)]
