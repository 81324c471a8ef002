"""What a policy expects of an environment: observation groups and actions, term by term where known.

A layout is plain data, stored in every checkpoint::

    {
        "observations": {
            "policy": {
                "shape": [17],
                "dtype": "float32",
                "terms": [{"name": "joint_pos", "shape": [8], "elements": ["hip", ...]}, ...],
            },
        },
        "num_actions": 6,
        "actions": [{"name": "joint_pos", "shape": [6], "scale": 0.25}, ...],
    }

``terms`` and ``actions`` are those of ``Term.to_dict``, and missing where the simulator does not tell.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from tensordict import TensorDict

from sim_rl_plugin.config.signature import check_value
from sim_rl_plugin.env.terms import Term, action_terms, fault_in_terms, observation_terms
from sim_rl_plugin.errors import UserError

_TOLERANCE = 1e-6


def describe_layout(env: Any, obs: TensorDict | None = None) -> dict[str, Any]:
    """Return what an environment gives and takes.

    Args:
        env: The environment.
        obs: Its observations, if they are at hand.
    """
    obs = env.get_observations() if obs is None else obs
    terms = observation_terms(env)
    groups: dict[str, Any] = {}
    for key, value in obs.items():
        name = str(key)
        groups[name] = {"shape": list(value.shape[1:]), "dtype": str(value.dtype).removeprefix("torch.")}
        # A description that does not add up, which check-env reports, would only mislead.
        if name in terms and not fault_in_terms(terms[name], value[0].numel()):
            groups[name]["terms"] = [term.to_dict() for term in terms[name]]
    layout: dict[str, Any] = {"observations": groups, "num_actions": int(env.num_actions)}
    actions = action_terms(env)
    if actions and not fault_in_terms(actions, env.num_actions):
        layout["actions"] = [term.to_dict() for term in actions]
    return layout


def check_saved_layout(layout: Any, path: str) -> None:
    """Raise unless something read from a file is a layout.

    Args:
        layout: What was read.
        path: Its key path, for messages.

    Raises:
        UserError: With the key path of what is wrong.
    """
    check_value(dict[str, Any], layout, path)
    for key in ("observations", "num_actions"):
        if key not in layout:
            raise UserError(f"{path}.{key} is missing")
    check_value(int, layout["num_actions"], f"{path}.num_actions")
    check_value(dict[str, dict[str, Any]], layout["observations"], f"{path}.observations")
    for group, description in layout["observations"].items():
        where = f"{path}.observations.{group}"
        check_value(list[int], description.get("shape"), f"{where}.shape")
        check_value(list[Term] | None, description.get("terms"), f"{where}.terms")
    check_value(list[Term] | None, layout.get("actions"), f"{path}.actions")


def check_layout(saved: Mapping[str, Any] | None, env: Any) -> None:
    """Raise if a policy belongs to another robot than ``env``, and warn of what may be meant so.

    Groups that the environment has beyond the policy's do not matter. What only one of them knows is not
    compared. Names that changed while sizes and order stayed, and other scales and offsets, are a warning:
    they may be a mistake or the purpose.

    Args:
        saved: The layout that the policy was trained with; None (a checkpoint of rsl_rl) passes.
        env: The environment.

    Raises:
        UserError: Names every difference.
    """
    if saved is None:
        return
    found = describe_layout(env)
    comparison = _Comparison()
    for group, expected in saved["observations"].items():
        actual = found["observations"].get(group)
        if actual is None:
            names = ", ".join(found["observations"])
            comparison.problems.append(f"observation group {group!r} is missing (the environment has {names})")
        else:
            comparison.compare_groups(group, expected, actual)
    comparison.compare_actions(saved, found)
    if comparison.problems:
        raise UserError("the policy belongs to another robot: " + "; ".join(comparison.problems))
    for remark in comparison.remarks:
        warnings.warn(f"{remark}: is this meant?", stacklevel=2)


class _Comparison:
    """What differs between the layout of a policy and that of an environment."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.remarks: list[str] = []

    def compare_groups(self, group: str, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
        """Compare one observation group of both."""
        before = len(self.problems)
        then, now = _terms(expected.get("terms")), _terms(actual.get("terms"))
        if then and now:
            self._compare_terms(f"of group {group!r}", then, now)
        if expected["shape"] != actual["shape"] and len(self.problems) == before:
            sizes = ["x".join(map(str, layout["shape"])) for layout in (expected, actual)]
            parts = f" ({_sizes(then)})" if then else ""
            self.problems.append(f"observation group {group!r} has size {sizes[1]}, the policy reads {sizes[0]}{parts}")

    def compare_actions(self, saved: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Compare the actions of both."""
        before = len(self.problems)
        then, now = _terms(saved.get("actions")), _terms(found.get("actions"))
        if then and now:
            self._compare_terms("of the actions", then, now)
        if saved["num_actions"] != found["num_actions"] and len(self.problems) == before:
            self.problems.append(
                f"the environment takes {found['num_actions']} actions, the policy gives {saved['num_actions']}"
            )

    def _compare_terms(self, where: str, then: Sequence[Term], now: Sequence[Term]) -> None:
        if [term.shape for term in then] == [term.shape for term in now] and _only_renamed(then, now):
            for old, new in zip(then, now, strict=True):
                if old.name != new.name:
                    self.remarks.append(f"term {old.name!r} {where} is called {new.name!r} here")
                self._compare_contents(where, old, new)
            return
        old_by_name, new_by_name = ({term.name: term for term in terms} for terms in (then, now))
        for name, old in old_by_name.items():
            if name not in new_by_name:
                self.problems.append(f"term {name!r} {where} is missing ({old.size} values)")
            elif old.size != (size := new_by_name[name].size):
                self.problems.append(f"term {name!r} {where} has {size} values, the policy was trained with {old.size}")
            else:
                self._compare_contents(where, old, new_by_name[name])
        for name, new in new_by_name.items():
            if name not in old_by_name:
                self.problems.append(f"term {name!r} {where} is unknown to the policy ({new.size} values)")
        orders = [[name for name in names if name in old_by_name and name in new_by_name]
                  for names in (new_by_name, old_by_name)]  # fmt: skip
        if orders[0] != orders[1]:
            texts = [", ".join(order) for order in orders]
            self.problems.append(
                f"the order of the terms {where} is {texts[0]}, the policy was trained with {texts[1]}"
            )

    def _compare_contents(self, where: str, then: Term, now: Term) -> None:
        """Compare two terms that have the same size."""
        what = f"term {now.name!r} {where}"
        if then.history != now.history:
            self.problems.append(
                f"{what} holds {now.history} control steps, the policy was trained with {then.history}"
            )
        if then.elements and now.elements and then.elements != now.elements:
            pairs = zip(then.elements, now.elements, strict=False)
            number, (old, new) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
            text = f"{what}: element {number} is {new!r}, the policy was trained with {old!r}"
            is_permutation = sorted(then.elements) == sorted(now.elements)
            (self.problems if is_permutation else self.remarks).append(text)
        for key in ("scale", "offset"):
            values = getattr(now, key), getattr(then, key)
            if None not in values and not _equal(*values):
                texts = [_text(value) for value in values]
                self.remarks.append(f"{what} has the {key} {texts[0]}, the policy was trained with {texts[1]}")


def _only_renamed(then: Sequence[Term], now: Sequence[Term]) -> bool:
    """Say whether terms at the same place with other names are nowhere else, so that none has moved."""
    then_names, now_names = ({term.name for term in terms} for terms in (then, now))
    return all(
        old.name == new.name or (old.name not in now_names and new.name not in then_names)
        for old, new in zip(then, now, strict=True)
    )


def _terms(plain: Sequence[Mapping[str, Any]] | None) -> list[Term]:
    return [Term.from_dict(term) for term in plain or ()]


def _sizes(terms: Sequence[Term]) -> str:
    return ", ".join(f"{term.name} {term.size}" for term in terms)


def _equal(then: float | tuple[float, ...], now: float | tuple[float, ...]) -> bool:
    old, new = (value if isinstance(value, tuple) else (value,) for value in (then, now))
    # One number for all elements, or one for each.
    count = max(len(old), len(new))
    old, new = (value * count if len(value) == 1 else value for value in (old, new))
    return len(old) == len(new) and all(map(_close, old, new))


def _close(then: float, now: float) -> bool:
    return abs(then - now) <= _TOLERANCE * max(1.0, abs(then))


def _text(value: Any) -> str:
    if not isinstance(value, tuple):
        return f"{value:g}"
    texts = [f"{number:g}" for number in value]
    return texts[0] if len(set(texts)) == 1 else f"[{', '.join(texts[:4])}{', ...' if len(texts) > 4 else ''}]"
