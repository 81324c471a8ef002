"""The process that trains one run of a trial, and tells the sweep's process how it goes.

Both talk over a socket. This one sends ``("iteration", number, value)`` after each iteration and waits for
``"go on"`` or ``"stop"``, and at the end ``("ended", completed, tags)``, ``("stopped",)`` or ``("failed", why)``.
No checkpoint is written with an iteration that the sweep's journal does not know: if the sweep's process dies, this
one sees the socket close and is gone at once.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sim_rl_plugin.hooks import hookimpl

GO_ON, STOP = "go on", "stop"

_LONGEST_WAIT_S = 300.0


@dataclass(frozen=True)
class Order:
    """What to train.

    Attributes:
        settings: The run's settings, complete.
        folder: Its run folder, which exists.
        metric: Tag of the metric that is reported.
        cores: CPU cores to stay on; empty for all.
    """

    settings: dict[str, Any]
    folder: Path
    metric: str
    cores: tuple[int, ...]


def main(descriptor: int) -> None:
    """Train what the sweep's process orders.

    Args:
        descriptor: The socket's file descriptor.
    """
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    order: Order = connection.recv()
    if order.cores:
        # Before torch and the simulator look how many there are.
        os.sched_setaffinity(0, order.cores)
    # Before the imports, which take seconds, so that this process never outlives the sweep's.
    reporter = Reporter(connection, order.metric)
    try:
        message = _train(order, reporter)
    except (KeyboardInterrupt, SystemExit):
        message = ("stopped",)
    except Exception as error:
        traceback.print_exc()
        message = ("failed", " ".join(str(error).split()) or type(error).__name__)
    with contextlib.suppress(OSError):  # nobody may be left to tell
        connection.send(message)


def _train(order: Order, reporter: Reporter) -> tuple[Any, ...]:
    """Train to the end, from the folder's last checkpoint if it has one, and return the last message."""
    from sim_rl_plugin.config import with_overrides
    from sim_rl_plugin.plugins import get_manager
    from sim_rl_plugin.run_folder import find_run, holds_checkpoints
    from sim_rl_plugin.runners.stop_signal import leaving_at_once
    from sim_rl_plugin.simulation import resolve_device
    from sim_rl_plugin.training import train_to_the_end

    with leaving_at_once(), ExitStack() as owned:
        _own(order.folder, owned)
        config = with_overrides(order.settings)
        saved = find_run(order.folder) if holds_checkpoints(order.folder) else None
        if saved is not None and saved.is_complete(config):
            return "ended", saved.completed_iterations, []
        registered = get_manager().register(reporter, __name__)
        assert registered
        outcome = train_to_the_end(config, resolve_device(config.device), lambda: order.folder, saved)
        return ("stopped",) if outcome.interrupted else ("ended", outcome.completed, sorted(reporter.tags))


def _own(folder: Path, owned: ExitStack) -> None:
    """Take the folder; the process of a sweep that was killed may still be about to end."""
    from sim_rl_plugin.folder_lock import FolderInUse
    from sim_rl_plugin.run_folder import owned_run

    deadline_s = time.monotonic() + _LONGEST_WAIT_S
    while True:
        try:
            owned.enter_context(owned_run(folder))
            return
        except FolderInUse:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)


class Reporter:
    """A plugin that reports every iteration, and stops the training when it is told to."""

    def __init__(self, connection: Connection, metric: str) -> None:
        """Start to listen.

        Args:
            connection: The socket.
            metric: Tag of the metric that is reported.
        """
        self.tags: set[str] = set()
        """Tags of all metrics so far."""
        self._connection = connection
        self._metric = metric
        self._answers: queue.Queue[None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    @hookimpl
    def sim_rl_iteration_end(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Report an iteration, before its checkpoint is written, and wait for the answer."""
        self.tags.update(metrics)
        value = metrics.get(self._metric)
        with contextlib.suppress(OSError):  # the sweep's process is dead, and there will be no answer
            self._connection.send(("iteration", iteration, None if value is None else float(value)))
        self._answers.get()

    def _listen(self) -> None:
        # A thread: an iteration that takes minutes need not end before this process does.
        answer = GO_ON
        while answer != STOP:
            try:
                answer = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)
            if answer == STOP:
                # As any signal to a training: the runner ends it after this iteration, with a checkpoint.
                os.kill(os.getpid(), signal.SIGTERM)
            self._answers.put(None)
