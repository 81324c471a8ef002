"""Wrong input by the thousand: what the tests in ``tests/reliability`` draw, and what they expect of each case.

Every case either works or is refused with one ``UserError`` of one line. ``FUZZ_CASES`` sets the number of
cases per property (``make fuzz``), ``FUZZ_TALLY`` names a file that gets the counts.
"""

from __future__ import annotations

import atexit
import copy
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sim_rl_plugin.errors import UserError

CASES = int(os.environ.get("FUZZ_CASES", "0"))
"""Cases per property; 0 for the few of the short form."""

ODD_TEXTS = [
    "", " ", "null", "~", "true", "0x", "1e999", "-1", "nan", ".nan", "-.inf", "[", "]", "{", "}", ":", "=", "a=b", "?",
    "a: b", "- x", "*a", "&a x", "!!python/object:os.system x", "!!int abc", "!!float -", "!!timestamp 2020-99-99",
    "!!binary '*'", "!!set {a, b}", "!!omap [a: 1]", "%YAML 9.9", "---", "...", "\t", "\x00", "\ud800", "\u202e", "é",
    "MLPModel", "PPO", "cuda:99", "meta", "..", "../..", "/", "a.b", ":", "x:", ":x", "no_such_module:Class", "rsl_rl.",
    "rsl_rl.models.MLPModel", "collections:OrderedDict", "math:pi", "x" * 5000, "9" * 5000,
]  # fmt: skip

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30, 0.0, -0.0, 1e-300, 1e300]),
    st.floats(),
    st.sampled_from(ODD_TEXTS),
    st.text(max_size=12),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["class_name", "name", "0", ""]), st.text(max_size=6)), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
"""Whatever YAML or a Python dict can hold."""

_tally: Counter[str] = Counter()


def short(cases: int) -> settings:
    """Return hypothesis' settings: ``cases`` cases, the same ones each time, or ``FUZZ_CASES`` new ones."""
    return settings(
        max_examples=CASES or cases,
        derandomize=not CASES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def attempt(what: str, function: Callable[[], Any]) -> Any:
    """Return what ``function`` returns, or the error if it refuses its input as it should.

    Any other exception, and a message that is not one line, is a failure of the test.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = function()
        except UserError as error:
            message = str(error)
            assert message.strip(), "an error without a message"
            assert "\n" not in message, f"a message of several lines: {message!r}"
            assert "Traceback" not in message
            message.encode("utf-8")
            count(what, "refused")
            return error
    count(what, "worked")
    return result


def count(what: str, outcome: str) -> None:
    """Count a case."""
    _tally[f"{what}: {outcome}"] += 1


def _write_tally() -> None:
    path = os.environ.get("FUZZ_TALLY")
    if path and _tally:
        Path(f"{path}.{os.getpid()}").write_text(json.dumps(_tally))


atexit.register(_write_tally)


def paths_of(tree: Any, kind: type = object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the key paths of everything in a tree of dicts and lists that is a ``kind``."""
    found = [at] if isinstance(tree, kind) else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += paths_of(value, kind, (*at, key))
    return found


def at_path(tree: Any, path: tuple[Any, ...]) -> Any:
    """Return what lies at a key path."""
    for key in path:
        tree = tree[key]
    return tree


@st.composite
def mutations(draw: st.DrawFn, tree: dict[str, Any]) -> dict[str, Any]:
    """Draw a copy of a tree with one to three things wrong: replaced, removed, added, misspelt, or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = [path for path in paths_of(tree) if path]
        if not places:
            break
        path = draw(st.sampled_from(places))
        holder, key = at_path(tree, path[:-1]), path[-1]
        action = draw(st.sampled_from(["replace", "remove", "add", "misspell", "wrap"]))
        if action == "replace":
            holder[key] = draw(values)
        elif action == "remove":
            del holder[key]
        elif action == "wrap":
            holder[key] = draw(st.sampled_from([[holder[key]], {"x": holder[key]}, {"class_name": holder[key]}]))
        elif isinstance(holder, list):
            holder.insert(key, draw(values))
        elif action == "misspell":
            holder[draw(st.sampled_from([f"{key}x", str(key)[:-1], str(key).upper()]))] = holder.pop(key)
        else:
            holder[draw(st.text(max_size=8))] = draw(values)
    return tree


@st.composite
def mangled(draw: st.DrawFn, text: bytes) -> bytes:
    """Draw a copy of a text with pieces flipped, cut out, doubled, swapped, or filled with noise."""
    found = bytearray(text)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(found)))
        stop = min(len(found), start + draw(st.integers(1, 40)))
        action = draw(st.sampled_from(["cut", "double", "noise", "flip", "end", "odd"]))
        if action == "cut":
            del found[start:stop]
        elif action == "double":
            found[stop:stop] = found[start:stop]
        elif action == "noise":
            found[start:stop] = draw(st.binary(max_size=12))
        elif action == "flip" and start < len(found):
            found[start] ^= 1 << draw(st.integers(0, 7))
        elif action == "end":
            del found[start:]
        else:
            found[start:start] = draw(st.sampled_from(ODD_TEXTS)).encode("utf-8", "surrogatepass")
    return bytes(found)
