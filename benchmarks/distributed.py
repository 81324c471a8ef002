"""Communication of a distributed update: ours beside rsl-rl-lib's scheme, in the same processes, over gloo.

    python benchmarks/distributed.py                # in .venv-peer, two ranks

Both algorithms live in every rank and take turns, a round being one update of each. Counted are the collectives, what
they carry, and how long the ranks spend in them. Then one collective alone, by its size: latency and bandwidth, of
which docs/distributed.md makes a model of many machines. ``--nccl`` runs the last part on GPUs.

    python benchmarks/distributed.py --model        # prints that model's table, and measures nothing
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from tensordict import TensorDict

OURS, PEER = "sim-rl", "rsl-rl-lib"
SIZES = {"small": (64, 64), "standard": (512, 256, 128)}
NUM_ENVS, NUM_STEPS, NUM_OBS, NUM_ACTIONS = 128, 24, 48, 12
EPOCHS, MINI_BATCHES = 5, 4
COLLECTIVES = ("all_reduce", "broadcast", "all_gather")
ONCE_PER_ITERATION = 8
"""Collectives: weights, advantages, two normalisers, losses, whether to stop, and the record of episodes (2)."""
BUFFER_BYTES = [4 * 4**power for power in range(11)]


class FreeEnv:
    """Random observations and rewards at no cost."""

    num_envs, num_actions, max_episode_length, device, cfg = NUM_ENVS, NUM_ACTIONS, 1000, "cpu", {}

    def observe(self) -> TensorDict:
        return TensorDict({"policy": torch.randn(NUM_ENVS, NUM_OBS)}, batch_size=[NUM_ENVS])


class Meter:
    """Counts the collectives of torch.distributed, their bytes and their time."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, float]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        originals = {name: getattr(torch.distributed, name) for name in COLLECTIVES}
        for name, original in originals.items():
            setattr(torch.distributed, name, self._counted(name, original))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(torch.distributed, name, original)

    def _counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(tensor: Any, *arguments: Any, **options: Any) -> Any:
            sent = arguments[0] if name == "all_gather" else tensor
            start_s = time.perf_counter()
            result = original(tensor, *arguments, **options)
            self.calls.append((name, sent.numel() * sent.element_size(), time.perf_counter() - start_s))
            return result

        return counted


def build(name: str, hidden_dims: tuple[int, ...], ranks: int, rank: int) -> Any:
    """Return an algorithm of ours or of the peer, with the same settings."""
    model = {"class_name": "MLPModel", "hidden_dims": list(hidden_dims), "activation": "elu", "obs_normalization": True}
    cfg = {
        "num_steps_per_env": NUM_STEPS,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "algorithm": {"class_name": "PPO", "num_learning_epochs": EPOCHS, "num_mini_batches": MINI_BATCHES},
        "actor": {**model, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0}},
        "critic": model,
        "multi_gpu": {"global_rank": rank, "local_rank": rank, "world_size": ranks},
        "torch_compile_mode": None,
    }
    env = FreeEnv()
    if name == OURS:
        from sim_rl_plugin.algorithms import PPO
    else:
        from rsl_rl.algorithms import PPO  # type: ignore[no-redef]
    algorithm = PPO.construct_algorithm(env.observe(), env, cfg, "cpu")
    algorithm.broadcast_parameters()
    return algorithm


def update_once(algorithm: Any) -> dict[str, Any]:
    """Let an algorithm collect random data and learn from it; return what the update communicated."""
    env = FreeEnv()
    if hasattr(algorithm, "begin_rollout"):
        algorithm.begin_rollout()
    with torch.inference_mode():
        obs = env.observe()
        for _ in range(NUM_STEPS):
            algorithm.act(obs)
            obs = env.observe()
            algorithm.process_env_step(obs, torch.randn(NUM_ENVS), torch.rand(NUM_ENVS) < 0.01, {})
    torch.distributed.barrier()
    meter = Meter()
    with meter.running():
        with torch.inference_mode():
            algorithm.compute_returns(obs)
        start_s = time.perf_counter()
        algorithm.update()
        took_s = time.perf_counter() - start_s
    steps = EPOCHS * MINI_BATCHES
    most = max(size for _, size, _ in meter.calls)
    return {
        "update_ms": 1e3 * took_s,
        "waiting_ms": 1e3 * sum(seconds for *_, seconds in meter.calls),
        "collectives": len(meter.calls),
        "collectives_per_mini_batch": len(meter.calls) // steps,
        "gradient_collectives": sum(size == most for _, size, _ in meter.calls),
        "bytes_of_gradient_collective": most,
        "bytes": sum(size for _, size, _ in meter.calls),
    }


