"""Options that say in how many processes a training runs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.launchers import LaunchRequest

_OPTIONS: list[Callable[[Any], Any]] = [
    click.option(
        "--launcher", default="auto", show_default=True, metavar="NAME",
        help="Who starts the processes: auto, in-process, torchrun, environment (they are there), or a plugin's.",
    ),
    click.option(
        "--nproc-per-node", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
        help="Processes on this machine; the environments are divided among all.",
    ),
    click.option(
        "--nnodes", default="1", show_default=True, metavar="M or MIN:MAX",
        help="Machines, on each of which this command is run; as many as there are, from MIN to MAX.",
    ),
    click.option("--rdzv-endpoint", default="", metavar="HOST:PORT", help="Where the machines find each other."),
    click.option("--rdzv-id", default="", metavar="NAME", help="What their training is called, the same on all."),
    click.option("--rdzv-conf", default="", metavar="KEY=VALUE,...", help="Settings of PyTorch's c10d rendezvous."),
    click.option("--local-addr", default="", metavar="ADDRESS", help="This machine's, if its name does not tell it."),
    click.option(
        "--max-restarts", type=click.IntRange(min=0), default=None, metavar="N",
        help="How often to start again from the last checkpoint after a process has failed "
        "(default: 3 with several processes).",
    ),
]  # fmt: skip

_NAMES = ("launcher", "nproc_per_node", "nnodes", "rdzv_endpoint", "rdzv_id", "rdzv_conf", "local_addr", "max_restarts")
_DEFAULT_RESTARTS = 3


def launch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets them as one dict ``launch``."""

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> Any:
        return command(launch={name: arguments.pop(name) for name in _NAMES}, **arguments)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def launch_request(
    target: str,
    arguments: Mapping[str, Any],
    *,
    launcher: str,
    nproc_per_node: int,
    nnodes: str,
    rdzv_endpoint: str,
    rdzv_id: str,
    rdzv_conf: str,
    local_addr: str,
    max_restarts: int | None,
) -> LaunchRequest:
    """Return what the options ask a launcher for.

    Raises:
        UserError: An option has no meaning, or another one is missing beside it.
    """
    nodes = _nodes(nnodes)
    if nodes[1] > 1:
        _check_machines(rdzv_endpoint, rdzv_id, arguments.get("run_dir"), arguments.get("resume_latest", False))
    elif rdzv_conf and not rdzv_endpoint:
        raise UserError("--rdzv-conf: a training on one machine has no rendezvous to set")
    if max_restarts is None:
        max_restarts = _DEFAULT_RESTARTS if nproc_per_node > 1 or nodes[1] > 1 else 0
    return LaunchRequest(
        target,
        dict(arguments),
        nproc_per_node=nproc_per_node,
        nnodes=nodes,
        rdzv_endpoint=rdzv_endpoint,
        rdzv_id=rdzv_id,
        rdzv_conf=_settings(rdzv_conf),
        local_addr=local_addr,
        max_restarts=max_restarts,
    )


def _check_machines(endpoint: str, name: str, run_dir: Path | None, resume_latest: bool) -> None:
    for option, value in (("--rdzv-endpoint HOST:PORT", endpoint), ("--rdzv-id NAME", name)):
        if not value:
            raise UserError(f"--nnodes: machines find each other by {option}, the same on each of them")
    if run_dir is None or not resume_latest:
        raise UserError(
            "--nnodes: machines that shall train together, and go on together after one has failed, need "
            "--run-dir DIR on a file system that all of them see, and --resume-latest"
        )


def _nodes(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise UserError(f"--nnodes: expected a number of machines, or fewest and most as in 1:4, found {text!r}")
    return low, high


def _settings(text: str) -> dict[str, str]:
    settings = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--rdzv-conf: expected key=value, and commas between several, found {part!r}")
        settings[key.strip()] = value.strip()
    return settings
