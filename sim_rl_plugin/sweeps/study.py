"""The search itself, which is Optuna's: what to try next, what to prune, and the journal of it all.

No other module imports Optuna, which is an extra.
"""

from __future__ import annotations

import inspect
import json
import math
import statistics
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from sim_rl_plugin.config.signature import check_arguments, shorten
from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.sweeps.definition import Sweep
from sim_rl_plugin.sweeps.parameters import Parameter

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
_FILLED_IN = ("search_space",)
_NAME = "sweep"
_EXHAUSTED = "exhausted"
_DEFAULT_SEED = 1


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the journal knows it.

    Attributes:
        number: Its number, from 0.
        state: ``complete``, ``pruned``, ``failed`` or ``running``.
        values: The searched settings, by override key.
        reports: The objective's metric by step; the steps of a second seed follow those of the first.
        result: The objective; of a trial that is not complete, what it came to. None if nothing was measured.
        iterations: Iterations of all seeds.
        error: Why it failed, one line, or nothing.
    """

    number: int
    state: str
    values: dict[str, Any]
    reports: dict[int, float]
    result: float | None
    iterations: int
    error: str


class Study:
    """Proposes trials, prunes them, and keeps what became of them in a file that survives a kill at any time."""

    def __init__(self, sweep: Sweep, journal: Path) -> None:
        """Open the journal, or begin one; what a process left that was killed while it wrote is put right.

        Args:
            sweep: The sweep.
            journal: The file. Nobody else writes to it.

        Raises:
            UserError: The sampler or the pruner is unknown, or does not fit; the file cannot be read.
        """
        self._sweep = sweep
        sampler, pruner = _sampler(sweep), _pruner(sweep)
        self._study = _open(sweep, journal)
        self._study.sampler, self._study.pruner = sampler, pruner

    def cut_off(self) -> list[Trial]:
        """Return the trials that had not ended when the last process did, in order."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [self._complete(Trial(self._study, trial._trial_id)) for trial in running]

    def next(self) -> Trial | None:
        """Return a new trial; None if there is nothing left to try, as at the end of a grid."""
        if self._study.user_attrs.get(_EXHAUSTED) == self._sweep.sampler:
            return None
        # A sampler of its own for each trial: one that was killed and started again proposes the same.
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = _sampler(self._sweep, number)
        return self._complete(self._study.ask())

    def _complete(self, trial: Trial) -> Trial:
        """Have every setting of a trial chosen; those that it has stay."""
        for key, parameter in self._sweep.parameters.items():
            _suggest(trial, key, parameter)
        return trial

    def report(self, trial: Trial, step: int, value: float) -> bool:
        """Note a value, and return whether the trial shall be pruned; one that was noted before is left alone."""
        if step in self._frozen(trial).intermediate_values:
            return False
        trial.report(value, step)
        return trial.should_prune()

    def finish(self, trial: Trial, iterations: int) -> None:
        """Note that a trial has done all its iterations."""
        result = self.record(trial).result
        if result is None or not math.isfinite(result):
            self.fail(trial, iterations, f"its {self._sweep.objective.metric!r} is {result}, which is no number")
        else:
            self._tell(trial, TrialState.COMPLETE, iterations, result)

    def prune(self, trial: Trial, iterations: int) -> None:
        """Note that a trial is not worth going on with."""
        self._tell(trial, TrialState.PRUNED, iterations)

    def fail(self, trial: Trial, iterations: int, error: str) -> None:
        """Note that a trial failed, and why."""
        trial.set_user_attr("error", error)
        self._tell(trial, TrialState.FAIL, iterations)

    def _tell(self, trial: Trial, state: TrialState, iterations: int, value: float | None = None) -> None:
        trial.set_user_attr("iterations", iterations)
        try:
            self._study.tell(trial, value, state)
        except RuntimeError:
            # A grid at its end stops the loop of Optuna's own, which is not there, once the trial is noted.
            if self._frozen(trial).state != state:
                raise
            self._study.set_user_attr(_EXHAUSTED, self._sweep.sampler)

    def record(self, trial: Trial) -> TrialRecord:
        """Return what is known of a trial."""
        return _record(self._sweep, self._frozen(trial))

    def records(self) -> list[TrialRecord]:
        """Return what is known of every trial, in order."""
        return [_record(self._sweep, trial) for trial in self._study.get_trials(deepcopy=False)]

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[trial.number]


def read_journal(sweep: Sweep, journal: Path) -> list[TrialRecord]:
    """Return the trials of a sweep that another process may be running, in order.

    Raises:
        UserError: The file cannot be read.
    """
    return [_record(sweep, trial) for trial in _open(sweep, journal, is_owner=False).get_trials(deepcopy=False)]


def _open(sweep: Sweep, journal: Path, is_owner: bool = True) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if is_owner:
        _repair(journal)
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
        if is_owner and not storage.get_all_studies():
            return optuna.create_study(storage=storage, study_name=_NAME, direction=sweep.objective.direction)
        return optuna.load_study(storage=storage, study_name=_NAME)
    except (ValueError, LookupError, AssertionError, TypeError) as error:
        raise UserError(f"{journal} cannot be read as the journal of a sweep: {error}") from error


