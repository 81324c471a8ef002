"""The quarantine in a run of two processes: what one of them drops, both do."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

PROGRAM = """
import os, sys
import torch
from faulty_point import FaultyPoint
from small_configs import ppo_cfg
from sim_rl_plugin.runners import OnPolicyRunner

rank = int(os.environ["RANK"])
cfg = {**ppo_cfg(num_learning_epochs=1, num_mini_batches=2), "num_steps_per_env": 8}
# The second process: one environment breaks in the second iteration, and all of them in the third.
calls = {8 + 3, 16 + 3} if rank else set()
env = FaultyPoint("state", [1], calls, seed=rank)
step = env.step
def stepped(actions):
    env.envs = list(range(8)) if env.call >= 16 else [1]
    return step(actions)
env.step = stepped
torch.manual_seed(rank)
runner = OnPolicyRunner(env, cfg)
def weights():
    return torch.cat([p.detach().reshape(-1) for p in runner.alg.actor.parameters()]).double().sum().item()
told = []
for _ in range(4):
    runner.learn(1)
    told.append(f"{weights():.12f}/{int(runner._guard.metrics().get('Quarantine/dropped', 0))}")
print("RESULT", *told)
torch.distributed.destroy_process_group()
"""


def test_what_one_process_drops_both_drop():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(TESTS), *sys.path])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (out.split("RESULT ")[1].split() for out, _ in outputs)
    assert first == second
    sums, dropped = zip(*(entry.split("/") for entry in first), strict=True)
    assert dropped == ("0", "0", "1", "0")
    assert sums[2] == sums[1]
    assert len(set(sums)) == 3
