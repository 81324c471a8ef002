"""Settings from the command line: ``algorithm.learning_rate=3e-4``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sim_rl_plugin.config.yaml_text import parse_value
from sim_rl_plugin.errors import UserError


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Return overrides as one layer of settings; of two for the same key, the later counts.

    Args:
        overrides: ``KEY=VALUE`` texts, the key dotted, the value YAML.

    Raises:
        UserError: A text has another form, or a key is both a value and a section.
    """
    layer: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise UserError(f"cannot read the override {text!r}: expected KEY=VALUE, as algorithm.learning_rate=3e-4")
        try:
            parsed = parse_value(value)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        _set(layer, parts, parsed)
    return layer


def _set(layer: dict[str, Any], parts: list[str], value: Any) -> None:
    section = layer
    for depth, part in enumerate(parts[:-1], start=1):
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise UserError(f"{'.'.join(parts)}: {'.'.join(parts[:depth])} is set to {section!r} by another override")
    section[parts[-1]] = value
