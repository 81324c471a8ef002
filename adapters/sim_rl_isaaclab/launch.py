"""Starts what Isaac Lab simulates on, once in a process, before any of its environments is imported.

Up to 2.3 that is Isaac Sim, through ``AppLauncher``. Since 3.0 it depends on the task's physics, its cameras and
the visualizers, and is started for a configuration, through ``launch_simulation``; with Newton there is
nothing to start. Either way it lives as long as the process.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sim_rl_plugin.errors import UserError

_PARTS_OF_ISAAC_SIM = ("isaacsim", "omni", "carb")


@dataclass(frozen=True)
class LaunchOptions:
    """How the simulator shall be started.

    Attributes:
        device: Device of the physics, such as ``cuda:0``.
        headless: Without a window.
        enable_cameras: With rendering, which cameras and videos need.
        arguments: Further arguments of the simulator's launcher, as on its command line.
    """

    device: str
    headless: bool = True
    enable_cameras: bool = False
    arguments: tuple[str, ...] = ()


_started: LaunchOptions | None = None
_runtime = contextlib.ExitStack()


def is_distributed() -> bool:
    """Return whether a launcher such as torchrun has started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def own_device(device: str) -> str:
    """Return the device of this process: in a distributed run, ``cuda:<local rank>``.

    Raises:
        UserError: A distributed run on the CPU, which Isaac Lab does not have.
    """
    if not is_distributed():
        return device
    if not device.startswith("cuda"):
        raise UserError(f"device: Isaac Lab runs in several processes on CUDA devices only, found {device!r}")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def own_seed(seed: int) -> int:
    """Return the seed of this process: its rank is added, so that no two simulate the same."""
    # The rank among all: Isaac Lab 2.x adds the local one, with which two nodes see the same episodes.
    return seed + (int(os.environ.get("RANK", "0")) if is_distributed() else 0)


def starts_before_configurations() -> bool:
    """Return whether the simulator must run before a task's configuration can be imported: up to 2.3.

    Raises:
        UserError: That simulator, Isaac Sim, is not installed; its package is none of Isaac Lab's requirements.
    """
    try:
        app = importlib.import_module("isaaclab.app")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PARTS_OF_ISAAC_SIM:
            raise
        raise UserError(
            f"this Isaac Lab runs on Isaac Sim, which is not installed (there is no module {error.name!r}): install it "
            "from NVIDIA's package index as Isaac Lab's documentation says, or take Isaac Lab 3 (Python 3.12), which "
            "brings Newton"
        ) from error
    return not hasattr(app, "launch_simulation")


def start_app(options: LaunchOptions) -> None:
    """Start Isaac Sim through ``AppLauncher``; nothing happens if it runs already.

    Raises:
        UserError: It was started without cameras, which are wanted now, or its launcher refuses an argument.
    """
    if _runs_already(options):
        return
    launcher_class = importlib.import_module("isaaclab.app").AppLauncher
    arguments = _parse(launcher_class.add_app_launcher_args, options)
    with _own_command_line():
        launcher = launcher_class(arguments)
    atexit.register(launcher.app.close)
    _note(options)


def start_for(env_cfg: Any, options: LaunchOptions) -> None:
    """Start what a configuration of Isaac Lab 3 needs; nothing happens if that was done before.

    Raises:
        UserError: The launcher refuses an argument.
    """
    app = importlib.import_module("isaaclab.app")
    if _runs_already(options):
        # Resolves what the configuration leaves to the launcher, such as its physics, without starting anything.
        app.validate_launch(env_cfg, _parse(app.add_launcher_args, options))
        return
    arguments = _parse(app.add_launcher_args, options)
    with _own_command_line():
        _runtime.enter_context(app.launch_simulation(env_cfg, arguments))
    atexit.register(_runtime.close)
    _note(options)


def new_stage() -> None:
    """Empty Isaac Sim's stage, on which an earlier environment may have left its robots."""
    if "omni.usd" in sys.modules or importlib.util.find_spec("omni") is not None:
        with contextlib.suppress(ImportError, AttributeError):
            importlib.import_module("omni.usd").get_context().new_stage()


def _note(options: LaunchOptions) -> None:
    global _started
    _started = options


def _runs_already(options: LaunchOptions) -> bool:
    if _started is None:
        return False
    if options.enable_cameras and not _started.enable_cameras:
        raise UserError(
            "the simulator was started without cameras, and there is one per process: say env.enable_cameras=true "
            "to film the policy after the training, or film it later with `sim-rl play RUN --video FILE`"
        )
    return True


def _parse(add_arguments: Any, options: LaunchOptions) -> argparse.Namespace:
    """Return the launcher's arguments, those that we decide among them."""
    parser = argparse.ArgumentParser(prog="env.launcher", add_help=False, allow_abbrev=False)
    add_arguments(parser)
    known = {action.dest for action in parser._actions}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            arguments = parser.parse_args(list(options.arguments))
    except SystemExit as error:
        reason = " ".join(complaint.getvalue().split()).rpartition("error: ")[2]
        flags = sorted(flag for action in parser._actions for flag in action.option_strings if flag.startswith("--"))
        raise UserError(f"env.launcher: {reason}; Isaac Lab's launcher takes {', '.join(flags)}") from error
    for name, flag in (("device", "device"), ("headless", "env.headless"), ("enable_cameras", "env.enable_cameras")):
        if any(argument.partition("=")[0] == f"--{name}" for argument in options.arguments):
            raise UserError(f"env.launcher: --{name} is set by {flag}")
    arguments.device = options.device
    if "device_explicit" in known or hasattr(arguments, "device_explicit"):
        arguments.device_explicit = True
    arguments.headless = options.headless
    arguments.enable_cameras = options.enable_cameras
    arguments.distributed = is_distributed()
    if not options.headless and "visualizer" in known and arguments.visualizer is None:
        arguments.visualizer = ["kit"]
    return arguments


@contextlib.contextmanager
def _own_command_line() -> Any:
    """Hide our command line from Kit, which reads ``sys.argv`` and puts its own arguments there."""
    before, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = before


def as_arguments(arguments: Sequence[str] | None) -> tuple[str, ...]:
    """Return launcher arguments as a tuple of strings."""
    return tuple(str(argument) for argument in arguments or ())
