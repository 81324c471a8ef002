"""YAML as users expect it: ``3e-4`` is a number, a key stands once, and errors name file and line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from sim_rl_plugin.errors import UserError

_MAX_BYTES = 4_000_000
_MAX_DEPTH = 64
_MAX_VALUES = 200_000
"""Values of a document with every alias written out; a config has a few hundred."""

# The core schema of YAML 1.2. PyYAML's own rules are those of 1.1, where 3e-4 is a string,
# `on` is true, 1:30 is ninety and 010 is eight.
_RULES: list[tuple[str, str, str]] = [
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
]


class _Loader(yaml.SafeLoader):
    """A safe loader with the scalars of YAML 1.2 that refuses a key that stands twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_document(self, node: yaml.Node) -> Any:
        _check_size(node)
        return super().construct_document(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError) as error:
            # PyYAML leaves it to int() and its like to complain about a value with an explicit tag, or a huge one.
            kind = node.tag.rpartition(":")[2]
            raise _mistake(f"{_shorten(node.value)} cannot be read as {kind}", node) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _mistake(f"expected a name as key, found {key!r}", key_node)
            if key in seen:
                raise _mistake(f"the key {key!r} stands here a second time", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


# Without sets, dates, bytes and the like, which no setting is.
_TAGS = ("bool", "float", "int", "map", "null", "seq", "str")
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _TAGS
}


class _Dumper(yaml.SafeDumper):
    """A safe dumper that quotes every string which YAML 1.1 or 1.2 would read as something else."""

    yaml_implicit_resolvers = {first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _RULES:
    # An empty scalar is looked up under the empty string.
    _starts = ["" if character == "\0" else character for character in _first]
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _starts)
    _Dumper.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _starts)


def _check_size(root: yaml.Node) -> None:
    """Refuse a document that holds itself, or whose aliases multiply to more than anybody could mean."""
    counts: dict[int, int] = {}

    def count(node: yaml.Node, above: tuple[int, ...]) -> int:
        if id(node) in above:
            raise _mistake("this value holds itself", node)
        if id(node) in counts:
            return counts[id(node)]
        if len(above) > _MAX_DEPTH:
            raise _mistake(f"values are nested more than {_MAX_DEPTH} deep", node)
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        total = 1 + sum(count(part, (*above, id(node))) for part in inner)
        if total > _MAX_VALUES:
            raise _mistake(f"with its aliases written out, this has more than {_MAX_VALUES:,} values", node)
        counts[id(node)] = total
        return total

    count(root, ())


def _mistake(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _load(text: str) -> Any:
    """Return what a YAML document holds.

    Raises:
        yaml.YAMLError: It is no YAML, or asks for more than settings can be.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError(f"values are nested more than {_MAX_DEPTH} deep") from error


def _explain(error: yaml.YAMLError) -> tuple[str, str]:
    """Return ``":line"`` (or nothing) and what is wrong."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        problem = " ".join(text for text in (error.context, error.problem) if text)
        return (f":{mark.line + 1}" if mark else ""), " ".join(problem.split())
    return "", " ".join(str(error).split())


def parse_value(text: str) -> Any:
    """Return the value of a piece of YAML, such as the right side of an override.

    Args:
        text: ``"3e-4"``, ``"[256, 128]"``, ``"null"``, ``"true"``, ``"tanh"``.

    Raises:
        UserError: It is no YAML.
    """
    try:
        return _load(text)
    except yaml.YAMLError as error:
        raise UserError(f"cannot read the value {_shorten(text)}: {_explain(error)[1]}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Return what a YAML file holds; an empty file is an empty mapping.

    Raises:
        UserError: The file is missing or unreadable, is no YAML, repeats a key, or holds something
            else than a mapping; the message begins with ``file:line``.
    """
    try:
        with path.open("rb") as file:
            # Bounded: the path may also be a pipe, or a device that never ends.
            found = file.read(_MAX_BYTES + 1)
        text = found.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UserError(f"{path}: cannot be read: {reason}") from error
    if len(found) > _MAX_BYTES:
        raise UserError(f"{path}: the file is too large for settings: more than {_MAX_BYTES:,} bytes")
    try:
        settings = _load(text)
    except yaml.YAMLError as error:
        line, problem = _explain(error)
        raise UserError(f"{path}{line}: {problem}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise UserError(f"{path}:1: expected a mapping of settings, found {_shorten(settings)}")
    return settings


def dump(settings: dict[str, Any]) -> str:
    """Return settings as YAML that ``read_mapping`` reads back identically."""
    return yaml.dump(settings, Dumper=_Dumper, sort_keys=False, width=100)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