def collective_times(device: str, repetitions: int) -> list[dict[str, float]]:
    """Return how long one all-reduce takes, by its size."""
    times = []
    for size in BUFFER_BYTES:
        buffer = torch.ones(max(1, size // 4), device=device)
        for _ in range(3):
            torch.distributed.all_reduce(buffer)
        found = []
        for _ in range(repetitions):
            if device != "cpu":
                torch.cuda.synchronize()
            start_s = time.perf_counter()
            torch.distributed.all_reduce(buffer)
            if device != "cpu":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - start_s)
        times.append({"bytes": size, "us": round(1e6 * statistics.median(found), 1)})
    return times


def work(ranks: int, rounds: int, nccl: bool) -> None:
    """Be one rank; the first one prints the results."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    if nccl:
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo")
    results: dict[str, Any] = {"all_reduce": collective_times("cuda" if nccl else "cpu", 30)}
    if not nccl:
        torch.manual_seed(rank)
        results["updates"] = {size: compare(hidden, ranks, rank, rounds) for size, hidden in SIZES.items()}
    if rank == 0:
        print(json.dumps(results))
    torch.distributed.destroy_process_group()


def compare(hidden_dims: tuple[int, ...], ranks: int, rank: int, rounds: int) -> dict[str, Any]:
    """Return medians over rounds in which both take turns."""
    algorithms = {name: build(name, hidden_dims, ranks, rank) for name in (OURS, PEER)}
    algorithms[OURS + ", plain path"] = build(OURS, hidden_dims, ranks, rank)
    algorithms[OURS + ", plain path"].fast = False
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in algorithms}
    for index in range(rounds + 1):
        for name, algorithm in algorithms.items():
            measured = update_once(algorithm)
            if index:
                found[name].append(measured)
    parameters = sum(p.numel() for model in ("actor", "critic") for p in getattr(algorithms[OURS], model).parameters())
    medians = {
        name: {key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0]}
        for name, rows in found.items()
    }
    return {"gradient_bytes": 4 * parameters, **medians}


def predicted_overhead_ms(
    ranks: int,
    gradient_bytes: int,
    *,
    per_mini_batch: int,
    hop_us: float = 15.0,
    bytes_per_us: float = 2e4,
    record_us: float = 20.0,
) -> float:
    """Return what communication adds to an iteration, after the model of docs/distributed.md.

    Args:
        ranks: How many.
        gradient_bytes: Of one mini-batch.
        per_mini_batch: Collectives of one mini-batch; those beside the gradient's are of a few bytes.
        hop_us: Latency of one hop of a tree.
        bytes_per_us: Bandwidth of the slowest link.
        record_us: What the first rank needs for another one's record of episodes.
    """
    latency_us = 2.0 * math.ceil(math.log2(ranks)) * hop_us
    transfer_us = 2.0 * gradient_bytes * (ranks - 1) / ranks / bytes_per_us
    steps = EPOCHS * MINI_BATCHES
    in_update_us = steps * (per_mini_batch * latency_us + transfer_us)
    return 1e-3 * (in_update_us + ONCE_PER_ITERATION * latency_us + record_us * (ranks - 1))


def print_model() -> None:
    """Print the table of docs/distributed.md."""
    hidden = (NUM_OBS, *SIZES["standard"])
    layers = [*pairwise((*hidden, NUM_ACTIONS)), *pairwise((*hidden, 1))]
    gradient_bytes = 4 * (sum((inputs + 1) * outputs for inputs, outputs in layers) + NUM_ACTIONS)
    print("| GPUs | one collective per mini-batch | three |\n| --- | --- | --- |")
    for ranks in (8, 64, 512, 4096):
        cells = []
        for number in (1, 3):
            added_ms = predicted_overhead_ms(ranks, gradient_bytes, per_mini_batch=number)
            cells.append(f"{added_ms:.1f} ms, {added_ms / (1000.0 + added_ms):.1%}")
        print(f"| {ranks} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--nccl", action="store_true", help="one collective alone, on GPUs")
    parser.add_argument("--model", action="store_true", help="print the model's table")
    parser.add_argument("--output", default="distributed")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.ranks, arguments.rounds, arguments.nccl)
        return
    if arguments.model:
        print_model()
        return
    from circumstances import write_results

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(arguments.ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--work", *sys.argv[1:]],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(arguments.ranks)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("a rank failed")
    write_results(arguments.output, {"ranks": arguments.ranks, **json.loads(outputs[0].splitlines()[-1])})


if __name__ == "__main__":
    main()
