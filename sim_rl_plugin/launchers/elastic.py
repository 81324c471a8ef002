"""torchrun's elastic agent: starts the processes of this machine, and starts them again when one of them fails.

The agent is PyTorch's. What is ours is what a process does (``run_rank``) and what becomes of the agent's answers.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sys
import tempfile
import uuid
from typing import TYPE_CHECKING, Any

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.launchers.starts import LAUNCH_FOLDER
from sim_rl_plugin.runners.stop_signal import EXIT_STATUS, status_of

if TYPE_CHECKING:
    from sim_rl_plugin.launchers.request import LaunchRequest

_LOST = 76
"""Exit status of a rank that has lost the others: ``EX_PROTOCOL``."""

_STOP_TIMEOUT_S = 60
"""How long ranks may take to end an iteration and to write a checkpoint once they are told to stop."""

_USER_ERROR = 2


def launch(request: LaunchRequest) -> int:
    """Start the processes of this machine, wait for them, and return the status of the first.

    Raises:
        UserError: What one of them raised, or why they failed after the last restart.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError, RendezvousTimeoutError
    from torch.distributed.launcher.api import elastic_launch

    folder = tempfile.mkdtemp(prefix="sim-rl-launch-")
    os.environ[LAUNCH_FOLDER] = folder
    # A store that outlives a restart still holds the addresses of processes that are gone, and new ones dial them.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    try:
        answers = elastic_launch(_config(request, folder), run_rank)(request)
    except SignalException as error:
        return EXIT_STATUS.get(error.sigval, 128 + error.sigval)
    except ChildFailedError as error:
        raise UserError(_described(error, request.max_restarts)) from None
    except (RendezvousConnectionError, RendezvousTimeoutError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--rdzv-endpoint {request.rdzv_endpoint}: the machines do not meet: {reason}") from error
    finally:
        del os.environ[LAUNCH_FOLDER]
        shutil.rmtree(folder, ignore_errors=True)
    status, message = answers[min(answers)]
    if message:
        raise UserError(message)
    return status


def run_rank(request: LaunchRequest) -> tuple[int, str]:
    """Be one process; return its exit status and what the user must hear, which do not start it again.

    Raises:
        SystemExit: It was stopped by a signal, or has lost the others. If the launcher did not send that signal, it
            starts all again.
    """
    import click
    import torch

    from sim_rl_plugin.ranks import LostRanks, pin_device

    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C on the terminal is the launcher's, who passes it on
    if request.pins_devices:
        pin_device(os.environ)
    try:
        status = request.run()
    except LostRanks as error:
        print(f"rank {os.environ['RANK']}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(_LOST) from None
    except (UserError, click.ClickException) as error:
        return _USER_ERROR, error.format_message() if isinstance(error, click.ClickException) else str(error)
    except KeyboardInterrupt as error:
        raise SystemExit(status_of(error)) from None
    except (torch.distributed.DistError, RuntimeError) as error:
        if not _is_loss(error):
            raise
        print(f"rank {os.environ['RANK']} has lost the others: {_one_line(error)}", file=sys.stderr, flush=True)
        raise SystemExit(_LOST) from None
    if status in EXIT_STATUS.values():
        raise SystemExit(status)
    return status, ""


def _config(request: LaunchRequest, folder: str) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    is_alone = request.nnodes == (1, 1) and not request.rdzv_endpoint
    options: dict[str, Any] = {
        # The agent waits for what is being written; newer releases of torch let us say so.
        "shutdown_timeout": _STOP_TIMEOUT_S,
        "signals_to_handle": ",".join(signal.Signals(number).name for number in EXIT_STATUS),
    }
    known = {field.name for field in dataclasses.fields(LaunchConfig)}
    return LaunchConfig(
        min_nodes=request.nnodes[0],
        max_nodes=request.nnodes[1],
        nproc_per_node=request.nproc_per_node,
        run_id=request.rdzv_id or str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0" if is_alone else request.rdzv_endpoint,
        rdzv_configs=dict(request.rdzv_conf),
        local_addr="localhost" if is_alone else request.local_addr or None,
        max_restarts=request.max_restarts,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(log_dir=folder),
        **{name: value for name, value in options.items() if name in known},
    )


def _is_loss(error: BaseException) -> bool:
    """Return whether an error says that another process is gone."""
    import torch

    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error).lower() for word in words)


def _described(error: Any, max_restarts: int) -> str:
    """Return in one line which process failed, and how."""
    # Those that have lost the others tell nothing of the reason.
    failures = sorted(error.failures.items(), key=lambda item: (item[1].exitcode == _LOST, item[1].timestamp))
    rank, failure = failures[0]
    if failure.exitcode < 0:
        how = f"was ended by {signal.Signals(-failure.exitcode).name}"
    elif isinstance(failure.message, dict):
        how = f"failed: {_one_line(failure.message.get('message', ''))}"
    else:
        how = f"failed with status {failure.exitcode}"
    restarts = f" after {max_restarts} restarts" if max_restarts else ", and --max-restarts is 0"
    return f"rank {rank} {how}{restarts}: continue the training with --resume or --resume-latest"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
