"""Fixtures of the comparison with rsl_rl, and the table that it leaves behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

_differences: dict[str, dict[str, float]] = {}
_noticed: dict[str, set[str]] = {}


@pytest.fixture(autouse=True)
def _no_spurious_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep rsl_rl from raising its learning rate by rounding alone, as we do."""
    from parity.harness import keep_from_raising_by_rounding
    from rsl_rl.models import MLPModel as ReferenceModel  # its other models inherit the method

    keep_from_raising_by_rounding(ReferenceModel, monkeypatch)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str, dict[str, float]], None]:
    """Take the differences of a row; they travel with the test's report, so across processes too."""

    def note(row: str, differences: dict[str, float]) -> None:
        request.node.user_properties.append(("parity", (row, differences)))

    return note


@pytest.fixture
def record_breakage(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Take the name of a breakage that the comparison noticed."""

    def note(row: str, breakage: str) -> None:
        request.node.user_properties.append(("parity breakage", (row, breakage)))

    return note


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "call" or not report.passed:
        return
    for name, value in report.user_properties:
        if name == "parity":
            row, differences = value
            known = _differences.setdefault(row, {})
            for quantity, difference in differences.items():
                known[quantity] = max(difference, known.get(quantity, 0.0))
        elif name == "parity breakage":
            row, breakage = value
            _noticed.setdefault(breakage, set()).add(row)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the table, if it was asked for and every row is there."""
    target = os.environ.get("PARITY_REPORT")
    if not target or exitstatus != 0 or hasattr(session.config, "workerinput"):
        return
    from parity.report import expected_rows, write

    missing = expected_rows() - _differences.keys()
    assert not missing, f"no comparison of {sorted(missing)}: run all of tests/parity"
    write(Path(target), _differences, _noticed)
