"""What the numbers in an observation group and in an action mean, where the simulator knows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Term:
    """A named part of an observation group, or of the action vector.

    The terms of a group stand one behind the other in its vector, each flattened.

    Attributes:
        name: Such as ``"joint_vel"``, unique within its group.
        shape: Shape of one environment's part, history included: ``(12,)``, or ``(5, 12)`` of five steps.
        elements: What each number of one step is about, such as the joints' names; empty if unknown.
        scale: Of an observation, what the simulator multiplied the quantity by; of an action, what it will
            multiply it by: one number, or one per element; None if unknown.
        offset: What is added after that: one number, or one per element; None if unknown.
        history: Number of control steps that it holds, the oldest first.
    """

    name: str
    shape: tuple[int, ...]
    elements: tuple[str, ...] = ()
    scale: float | tuple[float, ...] | None = None
    offset: float | tuple[float, ...] | None = None
    history: int = 1

    @property
    def size(self) -> int:
        """Count of its numbers in the vector."""
        return math.prod(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Return it in plain data, without what is unknown, for checkpoints and the metadata of exported policies."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        known = {key: value for key, value in known.items() if key in ("name", "shape") or value != _DEFAULTS[key]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Term:
        """Return the term of which ``to_dict`` made plain data."""
        known: dict[str, Any] = {}
        for key in plain.keys() & _DEFAULTS.keys():
            known[key] = tuple(plain[key]) if isinstance(plain[key], list) else plain[key]
        return cls(**known)


_DEFAULTS = {field.name: field.default for field in fields(Term)}


def observation_terms(env: Any) -> dict[str, tuple[Term, ...]]:
    """Return the terms that an environment, ours or not, gives for its observation groups."""
    found = getattr(env, "observation_terms", None)
    if not isinstance(found, Mapping):
        return {}
    return {str(group): tuple(terms) for group, terms in found.items() if _are_terms(terms)}


def action_terms(env: Any) -> tuple[Term, ...]:
    """Return the terms that an environment, ours or not, gives for its actions."""
    found: Any = getattr(env, "action_terms", None)
    return tuple(found) if _are_terms(found) else ()


def _are_terms(found: Any) -> bool:
    # Environments of other projects have attributes of these names with other things in them.
    return isinstance(found, Sequence) and bool(found) and all(isinstance(term, Term) for term in found)


def fault_in_terms(terms: Any, size: int) -> str:
    """Return what is wrong with a description of ``size`` numbers, or nothing."""
    if not isinstance(terms, Sequence) or not all(isinstance(term, Term) for term in terms):
        return f"found {terms!r}, expected a list or tuple of sim_rl_plugin.env.Term"
    names = [term.name for term in terms]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        return f"two terms are called {twice[0]!r}"
    described = sum(term.size for term in terms)
    if described != size:
        sizes = ", ".join(f"{term.name} {term.size}" for term in terms)
        return f"the terms have {described} numbers in all ({sizes}), expected {size}"
    for term in terms:
        per_step = term.size // term.history if term.history > 0 else 0
        if per_step * term.history != term.size:
            return f"{term.name}: shape {term.shape} cannot hold a history of {term.history} steps"
        if term.elements and len(term.elements) != per_step:
            return f"{term.name}: {len(term.elements)} elements are named, and it has {per_step} per step"
        for what in ("scale", "offset"):
            values = getattr(term, what)
            if isinstance(values, tuple) and len(values) != per_step:
                return f"{term.name}: {len(values)} values of {what} are given, and it has {per_step} per step"
    return ""
