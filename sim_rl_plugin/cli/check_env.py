"""``sim-rl check-env``: does an adapter keep the contract?"""

from __future__ import annotations

import click

from sim_rl_plugin.cli import options


@click.command("check-env")
@options.simulator_option
@options.task_option
@click.option("--num-envs", type=click.IntRange(min=1), default=8, show_default=True, help="Number of environments.")
@options.device_option
@options.seed_option
@click.argument("overrides", nargs=-1)
def check_env_command(
    simulator: str | None,
    task: str | None,
    num_envs: int,
    device: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Step a task's environment and report where it breaks the contract of VecEnv.

    OVERRIDES such as env.max_episode_steps=50 set options of the adapter. The exit status is 1 if
    there is an error, and 0 if there are only warnings.
    """
    from sim_rl_plugin.config import load_config
    from sim_rl_plugin.env.check import check_env
    from sim_rl_plugin.simulation import open_env, prepare_process, resolve_device

    given = {"num_envs": num_envs, "device": device, "seed": seed}
    config = load_config(simulator, task, None, overrides, given)
    prepare_process(config)
    with open_env(config, device=resolve_device(config.device)) as env:
        problems = check_env(env)
    for problem in problems:
        click.echo(f"{problem.severity}: {problem.code}: {_where(problem)}{problem.message}")
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    click.echo(f"{config.task} on {config.simulator}: {_count(errors, 'error')}, {_count(warnings, 'warning')}")
    if errors:
        raise click.exceptions.Exit(1)


def _where(problem: object) -> str:
    where = getattr(problem, "where", "")
    return f"{where}: " if where else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
