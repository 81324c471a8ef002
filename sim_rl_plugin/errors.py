"""Errors that a user can cause, and how they name what to change."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast


class UserError(ValueError):
    """A mistake in what the user gave us; its message says what was found, expected, and nearest.

    The command line prints the message and exits with status 2, without a traceback.
    """


_Function = TypeVar("_Function", bound=Callable[..., Any])


def os_errors_named(function: _Function) -> _Function:
    """Let a function that reads what a user names raise a ``UserError`` where the system refuses."""

    @functools.wraps(function)
    def explained(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from error

    return cast(_Function, explained)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate most like ``name``, ignoring case, or None if none is close."""
    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    match = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[match[0]] if match else None


def unknown_name(what: str, name: str, candidates: Iterable[str], hint: str = "") -> UserError:
    """Return the error for a name that does not exist.

    Args:
        what: What the name was meant to be, with its key path if it has one (``"algorithm 'PPOO'"``
            is built from ``"algorithm"``).
        name: The name as found.
        candidates: The names that exist.
        hint: A closing sentence, such as the command that lists the names.
    """
    names = sorted(set(candidates))
    guess = nearest(name, names)
    if guess is not None:
        tail = f"did you mean {guess!r}?"
    elif names:
        tail = f"expected one of {', '.join(names)}"
    else:
        tail = "none is known"
    return UserError(f"unknown {what} {name!r}: {tail}" + (f" {hint}" if hint else ""))
