"""What an examination of an environment can find: every rule of the contract by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AREAS: dict[str, tuple[str, ...]] = {
    "attributes": ("missing-attribute", "wrong-attribute"),
    "structure": ("wrong-type", "wrong-shape", "groups-changed"),
    "terms": ("wrong-terms",),
    "commands": ("wrong-commands", "command-not-held"),
    "dtypes": ("wrong-dtype",),
    "devices": ("wrong-device",),
    "buffers": ("buffer-reused", "actions-modified"),
    "get_observations": (
        "get-observations-changes-simulation",
        "get-observations-unstable",
        "get-observations-differs",
    ),
    "resets": ("reset-late", "obs-is-final-obs", "no-reset-seen"),
    "episode_length": (
        "episode-length-not-counted",
        "episode-length-not-reset",
        "episode-length-not-settable",
        "episode-length-ignored",
        "limit-passed",
    ),
    "reset_envs": ("reset-envs-others", "reset-envs-without-effect"),
    "time_outs": ("time-out-without-done", "time-outs-missing", "time-outs-early", "time-outs-are-dones"),
    "final_obs": ("final-obs-missing", "final-obs-groups"),
    "finite": ("not-finite",),
    "log": ("log-stale",),
    "state": ("state-not-plain", "state-not-restored"),
}
"""Every code that a ``Problem`` can have, by the area of the contract that it belongs to."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One deviation from the contract.

    Attributes:
        code: Stable name of the rule, one of ``AREAS``.
        where: What deviates, as the adapter's author would write it (``"obs['policy']"``).
        message: What was found, what the contract wants, and what to change.
        severity: ``"error"`` breaks or biases training; ``"warning"`` may be intended.
    """

    code: str
    where: str
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.severity} [{self.code}] {self.where}: {self.message}"


class Findings:
    """The problems of one examination, one per rule and place."""

    def __init__(self) -> None:
        self._by_rule_and_place: dict[tuple[str, str], Problem] = {}

    def report(self, code: str, where: str, message: str, severity: Severity = "error") -> None:
        """Note a problem; the first of its kind and place is kept, since it is where things began."""
        assert any(code in codes for codes in AREAS.values()), code
        self._by_rule_and_place.setdefault((code, where), Problem(code, where, message, severity))

    def found(self, *codes: str) -> bool:
        """Say whether a problem with one of these codes was reported."""
        return any(code in codes for code, _ in self._by_rule_and_place)

    def problems(self) -> list[Problem]:
        """Return the problems, errors first, each in the order in which they were found."""
        return sorted(self._by_rule_and_place.values(), key=lambda problem: problem.severity)
