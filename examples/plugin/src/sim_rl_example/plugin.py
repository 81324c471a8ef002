"""What this package adds to sim-rl. Nothing heavy is imported here."""

from typing import Any

from sim_rl_plugin.hooks import Entry, hookimpl


@hookimpl
def sim_rl_algorithms() -> list[Entry]:
    """Return our algorithm."""
    return [Entry("AnnealedPPO", "sim_rl_example.algorithm:AnnealedPPO", "PPO whose entropy bonus fades")]


@hookimpl
def sim_rl_adapters() -> list[Entry]:
    """Return our simulator."""
    return [
        Entry(
            "torch-pendulum",
            "sim_rl_example.simulator:open_task",
            "A pendulum in torch",
            tasks="sim_rl_example.plugin:task_names",
        )
    ]


@hookimpl
def sim_rl_log_writers() -> list[Entry]:
    """Return our log writer."""
    return [Entry("best", "sim_rl_example.writer:BestLogWriter", "The best reward so far, in a text file")]


@hookimpl
def sim_rl_pipelines() -> list[Entry]:
    """Return our pipeline."""
    return [Entry("torque-curriculum", "sim_rl_example.pipeline:CURRICULUM", "A strong motor first, then the weak one")]


@hookimpl
def sim_rl_default_config(adapter: str, task: str) -> dict[str, Any] | None:
    """Return settings that learn the task, so that nobody needs a config file."""
    if adapter != "torch-pendulum":
        return None
    model = {"class_name": "MLPModel", "hidden_dims": [64, 64], "activation": "tanh", "obs_normalization": True}
    return {
        "num_envs": 256,
        "num_steps_per_env": 32,
        "max_iterations": 100,
        "torch_num_threads": 1,
        "init_at_random_ep_len": True,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "logger": ["csv", "best"],
        "algorithm": {
            "class_name": "AnnealedPPO",
            "entropy_coef": 0.01,
            "final_entropy_coef": 0.0,
            "annealing_updates": 80,
            "gamma": 0.97,
            "num_mini_batches": 8,
        },
        "actor": {**model, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0}},
        "critic": dict(model),
    }


def task_names() -> list[str]:
    """Return the names of our tasks."""
    return ["Swingup"]
