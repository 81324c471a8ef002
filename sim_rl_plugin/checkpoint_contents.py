"""What a checkpoint must look like inside before anything is taken out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sim_rl_plugin.config.signature import check_value
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.layout import check_saved_layout

FORMAT = 1
"""Version of what lies under the key ``sim_rl``."""

_OURS: dict[str, Any] = {
    "version": str,
    "config": dict[str, Any] | None,
    "completed_iterations": int,
    "logger": dict[str, Any],
    "random": dict[str, Any],
    "environment": dict[str, Any] | None,
    "algorithm": dict[str, Any] | None,
    "evaluations": dict[str, Any] | None,
}


def check_contents(contents: Any, path: Path) -> None:
    """Raise unless the contents of a checkpoint, of whatever generation, have the types that they must have.

    Parameters that are NaN make a checkpoint as useless as a damaged file, and are found here, too.

    Raises:
        UserError: With the place of what is wrong.
    """
    if not isinstance(contents, dict) or not any(str(key).endswith("state_dict") for key in contents):
        raise UserError(f"{path} is no checkpoint: it holds no state_dict")
    try:
        check_value(dict[str, Any], contents, "contents")
        for key, value in contents.items():
            if key.endswith("state_dict"):
                _check_state(key, value)
        if "iter" in contents:
            check_value(int, contents["iter"], "iter")
        if "sim_rl" in contents:
            _check_ours(contents["sim_rl"])
    except UserError as error:
        raise UserError(f"the checkpoint {path} is damaged: {error}") from error


def _check_state(key: str, state: Any) -> None:
    check_value(dict[str, Any], state, key)
    if "optimizer" in key:
        return  # its entries are numbered, and its class checks them
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and bool(value.isnan().any()):
            raise UserError(f"{key}: {name} holds NaN")


def _check_ours(ours: Any) -> None:
    check_value(dict[str, Any], ours, "sim_rl")
    written_as = ours.get("format", FORMAT)
    check_value(int, written_as, "sim_rl.format")
    if written_as > FORMAT:
        version = ours.get("version", "unknown")
        raise UserError(f"it was written by a newer version of sim-rl-plugin ({version}), whose format this one "
                        "does not know")  # fmt: skip
    for key, annotation in _OURS.items():
        if key in ours:
            check_value(annotation, ours[key], f"sim_rl.{key}")
    if ours.get("layout") is not None:
        check_saved_layout(ours["layout"], "sim_rl.layout")


def part_of(contents: Mapping[str, Any], key: str) -> Any:
    """Return something that only our own checkpoints hold, or None."""
    return (contents.get("sim_rl") or {}).get(key)


@contextmanager
def explained(path: str, what: str = "does not fit the model of this config") -> Iterator[None]:
    """Turn a complaint about contents that do not fit into one line."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split()).removeprefix("RuntimeError: ")
        raise UserError(f"the checkpoint {path} {what}: {reason}") from error
