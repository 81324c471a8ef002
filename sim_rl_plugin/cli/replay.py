"""``sim-rl replay``: see NaN or infinity from a simulator happen again."""

from __future__ import annotations

from pathlib import Path

import click

from sim_rl_plugin.cli import options
from sim_rl_plugin.config import with_overrides
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.replay import ReplayedFault, read_dump, replay_fault
from sim_rl_plugin.simulation import open_env, prepare_process, resolve_device


@click.command("replay")
@click.argument("dump", type=options.FILE)
@options.device_option
def replay(dump: Path, device: str | None) -> None:
    """Repeat the steps that led to a fault, from DUMP, a file in a run's quarantine/ folder.

    Exits with status 1 if the fault of the dump does not come back.
    """
    contents = read_dump(dump)
    settings = contents["config"]
    for key in ("simulator", "task"):
        if key not in settings:
            raise UserError(
                f"{dump} was written by a script's own training, without {key}: "
                "open the environment and call sim_rl_plugin.replay.replay_fault(env, dump)"
            )
    config = with_overrides({**settings, "logger": []}, options={"device": device})
    prepare_process(config)
    with open_env(config, device=resolve_device(config.device), num_envs=contents["num_envs"]) as env:
        replayed = replay_fault(env, contents)
    click.echo(
        f"{config.task} on {config.simulator}, iteration {contents['iteration']}, "
        f"{contents['num_faults']} of {contents['num_envs']} environments"
    )
    for fault in replayed:
        click.echo(describe(fault))
    if not all(fault.came_back or fault.by_policy for fault in replayed):
        raise click.exceptions.Exit(1)


def describe(fault: ReplayedFault) -> str:
    """Return what became of a fault on one line."""
    exactly = "the same observations bit for bit"
    if fault.first_difference is not None:
        exactly = f"observations differ from step {fault.first_difference} on"
    if fault.by_policy:
        outcome = "was the policy's, which is not repeated"
    else:
        outcome = "came back" if fault.came_back else "did not come back"
    return f"environment {fault.env}, step {fault.steps}: {fault.part} {outcome}; {exactly}"
