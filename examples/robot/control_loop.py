"""Drives a robot with an exported policy: onnxruntime and numpy, and whatever talks to the robot.

The robot here is simulated HalfCheetah, in plain MuJoCo. Put your own driver in its place: it has to
measure what the policy's terms are called, and to take what the policy's action terms command.

    sim-rl train --task HalfCheetah
    sim-rl export runs/HalfCheetah/<run> --to onnx
    python control_loop.py runs/HalfCheetah/<run>/policy.onnx
"""

import sys
import time
from pathlib import Path

import mujoco
import numpy as np

from sim_rl_plugin.onnx_policy import OnnxPolicy  # or that one file, copied beside this one

MODEL = Path(__file__).parents[2] / "adapters" / "sim_rl_mujoco" / "assets" / "half_cheetah.xml"


class SimulatedCheetah:
    def __init__(self, control_step_s: float) -> None:
        self._model = mujoco.MjModel.from_xml_path(str(MODEL))
        self._data = mujoco.MjData(self._model)
        self._substeps = round(control_step_s / self._model.opt.timestep)

    @property
    def distance_m(self) -> float:
        return float(self._data.qpos[0])

    def measure(self) -> dict[str, np.ndarray]:
        """Return every observation term by its name; how far the robot has come is not one of them."""
        return {"position": self._data.qpos[1:].copy(), "velocity": self._data.qvel.copy()}

    def command(self, targets: dict[str, np.ndarray]) -> None:
        """Take the targets, and let one control step pass."""
        low, high = self._model.actuator_ctrlrange.T
        self._data.ctrl = np.clip(targets["actuators"], low, high)
        mujoco.mj_step(self._model, self._data, nstep=self._substeps)


def main(path: str, steps: int = 200, in_real_time: bool = True) -> float:
    policy = OnnxPolicy(path)
    period_s = policy.metadata["control_step_s"]
    robot = SimulatedCheetah(period_s)
    policy.reset()
    due_s = time.perf_counter()
    for _ in range(steps):
        action = policy(policy.observe(robot.measure()))
        if not np.isfinite(action).all():
            raise RuntimeError("the policy's action is not finite: stopping")
        robot.command(policy.targets(action))
        due_s += period_s
        if in_real_time:
            # Against the clock, not from step to step, so that late steps do not add up.
            time.sleep(max(0.0, due_s - time.perf_counter()))
    print(f"{steps} steps at {policy.rate_hz:.0f} Hz, {robot.distance_m:.2f} m")
    return robot.distance_m


if __name__ == "__main__":
    main(sys.argv[1])
