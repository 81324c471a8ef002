"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(path_type=Path)

run_argument = click.argument("run", type=FILE)
simulator_option = click.option("--sim", "simulator", metavar="NAME", help="Simulator (`sim-rl list` shows them).")
task_option = click.option("--task", metavar="NAME", help="Task of the simulator.")
device_option = click.option("--device", metavar="NAME", help="cpu, cuda:0 or auto.")
seed_option = click.option("--seed", type=click.IntRange(min=0), help="Seed of every random number.")
best_option = click.option(
    "--best", is_flag=True, help="Take the best policy of the evaluations while training, not the last."
)
trust_option = click.option(
    "--trust", is_flag=True, help="Load a checkpoint that holds more than plain data. This runs code that is in it."
)
num_envs_option = click.option(
    "--num-envs", type=click.IntRange(min=1), help="Number of environments that are stepped together."
)
