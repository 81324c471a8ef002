"""``sim-rl play``: look at a trained policy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from sim_rl_plugin.cli import options
from sim_rl_plugin.cli.reuse import config_of_run
from sim_rl_plugin.run_folder import find_run, load_policy
from sim_rl_plugin.simulation import open_env, prepare_process, resolve_device
from sim_rl_plugin.video import show, write_video


@click.command("play")
@options.run_argument
@options.best_option
@options.trust_option
@options.simulator_option
@options.task_option
@click.option("--video", type=options.FILE, metavar="FILE", help="Write an MP4 or GIF instead of opening a window.")
@click.option("--steps", type=click.IntRange(min=1), default=500, show_default=True, help="Control steps to show.")
@options.seed_option
@options.device_option
def play(
    run: Path,
    best: bool,
    trust: bool,
    simulator: str | None,
    task: str | None,
    video: Path | None,
    steps: int,
    seed: int | None,
    device: str | None,
) -> None:
    """Show the deterministic policy of RUN (a run folder or a checkpoint).

    Opens a window; where there is no display, writes play.mp4 into the run folder.
    """
    saved = find_run(run, best=best, trust=trust)
    config = config_of_run(saved, {"simulator": simulator, "task": task, "seed": seed, "device": device})
    where = resolve_device(config.device)
    prepare_process(config)
    with open_env(config, device=where, num_envs=1, render=True) as env:
        policy = load_policy(saved, config, env, where)
        if video is None and _has_display():
            show(policy, env, steps)
        else:
            written = write_video(policy, env, video or saved.folder / "play.mp4", steps)
            click.echo(f"video: {written}")


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
