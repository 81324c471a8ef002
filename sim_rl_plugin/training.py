"""One training from its settings to a trained policy in a run folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sim_rl_plugin.config import RunConfig
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import Policy
from sim_rl_plugin.run_folder import SavedRun, build_runner, write_config
from sim_rl_plugin.simulation import open_env, prepare_process


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        folder: Its run folder.
        policy: The trained policy, deterministic.
        completed: Iterations that are done in all.
        interrupted: Whether the user ended it early.
    """

    folder: Path
    policy: Policy
    completed: int
    interrupted: bool


def require_one_process(command: str) -> None:
    """Refuse a launcher that has started several processes.

    Raises:
        UserError: ``WORLD_SIZE`` is more than one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"{command} runs in one process in this version; WORLD_SIZE is set to more")


def train_to_the_end(
    config: RunConfig,
    device: str,
    run_folder: Callable[[], Path],
    saved: SavedRun | None = None,
    started: Callable[[Path], None] = lambda folder: None,
) -> Outcome:
    """Train to ``config.max_iterations``.

    Args:
        config: The settings.
        device: Where to learn, resolved.
        run_folder: Makes the run folder; called once the environment is open, so that a mistake in
            its settings leaves no folder behind.
        saved: The run to continue from its checkpoint; None starts afresh.
        started: Called with the run folder when the first iteration is about to begin.

    Returns:
        The outcome; ``interrupted`` after a Ctrl-C that left a checkpoint.

    Raises:
        UserError: The settings do not fit the environment, or the run is complete already.
    """
    prepare_process(config)
    with open_env(config, device=device) as env:
        folder = run_folder()
        runner = build_runner(config, env, device, folder)
        if saved is not None:
            runner.resume(str(saved.checkpoint))
        remaining = config.max_iterations - runner.completed_iterations
        if remaining <= 0:
            raise UserError(
                f"{folder} has done {runner.completed_iterations} of {config.max_iterations} iterations already: "
                "say --max-iterations with a larger number to go on"
            )
        write_config(folder, config)
        started(folder)
        try:
            runner.learn(remaining, init_at_random_ep_len=config.init_at_random_ep_len)
        except KeyboardInterrupt:
            # Raised after the runner's checkpoint. Without one, there is nothing to report on.
            if not runner.interrupted:
                raise
        return Outcome(
            folder, runner.get_inference_policy(device=device), runner.completed_iterations, runner.interrupted
        )
