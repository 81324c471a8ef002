"""Names the rank of a distributed training that hangs, and where every rank stands, and ends them all.

A rank that waits in a collective for one that will never come waits for half an hour, and then says that it has waited.
So a thread of every rank writes into the launcher's store where its training stands. Ranks 0 and 1 read all of them
(two, for one may be the one that hangs). When a rank has not moved for too long, they say so, and all ranks end
with a failure, after which a launcher starts them again from the last checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch

from sim_rl_plugin.position import POSITION
from sim_rl_plugin.ranks import Place

HANG_TIMEOUT = ("hang_timeout_s", 600.0)
"""The setting that tells how long a rank may stand still, and its default: simulators compile for minutes."""

EXIT_HUNG = 70
"""Exit status of the ranks of a training that hung, the ``EX_SOFTWARE`` of sysexits.h."""

_LONGEST_PERIOD_S = 5.0
_VERDICT = "verdict"


@dataclass(frozen=True)
class Report:
    """What a rank says of itself.

    Attributes:
        where: What it is doing.
        is_waiting: Whether it waits for the others.
        number: How many places it has reached.
        frame: The line of Python that it executes, if it has not moved for a while.
        is_done: Whether it has left the training.
    """

    where: str
    is_waiting: bool
    number: int
    frame: str = ""
    is_done: bool = False

    def __str__(self) -> str:
        """Return it in words."""
        return (
            self.where
            + (" (waits for the others)" if self.is_waiting else "")
            + (f" [{self.frame}]" * bool(self.frame))
        )


class Progress:
    """When each rank was last seen to move, by the clock of the one who looks."""

    def __init__(self, timeout_s: float) -> None:
        """Note how long a rank may stand still, in seconds."""
        self._timeout_s = timeout_s
        self._moved: dict[int, tuple[int, float]] = {}

    def verdict(self, reports: dict[int, Report], now_s: float) -> str | None:
        """Return which ranks hang and where all of them stand, or None.

        Args:
            reports: By rank.
            now_s: The time.
        """
        still: dict[int, float] = {}
        for rank, report in reports.items():
            number, since_s = self._moved.get(rank, (None, now_s))
            if number != report.number or report.is_done:
                since_s = now_s
            self._moved[rank] = (report.number, since_s)
            if now_s - since_s > self._timeout_s:
                still[rank] = now_s - since_s
        if not still:
            return None
        # Who waits has done its part. If all of them wait, for different things, the one that is behind is to blame.
        blamed = [rank for rank in still if not reports[rank].is_waiting]
        blamed = blamed or [min(still, key=lambda rank: reports[rank].number)]
        names = " and ".join(f"rank {rank}" for rank in blamed)
        lines = [f"{names} {'hangs' if len(blamed) == 1 else 'hang'}: no step for {max(still.values()):.0f} s"]
        return "\n".join([*lines, *(f"  rank {rank}: {report}" for rank, report in sorted(reports.items()))])


class Watchdog:
    """The thread of one rank."""

    def __init__(self, place: Place, store: Any, timeout_s: float) -> None:
        """Get ready.

        Args:
            place: The rank.
            store: A ``torch.distributed.Store`` that all ranks share.
            timeout_s: How long a rank may stand still.
        """
        self._place, self._store = place, store
        self._period_s = min(_LONGEST_PERIOD_S, timeout_s / 4)
        # The second one lets the first one speak.
        self._progress = Progress(timeout_s * (1.0 + 0.5 * place.rank)) if place.rank < 2 else None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sim-rl-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Tell the others that this rank is done, and stop."""
        self._end.set()
        self._thread.join(timeout=2 * self._period_s)

    def _run(self) -> None:
        try:
            while not self._end.wait(self._period_s):
                self._tell(Report(POSITION.where, POSITION.is_waiting, POSITION.number, self._frame()))
                verdict = self._read()
                if verdict is not None:
                    self._leave(verdict)
            self._tell(Report("done", False, POSITION.number, is_done=True))
        except (RuntimeError, ValueError):
            return  # the store is gone, and with it the launcher, whose end the others notice by themselves

    def _tell(self, report: Report) -> None:
        self._store.set(f"position/{self._place.rank}", json.dumps(asdict(report)))

    def _read(self) -> str | None:
        """Return what has been found out, by this rank or another."""
        if self._store.check([_VERDICT]):
            return ""
        if self._progress is None:
            return None
        ranks = range(self._place.world_size)
        known = [rank for rank in ranks if self._store.check([f"position/{rank}"])]
        reports = {rank: Report(**json.loads(self._store.get(f"position/{rank}"))) for rank in known}
        return self._progress.verdict(reports, time.monotonic())

    def _leave(self, verdict: str) -> None:
        """End this process; the rank that found out says why, and gives the others the time to follow."""
        if verdict:
            self._store.set(_VERDICT, verdict)
            print(f"error: {verdict}", file=sys.stderr, flush=True)
            time.sleep(2 * self._period_s)
        os._exit(EXIT_HUNG)

    def _frame(self) -> str:
        """Return the line that the main thread executes, if it has been there for some time."""
        if time.monotonic() - POSITION.since_s < self._period_s:
            return ""
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


_active = threading.Lock()


@contextmanager
def watched(place: Place, timeout_s: float | None) -> Iterator[None]:
    """Watch over the ranks within the context; a context within another changes nothing.

    Args:
        place: This rank's.
        timeout_s: How long a rank may stand still; None watches nothing.
    """
    store = None
    if place.is_distributed and timeout_s is not None and _active.acquire(blocking=False):
        store = _own_store()
        if store is None:
            _active.release()
    if store is None or timeout_s is None:
        yield
        return
    watchdog = Watchdog(place, store, timeout_s)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()
        _active.release()


def _own_store() -> Any:
    """Return a connection of our own to the launcher's store: a thread must not wait for what another one waits for."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if address is None or port is None:
        return None
    try:
        store = torch.distributed.TCPStore(
            address, int(port), is_master=False, wait_for_workers=False, timeout=timedelta(seconds=60)
        )
    except (RuntimeError, ValueError):
        return None
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return torch.distributed.PrefixStore(f"sim_rl/{start}", store)
