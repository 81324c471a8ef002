"""``PointEnv`` as a simulator of one's own, with faults that a test asks for.

``FAULTS`` holds them as ``kind:rank:step``, divided by commas. Each happens once: a file in ``FAULT_FOLDER`` remembers.
"""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.testing import PointEnv


class FaultyPoints(PointEnv):
    """Breaks when it is time to."""

    calls = 0

    def step(self, actions):
        self.calls += 1
        if "STEP_S" in os.environ:
            time.sleep(float(os.environ["STEP_S"]))
        happen(self.calls)
        return super().step(actions)


def happen(step: int) -> None:
    for fault in filter(None, os.environ.get("FAULTS", "").split(",")):
        kind, rank, at = fault.split(":")
        done = Path(os.environ["FAULT_FOLDER"]) / fault.replace(":", "_")
        if rank != os.environ.get("RANK", "0") or int(at) != step or done.exists():
            continue
        done.write_text(str(os.getpid()))
        if kind == "hang":
            time.sleep(600)
        elif kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "refuse":
            raise UserError("this simulator has no licence")
        elif kind == "block":
            # Where the checkpoint of the second iteration is to be written, there is a folder that is not empty.
            (Path(os.environ["RUN"]) / "model_1.pt" / "full").mkdir(parents=True)


@contextmanager
def open_points(num_envs: int, seed: int):
    happen(0)
    note = Path(os.environ["FAULT_FOLDER"]) / f"opened_by_{os.environ.get('RANK', '0')}"
    with note.open("a") as file:
        file.write(f"{num_envs} {seed}\n")
    yield FaultyPoints(num_envs, max_episode_length=10, seed=seed)
