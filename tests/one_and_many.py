"""Trains on the same data in one process or as one rank of many, and writes down what was learnt.

    python one_and_many.py RANKS FILE

With ``WORLD_SIZE`` set this is one of ``RANKS`` ranks, and otherwise the one process that has the environments of all
of them. Environments start, and actions are disturbed, by the number of the environment, not by the process; each
mini-batch of the one process is made of the ranks' mini-batches.
"""

import os
import sys
from collections import Counter
from typing import Any

import torch
from small_configs import GRU, distillation_cfg, mirror, ppo_cfg, ppo_cfg_with

from sim_rl_plugin.modules.distribution import GaussianDistribution
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.storage import RolloutStorage
from sim_rl_plugin.testing import PointEnv

ITERATIONS = 3
MINI_BATCHES = 2
RND = {
    "num_outputs": 4, "predictor_hidden_dims": [8], "target_hidden_dims": [8], "weight": 0.5,
    "state_normalization": True, "reward_normalization": True,
}  # fmt: skip
SIZES = {"num_learning_epochs": 2, "num_mini_batches": MINI_BATCHES}


def small(**changes: Any) -> dict[str, Any]:
    return {**ppo_cfg(**SIZES), "num_steps_per_env": 8, **changes}


CASES: dict[str, dict[str, Any]] = {
    "mlp": small(),
    "mlp, plain path": small(fast=False),
    "mlp, normalised per mini-batch": {**ppo_cfg(**SIZES, normalize_advantage_per_mini_batch=True),
                                       "num_steps_per_env": 8},
    "mlp, statistics each step": {**ppo_cfg(**SIZES, normalizer_update="each_step"), "num_steps_per_env": 8},
    "gru": ppo_cfg_with(GRU),
    "gru, plain path": {**ppo_cfg_with(GRU), "fast": False},
    "rnd": {**ppo_cfg(**SIZES, rnd_cfg=RND), "num_steps_per_env": 8,
            "obs_groups": {"actor": ["policy"], "critic": ["policy", "critic"], "rnd_state": ["policy"]}},
    "symmetry": {**ppo_cfg(**SIZES, symmetry_cfg={"data_augmentation_func": mirror, "use_data_augmentation": True,
                                                  "use_mirror_loss": True, "mirror_loss_coeff": 0.1}),
                 "num_steps_per_env": 8, "obs_groups": {"actor": ["policy"], "critic": ["policy"]}},
    "distillation": distillation_cfg(),
    "distillation, gru": distillation_cfg(student=GRU),
    "mlp, unequal ranks": small(),
}  # fmt: skip


def environments_of(case: str, ranks: int) -> list[list[int]]:
    """Return which environments each rank has."""
    sizes = [4 + 2 * (rank % 2) if "unequal" in case else 4 for rank in range(ranks)]
    return [list(range(sum(sizes[:rank]), sum(sizes[: rank + 1]))) for rank in range(ranks)]


def of_the_one(environments: list[list[int]]) -> list[int]:
    """Return the environments of the one process: those of each rank's first mini-batch, then the second's."""
    order = []
    for index in range(MINI_BATCHES):
        for own in environments:
            size = len(own) // MINI_BATCHES
            order += own[index * size : (index + 1) * size]
    return order


class Points(PointEnv):
    """Points whose starts depend on their number and their episode alone."""

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.episodes = ids, Counter()
        super().__init__(num_envs=len(ids), max_episode_length=7)

    def _start_positions(self) -> torch.Tensor:
        starts = []
        for number in self.ids:
            generator = torch.Generator().manual_seed(1000 * number + self.episodes[number])
            starts.append(2.0 * torch.rand(self.num_actions, generator=generator) - 1.0)
        return torch.stack(starts)

    def _reset(self, dones: torch.Tensor) -> None:
        for index in dones.nonzero().view(-1).tolist():
            self.episodes[self.ids[index]] += 1
        super()._reset(dones)


class Noise:
    """Disturbs actions by the number of the environment."""

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.generator = ids, torch.Generator().manual_seed(7)

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        if not torch.is_inference_mode_enabled():
            return torch.zeros_like(like)  # of an update, which does not look at it
        everybody = torch.randn(64, like.shape[-1], generator=self.generator)
        return everybody[self.ids].clone()


def orders(environments: list[list[int]], mine: int | None) -> Any:
    """Return what stands in for ``sample_order``: of a rank its own, of the one process that of all ranks."""
    generators = [torch.Generator().manual_seed(100 + rank) for rank in range(len(environments))]
    place = {number: index for index, number in enumerate(of_the_one(environments))}

    def own(rank: int, num_steps: int) -> torch.Tensor:
        return torch.randperm(num_steps * len(environments[rank]), generator=generators[rank])

    def of_a_rank(storage: RolloutStorage, num_mini_batches: int) -> torch.Tensor:
        assert mine is not None
        return own(mine, storage.num_transitions_per_env)

    def of_all(storage: RolloutStorage, num_mini_batches: int) -> torch.Tensor:
        num_steps, num_all = storage.num_transitions_per_env, storage.num_envs
        chunks: list[list[torch.Tensor]] = [[] for _ in range(num_mini_batches)]
        for rank, ids in enumerate(environments):
            order = own(rank, num_steps)
            places = torch.tensor([place[number] for number in ids])
            moved = order // len(ids) * num_all + places[order % len(ids)]
            for index, chunk in enumerate(moved.chunk(num_mini_batches)):
                chunks[index].append(chunk)
        return torch.cat([torch.cat(chunk) for chunk in chunks])

    return of_all if mine is None else of_a_rank


def train(case: str, ranks: int, rank: int | None) -> dict[str, Any]:
    """Train and return what was learnt."""
    environments = environments_of(case, ranks)
    ids = of_the_one(environments) if rank is None else environments[rank]
    noise = Noise(ids)

    def sample(distribution: GaussianDistribution) -> torch.Tensor:
        mean, std = distribution._current()
        with torch.no_grad():
            return noise(mean).mul_(std).add_(mean)

    GaussianDistribution.sample = sample
    RolloutStorage.sample_order = orders(environments, rank)
    torch.manual_seed(rank or 0)  # the first rank's models are those of the one process
    runner = OnPolicyRunner(Points(ids), CASES[case])
    runner.alg.teacher_loaded = True
    rates, logged = [], []
    log = runner.logger.log

    def noted(**arguments: Any) -> dict[str, float]:
        rates.append(arguments["learning_rate"])
        metrics = log(**arguments)
        logged.append({k: v for k, v in metrics.items() if k.startswith(("Train/", "Loss/", "Episode/", "Step/"))})
        logged[-1]["steps"] = metrics["Perf/total_steps"]
        return metrics

    runner.logger.log = noted
    runner.learn(ITERATIONS)
    saved = runner.alg.save()
    return {
        "models": {k: v for k, v in saved.items() if k.endswith("state_dict") and "optimizer" not in k},
        "rates": rates,
        "logged": logged,
        "fast": str(runner.fast_paths),
    }


def main() -> None:
    ranks, file = int(sys.argv[1]), sys.argv[2]
    rank = int(os.environ["RANK"]) if "WORLD_SIZE" in os.environ else None
    torch.set_num_threads(1)
    torch.save({case: train(case, ranks, rank) for case in CASES}, file)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
