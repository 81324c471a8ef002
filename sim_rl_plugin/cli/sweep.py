"""``sim-rl sweep``: a hyperparameter search."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from sim_rl_plugin.cli import options


@click.command("sweep")
@click.argument("file", type=options.FILE)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Trials at once.")
@click.option(
    "--device", "devices", multiple=True, metavar="NAME", help="cpu, cuda:0 or auto. Of several, trials take turns."
)
@click.option("--run-dir", type=options.FILE, metavar="DIR", help="The sweep's folder, instead of one named like FILE.")
@click.option(
    "--runs-root", type=options.FILE, default=Path("runs"), show_default=True, help="Folder of sweeps/ and runs."
)
@click.option("--report", "only_report", is_flag=True, help="Train nothing: report on what there is.")
@click.argument("overrides", nargs=-1)
def sweep(
    file: Path,
    jobs: int,
    devices: tuple[str, ...],
    run_dir: Path | None,
    runs_root: Path,
    only_report: bool,
    overrides: tuple[str, ...],
) -> None:
    """Search the settings in FILE that train best, in many trainings of which the worse ones are ended early.

    Run the same command again after a kill, a crash or a signal: trials go on from their checkpoints.
    Ctrl-C, SIGTERM and SIGUSR1 save checkpoints and end it, with status 130, 143 and 75. OVERRIDES set
    anything: budget.trials=32 train.num_envs=64.
    """
    from sim_rl_plugin.runners.stop_signal import leaving_at_once, status_of
    from sim_rl_plugin.simulation import resolve_device
    from sim_rl_plugin.sweeps.definition import load_sweep
    from sim_rl_plugin.sweeps.report import best_of, write_report
    from sim_rl_plugin.sweeps.running import read_trials, run_sweep
    from sim_rl_plugin.training import require_one_process

    require_one_process("sim-rl sweep")
    for device in devices:
        resolve_device(device)
    search = load_sweep(file, overrides)
    root = run_dir or runs_root / "sweeps" / file.stem
    click.echo(f"sweep folder: {root}")
    try:
        with leaving_at_once():
            if not only_report:
                run_sweep(search, root, jobs=jobs, devices=devices, say=click.echo)
            records = read_trials(search, root)
            files = write_report(search, records, root)
    except (KeyboardInterrupt, SystemExit) as error:
        status = status_of(error)
        if status is None:
            raise
        click.echo(f"continue with: {_same_command(file, jobs, devices, run_dir, runs_root, overrides)}")
        raise click.exceptions.Exit(status) from None
    best = best_of(search, records)
    if best is not None:
        click.echo(f"best: trial {best.number} with {search.objective.metric} {best.result:.6g}")
    for path in files:
        click.echo(f"written: {path}")


def _same_command(
    file: Path,
    jobs: int,
    devices: tuple[str, ...],
    run_dir: Path | None,
    runs_root: Path,
    overrides: tuple[str, ...],
) -> str:
    """Return the command that goes on."""
    words = ["sim-rl", "sweep", str(file), "--jobs", str(jobs)]
    words += [word for device in devices for word in ("--device", device)]
    words += ["--run-dir", str(run_dir)] if run_dir is not None else ["--runs-root", str(runs_root)]
    return shlex.join([*words, *overrides])
