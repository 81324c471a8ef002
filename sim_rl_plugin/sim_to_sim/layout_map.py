"""A map from a policy's layout to another environment's, out of a YAML file.

Keys are the policy's names, values the environment's; what is not mentioned has the same name in both::

    observations:
      policy:                       # a group that the policy reads
        group: state                # the environment's group
        terms:
          position: qpos
          velocity: {term: qvel, scale: 0.5, offset: 0.0, elements: {hip: hip_joint}}
          contact_force: {value: 0.0}
    actions:
      actuators: {term: motors, scale: 2.0, elements: {hip: hip_joint}}
    environment:                    # the terms of an environment that does not tell them, in order
      observations: {state: {qpos: 8, qvel: [hip, knee]}}
      actions: {motors: 2}

A policy's observation is the environment's times ``scale`` plus ``offset``, one number or one per element, and an
environment's action the policy's times ``scale`` plus ``offset``. Elements of one name are put in the policy's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim_rl_plugin.config.signature import check_value, unknown_key
from sim_rl_plugin.config.yaml_text import read_mapping
from sim_rl_plugin.env.terms import Term
from sim_rl_plugin.errors import UserError

Factor = float | tuple[float, ...]


@dataclass(frozen=True)
class TermMap:
    """Where one term of the policy's comes from, or goes to.

    Attributes:
        term: The environment's term; empty for that of the same name.
        scale: Factor, one number or one per element in the policy's order.
        offset: What is added after that.
        elements: The policy's names of elements to the environment's, where they differ.
        value: Of an observation that the environment does not have: what the policy sees instead.
    """

    term: str = ""
    scale: Factor = 1.0
    offset: Factor = 0.0
    elements: Mapping[str, str] = field(default_factory=dict)
    value: float | None = None


@dataclass(frozen=True)
class GroupMap:
    """Where one observation group of the policy's comes from.

    Attributes:
        group: The environment's group; empty for that of the same name.
        terms: By the policy's names of terms.
    """

    group: str = ""
    terms: Mapping[str, TermMap] = field(default_factory=dict)


@dataclass(frozen=True)
class LayoutMap:
    """The whole map.

    Attributes:
        observations: By the policy's names of groups.
        actions: By the policy's names of action terms.
        environment_observations: The environment's terms by group, instead of what it tells.
        environment_actions: The environment's action terms, instead of what it tells.
    """

    observations: Mapping[str, GroupMap] = field(default_factory=dict)
    actions: Mapping[str, TermMap] = field(default_factory=dict)
    environment_observations: Mapping[str, tuple[Term, ...]] = field(default_factory=dict)
    environment_actions: tuple[Term, ...] = ()


def read_layout_map(path: Path) -> LayoutMap:
    """Read a map.

    Raises:
        UserError: The file is missing or no YAML, a key is unknown, or a value has the wrong type.
    """
    settings = _section(read_mapping(path), str(path), ("observations", "actions", "environment"), is_file=True)
    groups = {
        name: _group(value, f"observations.{name}")
        for name, value in _mapping(settings.get("observations"), "observations").items()
    }
    actions = {
        name: _term(value, f"actions.{name}", may_be_constant=False)
        for name, value in _mapping(settings.get("actions"), "actions").items()
    }
    about = _section(settings.get("environment"), "environment", ("observations", "actions"))
    described = {
        name: _described(value, f"environment.observations.{name}")
        for name, value in _mapping(about.get("observations"), "environment.observations").items()
    }
    return LayoutMap(groups, actions, described, _described(about.get("actions"), "environment.actions"))


def _mapping(value: Any, path: str) -> dict[str, Any]:
    if value is None:
        return {}
    check_value(dict[str, Any], value, path)
    return value


def _section(value: Any, path: str, keys: Sequence[str], *, is_file: bool = False) -> dict[str, Any]:
    found = _mapping(value, path)
    for key in found:
        if key not in keys:
            raise unknown_key("" if is_file else path, key, keys)
    return found


def _group(value: Any, path: str) -> GroupMap:
    settings = _section(value, path, ("group", "terms"))
    check_value(str, settings.get("group", ""), f"{path}.group")
    terms = _mapping(settings.get("terms"), f"{path}.terms")
    return GroupMap(
        settings.get("group", ""), {name: _term(term, f"{path}.terms.{name}") for name, term in terms.items()}
    )


def _term(value: Any, path: str, *, may_be_constant: bool = True) -> TermMap:
    if isinstance(value, str):
        return TermMap(value)
    keys = ("term", "scale", "offset", "elements", *(["value"] if may_be_constant else []))
    settings = _section(value, path, keys)
    check_value(str, settings.get("term", ""), f"{path}.term")
    check_value(dict[str, str], settings.get("elements", {}), f"{path}.elements")
    check_value(float | None, settings.get("value"), f"{path}.value")
    for key in settings.keys() & {"scale", "offset"}:
        check_value(float | list[float], settings[key], f"{path}.{key}")
    if settings.get("value") is not None and len(settings) > 1:
        raise UserError(f"{path}.value: a constant has no {next(key for key in settings if key != 'value')}")
    known: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in settings.items()}
    return TermMap(**known)


def _described(value: Any, path: str) -> tuple[Term, ...]:
    """Return terms out of sizes, or lists of elements, by their names."""
    terms = []
    for name, size in _mapping(value, path).items():
        check_value(int | list[str], size, f"{path}.{name}")
        elements = tuple(size) if isinstance(size, list) else ()
        count = len(elements) if isinstance(size, list) else size
        if count < 1:
            raise UserError(f"{path}.{name}: expected a size of 1 or more, or a list of elements, found {size}")
        terms.append(Term(name, (count,), elements))
    return tuple(terms)