def _record(sweep: Sweep, trial: FrozenTrial) -> TrialRecord:
    reports = {step: trial.intermediate_values[step] for step in sorted(trial.intermediate_values)}
    chosen = {key: each for key, each in sweep.parameters.items() if key in trial.params}
    return TrialRecord(
        number=trial.number,
        state=_STATES[trial.state],
        values={key: _plain(parameter, trial.params[key]) for key, parameter in chosen.items()},
        reports=reports,
        result=_result(sweep, reports),
        iterations=trial.user_attrs.get("iterations", _iterations(sweep, reports)),
        error=trial.user_attrs.get("error", ""),
    )


def seeds_reported(sweep: Sweep, reports: Mapping[int, float]) -> list[list[float]]:
    """Return the metric's values of each seed, in order."""
    length = sweep.budget.iterations
    return [[value for step, value in reports.items() if step // length == index] for index in range(len(sweep.seeds))]


def _iterations(sweep: Sweep, reports: Mapping[int, float]) -> int:
    """Return the iterations up to the last values of a trial that has not ended, of all seeds."""
    length = sweep.budget.iterations
    last = {step // length: step % length for step in sorted(reports)}
    return sum(iteration + 1 for iteration in last.values())


def _result(sweep: Sweep, reports: Mapping[int, float]) -> float | None:
    """Return the mean over the seeds of the mean of each one's last values; None before anything was measured."""
    ends = [values[-sweep.objective.mean_over :] for values in seeds_reported(sweep, reports) if values]
    return statistics.fmean(statistics.fmean(values) for values in ends) if ends else None


def _repair(journal: Path) -> None:
    """Take away what a process left that was killed while it wrote: half a line, and Optuna's lock."""
    lock = journal.with_name(journal.name + ".lock")
    lock.unlink(missing_ok=True)
    if not journal.exists():
        return
    with journal.open("r+b") as file:
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)


def _suggest(trial: Trial, key: str, parameter: Parameter) -> None:
    if parameter.choices is not None:
        trial.suggest_categorical(key, _texts(parameter))
        return
    low, high = parameter.samples
    log = parameter.is_logarithmic
    if parameter.is_integer:
        step = 1 if parameter.step is None else int(parameter.step)
        trial.suggest_int(key, low, high, step=step, log=log)
    else:
        trial.suggest_float(key, low, high, step=parameter.step, log=log)


def _texts(parameter: Parameter) -> list[str]:
    """Return the choices as texts: Optuna takes no lists."""
    return [json.dumps(choice) for choice in parameter.choices or ()]


def _plain(parameter: Parameter, value: Any) -> Any:
    return json.loads(value) if parameter.choices is not None else value


def check_engine(sweep: Sweep) -> None:
    """Check the sweep's sampler and pruner.

    Raises:
        UserError: One is unknown, or does not fit.
    """
    _sampler(sweep)
    _pruner(sweep)


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    return _build(optuna.pruners, optuna.pruners.BasePruner, sweep.pruner, "pruner")


def _sampler(sweep: Sweep, number: int = 0) -> optuna.samplers.BaseSampler:
    """Return the sampler for the trial of a number."""
    filled_in = {}
    given = sweep.sampler.get("seed")
    seed = _DEFAULT_SEED if given is None else given
    parameters = inspect.signature(_class(optuna.samplers, optuna.samplers.BaseSampler, sweep.sampler, "sampler"))
    if "search_space" in parameters.parameters:
        # The order of a grid follows from the seed and must not change.
        filled_in = {"search_space": {key: _grid(key, each) for key, each in sweep.parameters.items()}, "seed": seed}
    elif "seed" in parameters.parameters:
        filled_in = {"seed": seed + number}
    return _build(optuna.samplers, optuna.samplers.BaseSampler, sweep.sampler, "sampler", filled_in)


def _grid(key: str, parameter: Parameter) -> list[Any]:
    if parameter.choices is not None:
        return _texts(parameter)
    low, high = parameter.samples
    if parameter.is_logarithmic or (parameter.step is None and not parameter.is_integer):
        raise UserError(
            f"parameters.{key}: a grid needs values to count: say a step, or choices of the distribution 'categorical'"
        )
    step = parameter.step or 1
    count = int((high - low) / step + 1e-9) + 1
    return [low + index * step if not parameter.is_integer else int(low + index * step) for index in range(count)]


def _class(module: Any, base: type, section: Any, path: str) -> Any:
    if not isinstance(section, dict) or not isinstance(section.get("class_name"), str):
        raise UserError(f"{path}: expected a mapping with 'class_name', found {shorten(section)}")
    names = [
        name
        for name in module.__all__
        if inspect.isclass(found := getattr(module, name)) and issubclass(found, base) and not name.startswith("Base")
    ]
    if section["class_name"] not in names:
        raise unknown_name(f"class in {path}.class_name:", section["class_name"], names)
    return getattr(module, section["class_name"])


def _build(module: Any, base: type, section: Any, path: str, filled_in: Mapping[str, Any] | None = None) -> Any:
    """Return a sampler or pruner of Optuna's, its settings checked against its constructor."""
    found = _class(module, base, section, path)
    settings = {key: value for key, value in section.items() if key != "class_name"}
    check_arguments(found, settings, path, provided=_FILLED_IN)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that something is experimental
            return found(**{**settings, **(filled_in or {})})
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"{path}: {section['class_name']}: {' '.join(str(error).split())}") from error
