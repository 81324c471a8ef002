"""``sim-rl play``: look at a trained policy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sim_rl_plugin.cli import options
from sim_rl_plugin.cli.reuse import config_of_run
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.evaluation import Policy
from sim_rl_plugin.run_folder import find_run, load_policy
from sim_rl_plugin.simulation import open_env, prepare_process, resolve_device
from sim_rl_plugin.video import show, write_video
from sim_rl_plugin.viewer import view
from sim_rl_plugin.viewer.viewer import import_viser

_STEPS = 500


@click.command("play")
@options.run_argument
@options.best_option
@options.trust_option
@options.simulator_option
@options.task_option
@click.option("--video", type=options.FILE, metavar="FILE", help="Write an MP4 or GIF instead of opening a window.")
@click.option("--web", is_flag=True, help="Show it live in a browser, with controls.")
@click.option("--host", metavar="ADDRESS", help="With --web: 0.0.0.0 for every machine to see and steer. [127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="With --web: 0 for any. [the first free from 8080 on]")
@click.option("--num-envs", type=click.IntRange(min=1), help="With --web: environments to choose from. [1]")
@click.option("--steps", type=click.IntRange(min=1), help=f"Control steps to show. [{_STEPS}; with --web until Ctrl-C]")
@options.seed_option
@options.device_option
def play(
    run: Path,
    best: bool,
    trust: bool,
    simulator: str | None,
    task: str | None,
    video: Path | None,
    web: bool,
    host: str | None,
    port: int | None,
    num_envs: int | None,
    steps: int | None,
    seed: int | None,
    device: str | None,
) -> None:
    """Show the deterministic policy of RUN (a run folder or a checkpoint).

    Opens a window; where there is no display, writes play.mp4 into the run folder.
    """
    if web and video is not None:
        raise click.UsageError("--web shows the policy live: leave --video out")
    for name, value in (("--host", host), ("--port", port), ("--num-envs", num_envs)):
        if value is not None and not web:
            raise click.UsageError(f"{name} is for the web viewer: say --web, too")
    if web:
        import_viser()  # before anything is loaded
    saved = find_run(run, best=best, trust=trust)
    config = config_of_run(saved, {"simulator": simulator, "task": task, "seed": seed, "device": device})
    where = resolve_device(config.device)
    prepare_process(config)

    @contextmanager
    def open_played(seed: int, num_envs: int = 1) -> Iterator[tuple[Policy, VecEnv]]:
        with open_env(config, device=where, num_envs=num_envs, seed=seed, render=True) as env:
            yield load_policy(saved, config, env, where), env

    if web:
        view(
            lambda seed: open_played(seed, num_envs or 1),
            seed=config.seed,
            num_steps=steps,
            host=host or "127.0.0.1",
            port=port,
            title=f"{config.task} on {config.simulator}",
            say=click.echo,
        )
        return
    with open_played(config.seed) as (policy, env):
        if video is None and _has_display():
            show(policy, env, steps or _STEPS)
        else:
            written = write_video(policy, env, video or saved.folder / "play.mp4", steps or _STEPS)
            click.echo(f"video: {written}")


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
