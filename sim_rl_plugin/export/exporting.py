"""Exports a policy: writes the file, lets it through the gate, and leaves it behind only then."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim_rl_plugin.checkpoint import kept_random_state
from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.export.description import describe
from sim_rl_plugin.export.formats import INSTALL, write_onnx_with, write_pt2_with, write_torchscript_with
from sim_rl_plugin.export.gate import (
    Agreement,
    Recording,
    compare,
    copied_to_cpu,
    record_and_return,
    with_disturbed_copy,
)
from sim_rl_plugin.export.players import OnnxPlayer, Player, Pt2Player, TorchScriptPlayer

SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2"}
"""The formats, and what their files' names end with."""

RECORDED_STEPS = 40

_PLAYERS: dict[str, Any] = {"onnx": OnnxPlayer, "torchscript": TorchScriptPlayer, "pt2": Pt2Player}


@dataclass(frozen=True)
class Exported:
    """A file that has passed the gate.

    Attributes:
        path: The file.
        agreement: How well it acts as the policy; None if that was not checked.
    """

    path: Path
    agreement: Agreement | None


def export_policy(
    policy: Any,
    recording: Recording,
    about: Mapping[str, Any],
    path: Path,
    to: str,
    *,
    dynamic_batch: bool = False,
    verbose: bool = False,
    check: bool = True,
) -> Exported:
    """Write the deterministic policy into a file, run the file, and keep it if it acts as the policy.

    Args:
        policy: The model, see ``copied_to_cpu``.
        recording: What it has seen in its environment.
        about: The description that goes into the file, see ``description``.
        path: The file; what lay there before is replaced only by a file that passes.
        to: One of ``SUFFIXES``.
        dynamic_batch: Let an ONNX or pt2 file take any number of robots at once.
        verbose: Let the exporter print what it does.
        check: False keeps the file unseen.

    Raises:
        UserError: There is no such format, a package is missing, or the file does not act as the policy.
    """
    if to not in SUFFIXES:
        raise unknown_name("export format", to, SUFFIXES)
    if dynamic_batch and to == "torchscript":
        raise UserError("TorchScript keeps the memory of one robot: any number at once takes onnx or pt2")
    unfinished = path.with_name(f".unfinished.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        _write(policy, about, unfinished, to, dynamic_batch, verbose)
        agreement = None
        if check:
            agreement = check_file(policy, recording, about, unfinished, to, dynamic_batch=dynamic_batch)
        if agreement is not None and not agreement.is_enough:
            raise UserError(
                f"the exported policy does not act as the policy, and was not kept: it {agreement}, "
                f"the largest in {agreement.place}"
            )
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return Exported(path, agreement)


def _write(policy: Any, about: Mapping[str, Any], path: Path, to: str, dynamic_batch: bool, verbose: bool) -> None:
    if to == "onnx":
        write_onnx_with(about, policy, path, dynamic_batch, verbose)
    elif to == "torchscript":
        write_torchscript_with(about, policy, path)
    else:
        write_pt2_with(about, policy, path, dynamic_batch)


def check_file(
    policy: Any, recording: Recording, about: Mapping[str, Any], path: Path, to: str, *, dynamic_batch: bool = False
) -> Agreement:
    """Run an exported file beside its policy; the arguments are those of ``export_policy``.

    Raises:
        UserError: The file cannot be run.
    """
    recording = with_disturbed_copy(recording)
    players: list[Player] = [_PLAYERS[to](path, about) for _ in range(1 if dynamic_batch else recording.num_envs)]
    return compare(policy, players, recording)


def export_policy_of(
    runner: Any, to: str, path: Path, *, dynamic_batch: bool = False, verbose: bool = False
) -> Exported:
    """Export the policy of a runner whose environment is in use and stays where it is.

    Args:
        runner: An ``OnPolicyRunner``.
        to: One of ``SUFFIXES``.
        path: The file.
        dynamic_batch: See ``export_policy``.
        verbose: Let the exporter print what it does.

    Raises:
        UserError: See ``export_policy``.
    """
    # rsl_rl's method needs no runtime, and scripts call ours in its place.
    can_run = to != "onnx" or _is_installed("onnxruntime")
    if not can_run:
        warnings.warn(f"{path} was not checked: running it needs onnxruntime ({INSTALL})", stacklevel=3)
    # Of a recurrent network, the exportable form is initialised at random before it is filled.
    with kept_random_state():
        policy = copied_to_cpu(runner.alg.get_policy())
        about = describe(policy, runner.env, runner.layout, runner.cfg)
        about["iteration"] = runner.current_learning_iteration
        recording = record_and_return(policy, runner.env, RECORDED_STEPS)
        return export_policy(
            policy, recording, about, path, to, dynamic_batch=dynamic_batch, verbose=verbose, check=can_run
        )


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
