"""``sim-rl train``: from a task's name to a trained policy, with its curve, its video and its score."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from sim_rl_plugin.cli import options
from sim_rl_plugin.cli.eval import describe_result
from sim_rl_plugin.cli.launch_options import launch_options, launch_request
from sim_rl_plugin.cli.plot import default_label
from sim_rl_plugin.config import RunConfig, load_config, with_overrides
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import EVALUATION_SEED_OFFSET, evaluate
from sim_rl_plugin.launchers import choose_launcher
from sim_rl_plugin.launchers.starts import earlier_start, note_start
from sim_rl_plugin.plotting import plot_curves, read_curve
from sim_rl_plugin.ranks import Place, by_rank_0, device_of, join, leave
from sim_rl_plugin.run_folder import (
    METRICS_FILE,
    SavedRun,
    find_run,
    given_run_folder,
    holds_checkpoints,
    new_run_folder,
    owned_run,
    take_latest_run,
)
from sim_rl_plugin.runners.stop_signal import leaving_at_once
from sim_rl_plugin.simulation import open_env, resolve_device
from sim_rl_plugin.training import Outcome, train_to_the_end
from sim_rl_plugin.video import step_time_s, write_video

_VIDEO_TIME_S = 10.0


@click.command("train")
@options.simulator_option
@options.task_option
@click.option("--config", "config_file", type=options.FILE, metavar="FILE", help="Settings that lie on the task's own.")
@options.num_envs_option
@options.device_option
@options.seed_option
@click.option("--max-iterations", type=click.IntRange(min=1), help="Iterations in all, those before a resume included.")
@click.option("--run-dir", type=options.FILE, metavar="DIR", help="Run folder, instead of one named by task and time.")
@click.option("--runs-root", type=options.FILE, default=Path("runs"), show_default=True, help="Folder of run folders.")
@click.option("--resume", type=options.FILE, metavar="RUN", help="Continue a run: its folder, or a checkpoint.")
@click.option(
    "--resume-latest",
    is_flag=True,
    help="Continue the latest run of this task if there is one to continue, or start one.",
)
@options.trust_option
@click.option(
    "--fast/--no-fast",
    default=None,
    help="Passes written by hand where they give the same numbers (default), or never.",
)
@click.option("--eval-episodes", type=click.IntRange(min=0), default=10, show_default=True, help="Episodes at the end.")
@click.option("--video/--no-video", default=True, show_default=True, help="Film the trained policy.")
@launch_options
@click.argument("overrides", nargs=-1)
def train(trust: bool, launch: dict[str, Any], **arguments: Any) -> None:
    """Train a policy, and write checkpoints, logs, a learning curve and a video to a run folder.

    OVERRIDES set anything: algorithm.learning_rate=3e-4 actor.hidden_dims=[256,128] env.num_threads=4.
    Without --sim, the simulator is MuJoCo. Ctrl-C, SIGTERM and SIGUSR1 save a checkpoint and end the training,
    with status 130, 143 and 75: run the same command with --resume-latest to go on. With --nproc-per-node, the
    environments are divided among that many processes, which learn together.
    """
    resume = arguments["resume"]
    if trust and resume is None:
        raise click.UsageError("--trust goes with --resume, and says that its checkpoint may run code")
    if resume is not None:
        if arguments["resume_latest"]:
            raise click.UsageError("--resume-latest does not go with --resume, which names a run")
        for option, key in (("--config", "config_file"), ("--run-dir", "run_dir")):
            if arguments[key] is not None:
                raise click.UsageError(f"{option} does not go with --resume, which continues with a run's own")
    request = launch_request("sim_rl_plugin.cli.train:train_here", {"trust": trust, **arguments}, **launch)
    status = choose_launcher(request, launch["launcher"], arguments["simulator"])(request)
    if status:
        raise click.exceptions.Exit(status)


def train_here(
    config_file: Path | None,
    run_dir: Path | None,
    runs_root: Path,
    resume: Path | None,
    resume_latest: bool,
    trust: bool,
    eval_episodes: int,
    video: bool,
    overrides: tuple[str, ...],
    **given: Any,
) -> int:
    """Train in this process, the only one or one of many, and return its exit status; see ``train``."""
    place = Place.here()
    start = earlier_start()
    if start is not None:
        # This launch has a run folder already, and lost the processes that were training in it.
        run_dir, resume, resume_latest = (run_dir, start, False) if resume is not None else (start, None, True)
    if not place.is_first:
        warnings.simplefilter("ignore")
    with leaving_at_once(), ExitStack() as owned:

        def choose() -> tuple[SavedRun | None, RunConfig]:
            if resume is not None:
                return _resumed_settings(resume, trust, overrides, given, owned)
            config = load_config(given.pop("simulator"), given.pop("task"), config_file, overrides, given)
            saved = _latest(run_dir, runs_root, config, overrides, given, owned) if resume_latest else None
            return saved, config if saved is None else with_overrides(saved.settings, overrides, given)

        if place.is_distributed:
            join()
            owned.callback(leave)
        saved, config = by_rank_0(choose) if place.is_distributed else choose()
        if saved is not None and resume is None and saved.is_complete(config):
            _say(f"complete: {saved.folder} has {_why_complete(saved, config)}")
            return 0
        if start is not None:
            where = "the beginning" if saved is None else saved.checkpoint
            _say(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', '')} goes on from {where}")
        return _train(config, saved, run_dir, runs_root, eval_episodes, video)


def _say(line: str) -> None:
    """Print a line, once for all processes."""
    if Place.here().is_first:
        click.echo(line)


def _train(
    config: RunConfig, saved: SavedRun | None, run_dir: Path | None, runs_root: Path, eval_episodes: int, video: bool
) -> int:
    place = Place.here()
    device = device_of(resolve_device(config.device), place)
    outcome = train_to_the_end(
        config,
        device,
        lambda: note_start(_run_folder(saved, run_dir, runs_root, config)),
        saved,
        started=lambda folder: click.echo(f"run folder: {folder}"),
    )
    leave()
    if not place.is_first:
        return outcome.exit_status
    rows = {"checkpoint": str(find_run(outcome.folder).checkpoint), "learning curve": _plot(outcome.folder)}
    if outcome.interrupted:
        rows["stopped"] = f"after {outcome.completed} of {config.max_iterations} iterations"
        rows["continue with"] = f"sim-rl train --resume {outcome.folder}"
    else:
        if outcome.reached_return is not None:
            rows["complete"] = f"return {outcome.reached_return:.1f} reached after {outcome.completed} iterations"
        if outcome.on_plateau:
            rows["complete"] = f"no better evaluation any more, after {outcome.completed} iterations"
        if video:
            rows["video"] = _attempt(lambda: _film(config, device, outcome))
        if eval_episodes:
            rows["evaluation"] = _attempt(lambda: _evaluate(config, device, outcome, eval_episodes))
    _print_summary(rows)
    return outcome.exit_status


def _why_complete(saved: SavedRun, config: RunConfig) -> str:
    if saved.completed_iterations >= config.max_iterations:
        return f"done all of its {config.max_iterations} iterations"
    return "stopped improving" if saved.is_on_plateau(config) else "reached its return"


def _resumed_settings(
    resume: Path, trust: bool, overrides: tuple[str, ...], given: dict[str, Any], owned: ExitStack
) -> tuple[SavedRun, RunConfig]:
    """Return the run of ``--resume``, whose folder is then owned, and the resolved settings."""
    if resume.exists():
        # Before its last checkpoint is looked for: another process might write one more.
        owned.enter_context(owned_run(resume if resume.is_dir() else resume.parent))
    saved = find_run(resume, trust=trust)
    return saved, with_overrides(saved.settings, overrides, given)


def _latest(
    run_dir: Path | None,
    runs_root: Path,
    config: RunConfig,
    overrides: tuple[str, ...],
    given: dict[str, Any],
    owned: ExitStack,
) -> SavedRun | None:
    """Return the run that ``--resume-latest`` means, whose folder is then owned; None to start afresh."""
    if run_dir is None:
        return take_latest_run(
            runs_root,
            config,
            lambda run: run.is_complete(with_overrides(run.settings, overrides, given)),
            owned,
            lambda line: click.echo(line, err=True),
        )
    if not run_dir.is_dir():
        return None
    owned.enter_context(owned_run(run_dir))
    if not holds_checkpoints(run_dir):
        return None
    saved = find_run(run_dir)
    for key in ("simulator", "task"):
        found, wanted = saved.settings.get(key), getattr(config, key)
        if found != wanted:
            raise UserError(f"--run-dir: {run_dir} holds a run of the {key} {found!r}, not {wanted!r}")
    return saved


def _run_folder(saved: SavedRun | None, run_dir: Path | None, runs_root: Path, config: RunConfig) -> Path:
    if saved is not None:
        return saved.folder
    return new_run_folder(runs_root, config) if run_dir is None else given_run_folder(run_dir)


def _plot(folder: Path) -> str:
    try:
        curve = read_curve(folder / METRICS_FILE, default_label(folder))
        return str(plot_curves([curve], folder / "learning_curve.png"))
    except (UserError, OSError) as error:
        return f"none: {error}"


def _film(config: RunConfig, device: str, outcome: Outcome) -> str:
    seed = config.seed + EVALUATION_SEED_OFFSET
    with open_env(config, device=device, num_envs=1, seed=seed, render=True) as env:
        num_steps = max(1, round(_VIDEO_TIME_S / step_time_s(env)))
        return str(write_video(outcome.policy, env, outcome.folder / "video.mp4", num_steps))


def _evaluate(config: RunConfig, device: str, outcome: Outcome, episodes: int) -> str:
    seed = config.seed + EVALUATION_SEED_OFFSET
    with open_env(config, device=device, num_envs=episodes, seed=seed) as env:
        return describe_result(evaluate(outcome.policy, env, episodes))


def _attempt(make: Callable[[], str]) -> str:
    """Return what ``make`` returns, or one line that says why not: the training itself is done and saved."""
    try:
        return make()
    except KeyboardInterrupt:
        return "none: interrupted"
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"none: {reason}"


def _print_summary(rows: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    for name, value in rows.items():
        table.add_row(name, value)
    # Wide enough for every path: a path that is broken over two lines cannot be copied.
    width = max(map(len, rows)) + max(map(len, rows.values())) + 4
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, width)
    console.print(table)
