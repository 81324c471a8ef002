"""One training from its settings to a trained policy in a run folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sim_rl_plugin.config import RunConfig
from sim_rl_plugin.config.schema import EvaluationSettings
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import EVALUATION_SEED_OFFSET, Policy, own_random_numbers
from sim_rl_plugin.folder_lock import LOCK_FILE
from sim_rl_plugin.ranks import Place, by_rank_0, failing_together
from sim_rl_plugin.run_folder import SavedRun, build_runner, owned_run, set_aside_logs, write_config
from sim_rl_plugin.runners.stop_signal import EXIT_STATUS, leave, status_of
from sim_rl_plugin.simulation import open_env, prepare_process
from sim_rl_plugin.whole_file import remove_unfinished


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        folder: Its run folder.
        policy: The trained policy, deterministic.
        completed: Iterations that are done in all.
        reached_return: Mean return of the evaluation that ended the training early; None if none did.
        on_plateau: Whether evaluations that did not improve ended the training early.
        exit_status: What the process shall return: 0, or after a signal that ended it early the signal's.
    """

    folder: Path
    policy: Policy
    completed: int
    reached_return: float | None
    on_plateau: bool
    exit_status: int

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the training early."""
        return self.exit_status != 0

    def leave(self) -> NoReturn:
        """Go on with what the signal began.

        Raises:
            KeyboardInterrupt: It was Ctrl-C's.
            SystemExit: It was another one.
        """
        leave(next(number for number, status in EXIT_STATUS.items() if status == self.exit_status))


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
        The outcome; ``interrupted`` after a signal that left a checkpoint.

    Raises:
        UserError: The settings do not fit the environment, the run is complete already, or another
            process is training in its folder.
    """
    place = Place.here()
    with ExitStack() as stack:
        if saved is not None:
            _require_incomplete(saved, config)
            if place.is_first:
                stack.enter_context(owned_run(saved.folder))
        seed = place.seed(config.seed, config.num_envs, 0 if saved is None else saved.completed_iterations)
        prepare_process(config, seed)
        with failing_together():
            env, evaluation_env = _open_envs(stack, config, device, place, seed)
        unused = stack.enter_context(ExitStack())

        def take_folder() -> Path:
            return _taken_folder(run_folder, saved, stack, unused)

        folder = by_rank_0(take_folder) if place.is_distributed else take_folder()
        with failing_together():
            runner = _prepared_runner(config, env, device, folder, saved, evaluation_env)
        unused.pop_all()
        if place.is_first:
            write_config(folder, config)
            started(folder)
        return _learn(runner, config, folder, device)


def _open_envs(
    stack: ExitStack, config: RunConfig, device: str, place: Place, seed: int
) -> tuple[VecEnv, VecEnv | None]:
    """Open this rank's share of the training's environments, and those for evaluations while training."""
    share = place.share_of(config.num_envs)
    env = stack.enter_context(open_env(config, device=device, num_envs=share.stop - share.start, seed=seed))
    return env, _open_evaluation_env(stack, config, device, beside=env)


def _taken_folder(run_folder: Callable[[], Path], saved: SavedRun | None, stack: ExitStack, unused: ExitStack) -> Path:
    """Return the run folder, which this process owns until ``stack`` ends; ``unused`` takes it away again."""
    folder = run_folder()
    unused.callback(_remove_unused, folder)
    stack.enter_context(owned_run(folder))
    remove_unfinished(folder)
    if saved is None:
        set_aside_logs(folder)
    return folder


def _prepared_runner(
    config: RunConfig, env: VecEnv, device: str, folder: Path, saved: SavedRun | None, evaluation_env: VecEnv | None
) -> Any:
    """Return the runner, with what it starts from."""
    runner = build_runner(config, env, device, folder, saved)
    if evaluation_env is not None:
        _require_evaluations(runner).evaluate_in(evaluation_env)
    if saved is not None:
        runner.resume(str(saved.checkpoint), **saved.load_options)
    elif hasattr(runner, "initialize"):
        runner.initialize()  # before anything is written: what it starts from may not fit
    return runner


def _learn(runner: Any, config: RunConfig, folder: Path, device: str) -> Outcome:
    """Train to the end, or until a signal."""
    exit_status = 0
    try:
        remaining = config.max_iterations - runner.completed_iterations
        runner.learn(remaining, init_at_random_ep_len=config.init_at_random_ep_len)
    except (KeyboardInterrupt, SystemExit) as error:
        # Raised after the runner's checkpoint. Without one, there is nothing to report on.
        status = status_of(error)
        if not runner.interrupted or status is None:
            raise
        exit_status = status
    policy, completed = runner.get_inference_policy(device=device), runner.completed_iterations
    ends = getattr(runner, "reached_return", None), getattr(runner, "on_plateau", False)
    return Outcome(folder, policy, completed, *ends, exit_status)


def _remove_unused(folder: Path) -> None:
    """Take a run folder away again that a mistake has left empty but for its lock."""
    if folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK_FILE]:
        (folder / LOCK_FILE).unlink()
        folder.rmdir()


def _open_evaluation_env(stack: ExitStack, config: RunConfig, device: str, beside: VecEnv) -> VecEnv | None:
    """Open the environments for evaluations while training, if there are to be any; the training notices nothing.

    Raises:
        UserError: The simulator cannot have them beside those of the training.
    """
    settings = EvaluationSettings(**config.evaluation)
    if not settings.every:
        return None
    if getattr(beside, "one_per_process", False):
        raise UserError(
            f"evaluation.every: {config.simulator} simulates one environment per process, and the training has it: set "
            "it to 0, and evaluate checkpoints with `sim-rl eval`"
        )
    seed = config.seed + EVALUATION_SEED_OFFSET
    with own_random_numbers(seed):
        opened = open_env(config, device=device, num_envs=settings.episodes, seed=seed)
        return stack.enter_context(opened)


def _require_evaluations(runner: Any) -> Any:
    """Return the runner if it can evaluate while it trains.

    Raises:
        UserError: It is somebody else's, and cannot.
    """
    if not hasattr(runner, "evaluate_in"):
        raise UserError(f"evaluation.every: the runner {type(runner).__name__} has no evaluate_in: set it to 0")
    return runner


def _require_incomplete(saved: SavedRun, config: RunConfig) -> None:
    """Refuse to go on with a training that is complete.

    Raises:
        UserError: It is, and the message says which setting would go on.
    """
    if saved.completed_iterations >= config.max_iterations:
        raise UserError(
            f"{saved.folder} has done {saved.completed_iterations} of {config.max_iterations} iterations already: "
            "say --max-iterations with a larger number to go on"
        )
    if saved.is_on_plateau(config):
        raise UserError(
            f"{saved.folder} has had {saved.waited} evaluations without improvement already: say a larger "
            "evaluation.patience, or null, to go on"
        )
    if saved.is_complete(config):
        raise UserError(
            f"{saved.folder} has reached a return of {saved.reached_return:.1f} already: say a larger "
            "evaluation.stop_at_return, or null, to go on"
        )
