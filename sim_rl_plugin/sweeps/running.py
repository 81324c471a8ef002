"""Runs the trials of a sweep, several at once, and takes up where an earlier run was cut off."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING

from sim_rl_plugin.config.yaml_text import dump, read_mapping
from sim_rl_plugin.errors import UserError, nearest
from sim_rl_plugin.folder_lock import LOCK_FILE, owned_folder
from sim_rl_plugin.runners.stop_signal import StopSignal, leave
from sim_rl_plugin.sweeps.definition import Sweep
from sim_rl_plugin.sweeps.report import best_of, describe, write_results
from sim_rl_plugin.sweeps.study import Study, TrialRecord, check_engine, read_journal, seeds_reported
from sim_rl_plugin.sweeps.trial import Order
from sim_rl_plugin.sweeps.worker import Worker, shares_of_cores
from sim_rl_plugin.whole_file import remove_unfinished, write_text_whole

if TYPE_CHECKING:
    from optuna.trial import Trial

RECORD_FILE = "sweep.yaml"
"""In a sweep's folder: the sweep as it was last run."""

JOURNAL_FILE = "study.journal"

# What may differ when a sweep goes on: none of it changes what a trial's value means.
_MAY_CHANGE = ("budget", "sampler", "pruner", "max_failures")

_LOOK_AFTER_S = 1.0


def run_sweep(
    sweep: Sweep, root: Path, *, jobs: int = 1, devices: Sequence[str] = (), say: Callable[[str], None] = print
) -> list[TrialRecord]:
    """Train trials until the budget is spent.

    Args:
        sweep: The sweep.
        root: Its folder. Trials that an earlier process began there go on from their checkpoints.
        jobs: Trials at once, each in a process of its own on its share of the cores.
        devices: Devices that the processes take in turn; empty for what the settings say.
        say: Gets lines on what is going on.

    Returns:
        All trials, in order.

    Raises:
        UserError: The folder holds something else, sampler or pruner do not fit, or ``max_failures`` trials
            failed one after the other.
        KeyboardInterrupt: After the trainings have written their checkpoints.
        SystemExit: The same, with the status of a signal.
    """
    check_engine(sweep)
    with _owned_folder(root):
        _check_record(sweep, root)
        study = Study(sweep, root / JOURNAL_FILE)
        write_text_whole(root / RECORD_FILE, dump(sweep.to_dict()))
        # Noted, not raised: it must not come between the journal and what is done about it.
        with StopSignal() as stop:
            search = _Search(sweep, root, study, jobs, devices, say)
            try:
                search.run(stop)
            finally:
                search.end()
                write_results(sweep, study.records(), root)
        if stop.number is not None:
            leave(stop.number)
        return study.records()


def read_trials(sweep: Sweep, root: Path) -> list[TrialRecord]:
    """Return the trials of a sweep that has been run, in order.

    Raises:
        UserError: The folder holds no sweep, or another one.
    """
    if not (root / JOURNAL_FILE).is_file():
        raise UserError(f"{root} holds no sweep: run it first")
    _check_record(sweep, root)
    return read_journal(sweep, root / JOURNAL_FILE)


