"""A plugin for tests: ``PointEnv`` as a simulator, and pipelines on it. It can kill its own process.

``policy`` is the position; ``critic`` holds the rest of the episode, too, which is privileged.
"""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

from sim_rl_plugin.hooks import Entry, hookimpl
from sim_rl_plugin.pipelines import Pipeline, Stage
from sim_rl_plugin.testing import PointEnv

MODEL = {"class_name": "MLPModel", "hidden_dims": [8]}


@contextmanager
def open_task(
    task: str, *, num_envs: int, device: str, seed: int, render: bool, max_episode_length: int = 6, obs_size: int = 2
):
    yield PointEnv(num_envs, obs_size=obs_size, max_episode_length=max_episode_length, device=device, seed=seed)


CURRICULUM = Pipeline(
    (
        Stage("easy", "Short episodes", settings={"env": {"max_episode_length": 4}}),
        Stage("hard", "Long ones", inputs=("easy",), continues="easy"),
        Stage("direct", "Long ones from the start", optional=True, same_budget_as=("easy", "hard")),
    ),
    reference="hard",
)


@hookimpl
def sim_rl_adapters():
    return [Entry("points", "point_lab:open_task")]


@hookimpl
def sim_rl_pipelines():
    return [Entry("curriculum", "point_lab:CURRICULUM", "Easy, then hard"), Entry("wrong", "point_lab:MODEL")]


@hookimpl
def sim_rl_default_config(adapter: str, task: str):
    if adapter != "points":
        return None
    return {
        "num_envs": 4,
        "num_steps_per_env": 8,
        "max_iterations": 3,
        "save_interval": 2,
        "logger": ["csv"],
        "console": False,
        "torch_num_threads": 1,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 2},
        "actor": {**MODEL, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 0.5}},
        "critic": MODEL,
    }


@hookimpl
def sim_rl_iteration_end(runner, iteration, metrics):
    """Send the signal of ``POINT_LAB_SIGNAL`` where ``POINT_LAB_AT`` says, as ``stage:iteration``."""
    if runner.logger.log_dir is not None:
        where = f"{Path(runner.logger.log_dir).name}:{iteration}"
        if os.environ.get("POINT_LAB_AT") == where:
            os.kill(os.getpid(), getattr(signal, os.environ["POINT_LAB_SIGNAL"]))
