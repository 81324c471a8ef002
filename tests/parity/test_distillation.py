"""Distillation against rsl_rl 5.5.1: same weights, same rollout, number by number."""

import warnings
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("rsl_rl", reason="`make parity` installs rsl-rl-lib beside us")
from parity.breakages import DISTILLATION, Breakage, pairs
from parity.distillation_rows import DISTILLATION_ROWS
from parity.harness import DifferenceError, Row, build_pair, compare
from rsl_rl.algorithms import Distillation as ReferenceDistillation

from sim_rl_plugin.algorithms import Distillation


@pytest.fixture(autouse=True)
def _steps_may_be_left_over() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_length.*")
        yield


@pytest.mark.parametrize("row", DISTILLATION_ROWS.values(), ids=DISTILLATION_ROWS)
def test_same_numbers(row: Row, record: Callable):
    record(row.name, compare(*build_pair(Distillation, ReferenceDistillation, row), row))


@pytest.mark.parametrize(("row", "breakage"), pairs(DISTILLATION_ROWS, DISTILLATION))
def test_broken_mathematics_is_noticed(
    row: Row, breakage: Breakage, monkeypatch: pytest.MonkeyPatch, record_breakage: Callable
):
    ours, theirs = build_pair(Distillation, ReferenceDistillation, row)
    breakage.apply(ours, monkeypatch)
    with pytest.raises(DifferenceError):
        compare(ours, theirs, row)
    record_breakage(row.name, breakage.name)