@contextmanager
def _owned_folder(root: Path) -> Iterator[None]:
    """Create a sweep's folder, and keep a second process out of it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the sweep's folder {root}: {error.strerror}") from error
    with owned_folder(root, "running the sweep in"):
        remove_unfinished(root)
        yield


def _check_record(sweep: Sweep, root: Path) -> None:
    """Refuse a folder of something else, and settings with which trials could not be compared."""
    record = root / RECORD_FILE
    if not record.is_file():
        if any(path.name != LOCK_FILE and not path.name.startswith(JOURNAL_FILE) for path in root.iterdir()):
            raise UserError(f"{root} holds something other than a sweep: choose another folder with --run-dir")
        return
    earlier, now = read_mapping(record), sweep.to_dict()
    earlier.setdefault("budget", {})
    changed = [key for key in now if key not in _MAY_CHANGE and earlier.get(key) != now[key]]
    if earlier["budget"].get("iterations") != sweep.budget.iterations:
        changed.append("budget.iterations")
    if changed:
        raise UserError(
            f"{root} holds a sweep with other {' and '.join(changed)}, whose trials cannot be compared with new "
            "ones: choose another folder with --run-dir"
        )


@dataclass
class _Run:
    """A training that is going on: one seed of a trial."""

    trial: Trial
    seed_index: int
    slot: int
    worker: Worker
    completed: int = 0
    """Iterations of this seed."""
    is_pruned: bool = False


class _Search:
    """Keeps as many trainings going as there shall be at once."""

    def __init__(
        self, sweep: Sweep, root: Path, study: Study, jobs: int, devices: Sequence[str], say: Callable[[str], None]
    ) -> None:
        self._sweep = sweep
        self._root = root
        self._study = study
        self._say = say
        self._cores = shares_of_cores(jobs)
        self._devices = list(itertools.islice(itertools.cycle(devices or [""]), jobs))
        self._free = deque(range(jobs))
        self._runs: list[_Run] = []
        self._waiting = deque(study.cut_off())
        self._failures_in_a_row = 0
        for trial in self._waiting:
            say(f"trial {trial.number} goes on after {study.record(trial).iterations} iterations")

    def run(self, stop: StopSignal) -> None:
        """Train until the budget is spent and all trials have ended, or a signal asks to stop."""
        while not stop.requested:
            while self._free and (trial := self._next_trial()) is not None:
                self._start(trial, 0, self._free.popleft())
            if not self._runs:
                return
            connection.wait([run.worker.connection for run in self._runs], _LOOK_AFTER_S)
            for run in list(self._runs):
                if run.worker.connection.poll() or not run.worker.is_alive:
                    self._listen_to(run)

    def end(self) -> None:
        """End the trainings that are still going on, with their checkpoints; a second signal ends them at once."""
        try:
            for run in self._runs:
                run.worker.stop()
            for run in self._runs:
                # What is in its checkpoint must be in the journal.
                while (message := run.worker.receive()) is not None:
                    if message[0] == "iteration" and not run.is_pruned:
                        self._answer(run, *message[1:])
                run.worker.wait()
        finally:
            for run in self._runs:
                run.worker.kill()
            self._runs = []

    def _next_trial(self) -> Trial | None:
        if self._waiting:
            return self._waiting.popleft()
        budget, records = self._sweep.budget, self._study.records()
        if budget.trials is not None and len(records) >= budget.trials:
            return None
        iterations = sum(record.iterations for record in records)
        if budget.total_iterations is not None and iterations >= budget.total_iterations:
            return None
        return self._study.next()

    def _start(self, trial: Trial, seed_index: int, slot: int) -> None:
        seed = self._sweep.seeds[seed_index]
        folder = self._root / self._sweep.run_folder(trial.number, seed)
        values = self._study.record(trial).values
        try:
            settings = self._sweep.config_of(values, seed, run_name=f"trial_{trial.number:04d}").to_dict()
        except UserError as error:
            # Values may be right one by one and wrong together.
            self._free.append(slot)
            self._failed(trial, 0, str(error))
            return
        if self._devices[slot]:
            settings["device"] = self._devices[slot]
        order = Order(settings, folder, self._sweep.objective.metric, self._cores[slot])
        self._runs.append(_Run(trial, seed_index, slot, Worker(order)))

    def _listen_to(self, run: _Run) -> None:
        message = run.worker.receive()
        kind, *rest = message or ("died",)
        if kind == "iteration":
            self._answer(run, *rest)
            return
        ending = run.worker.wait()
        self._runs.remove(run)
        self._free.append(run.slot)
        if run.is_pruned:
            return
        if kind == "ended":
            self._seed_ended(run, *rest)
        elif kind == "stopped":
            # Not by us: the signal was meant for it alone, or is on its way to us as well.
            self._waiting.appendleft(run.trial)
        else:
            self._failed(run.trial, self._iterations(run), rest[0] if rest else ending)

    def _iterations(self, run: _Run) -> int:
        return run.seed_index * self._sweep.budget.iterations + run.completed

    def _answer(self, run: _Run, iteration: int, value: float | None) -> None:
        run.completed = iteration + 1
        step = run.seed_index * self._sweep.budget.iterations + iteration
        run.is_pruned = value is not None and self._study.report(run.trial, step, value)
        if run.is_pruned:
            # Before the training is told: a kill in between must not change what was decided.
            self._study.prune(run.trial, self._iterations(run))
            self._ended(run.trial)
        run.worker.answer(is_to_go_on=not run.is_pruned)

    def _seed_ended(self, run: _Run, completed: int, tags: list[str]) -> None:
        run.completed = completed
        if not seeds_reported(self._sweep, self._study.record(run.trial).reports)[run.seed_index]:
            metric = self._sweep.objective.metric
            guess = nearest(metric, tags)
            tail = f"did you mean {guess!r}?" if guess else f"there were {', '.join(tags)}"
            self._failed(run.trial, self._iterations(run), f"the metric {metric!r} was never measured: {tail}")
        elif run.seed_index + 1 < len(self._sweep.seeds):
            self._free.remove(run.slot)
            self._start(run.trial, run.seed_index + 1, run.slot)
        else:
            self._study.finish(run.trial, self._iterations(run))
            self._ended(run.trial)

    def _failed(self, trial: Trial, iterations: int, why: str) -> None:
        self._study.fail(trial, iterations, why)
        self._ended(trial)

    def _ended(self, trial: Trial) -> None:
        """Say what became of a trial, bring the table up to date, and see whether all fail."""
        record, records = self._study.record(trial), self._study.records()
        best = best_of(self._sweep, records)
        self._say(describe(record) + (f"; best: trial {best.number} with {best.result:.6g}" if best else ""))
        write_results(self._sweep, records, self._root)
        self._failures_in_a_row = self._failures_in_a_row + 1 if record.state == "failed" else 0
        if self._failures_in_a_row == self._sweep.max_failures:
            raise UserError(
                f"{self._failures_in_a_row} trials failed one after the other, the last one with: {record.error} "
                "(max_failures says how many may; the same command goes on)"
            )
