"""A simulator for sweeps: ``PointEnv`` with a reward that a setting adds to, accidents, and kills of the sweep.

If ``SWEEP_LAB_STEPS`` names a file, every step adds a byte to it, and the one that makes it ``SWEEP_LAB_AT`` bytes
long sends ``SWEEP_LAB_SIGNAL`` to the process that started this one: the sweep's.
"""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

from sim_rl_plugin.testing import PointEnv

MODEL = {"class_name": "MLPModel", "hidden_dims": [8]}

TRAIN = {
    "simulator": "sweep_lab:open_task",
    "task": "Go",
    "num_envs": 4,
    "num_steps_per_env": 8,
    "save_interval": 2,
    "logger": ["csv"],
    "console": False,
    "torch_num_threads": 1,
    "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
    "algorithm": {"num_learning_epochs": 1, "num_mini_batches": 2},
    "actor": MODEL,
    "critic": MODEL,
}


class Points(PointEnv):
    """Points whose every step earns ``bonus`` more."""

    def __init__(self, *args, bonus: float, accident: str, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._bonus, self._accident = bonus, accident

    def step(self, actions):
        if self._accident == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._accident == "error":
            raise RuntimeError("the motor\nis hot")
        if "SWEEP_LAB_STEPS" in os.environ:
            steps = Path(os.environ["SWEEP_LAB_STEPS"])
            with steps.open("ab") as file:
                file.write(b".")
            if steps.stat().st_size == int(os.environ["SWEEP_LAB_AT"]):
                os.kill(os.getppid(), getattr(signal, os.environ["SWEEP_LAB_SIGNAL"]))
        obs, rewards, dones, extras = super().step(actions)
        return obs, rewards + self._bonus, dones, extras


@contextmanager
def open_task(
    task: str, *, num_envs: int, device: str, seed: int, render: bool, bonus: float = 0.0, accident: str = ""
):
    yield Points(num_envs, max_episode_length=6, device=device, seed=seed, bonus=bonus, accident=accident)
