"""What PPO and Distillation have in common: their place among other processes, the learning rate, the last check."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sim_rl_plugin.algorithms.optimizer import build_optimizer, publish_learning_rate
from sim_rl_plugin.errors import UserError


class Algorithm:
    """Base of our algorithms; one from elsewhere needs the documented methods only, not this class."""

    optimizer: torch.optim.Optimizer

    def __init__(self, device: str, multi_gpu_cfg: dict[str, Any] | None, grad_reduce_bucket_mb: float) -> None:
        """Note where the algorithm runs.

        Args:
            device: Where models and buffers lie.
            multi_gpu_cfg: ``global_rank``, ``local_rank`` and ``world_size`` of a distributed run, or None.
            grad_reduce_bucket_mb: Largest buffer of one gradient reduction, in MB.
        """
        self.device = device
        self.is_multi_gpu = multi_gpu_cfg is not None
        self.gpu_global_rank = multi_gpu_cfg["global_rank"] if multi_gpu_cfg else 0
        self.gpu_world_size = multi_gpu_cfg["world_size"] if multi_gpu_cfg else 1
        self.grad_reduce_bucket_mb = grad_reduce_bucket_mb

    def _build_optimizer(self, name: str, parameters: Any, learning_rate: float) -> None:
        # A CPU kernel takes the rate in double precision, so it reads back as it was given.
        rate_dtype = torch.float64 if torch.device(self.device).type == "cpu" else torch.float32
        self._learning_rate = torch.tensor(float(learning_rate), dtype=rate_dtype, device=self.device)
        self.optimizer = build_optimizer(name, parameters, self._learning_rate)

    @property
    def learning_rate(self) -> float:
        """The current learning rate; reading it waits for the device."""
        return self._learning_rate.item()

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate.fill_(value)
        publish_learning_rate(self.optimizer, self._learning_rate)

    def _checked(self, names: list[str], means: torch.Tensor, networks: dict[str, nn.Module]) -> dict[str, float]:
        """Bring the losses to the host, the iteration's one transfer, and raise if the update went wrong.

        Args:
            names: Names of the losses.
            means: The losses, ``(len(names),)``.
            networks: What has learned, by name.

        Raises:
            ValueError: A loss or a parameter is NaN or infinite.
        """
        with torch.no_grad():
            totals = [torch.stack([p.sum() for p in net.parameters()]).sum() for net in networks.values()]
        results = dict(zip([*names, *networks], torch.cat((means, torch.stack(totals))).tolist(), strict=True))
        bad = [name for name, number in results.items() if not math.isfinite(number)]
        if bad:
            raise UserError(
                f"the update made {', '.join(bad)} NaN or infinite (learning rate {self.learning_rate:g}): continue "
                "from the last checkpoint with a smaller learning rate, or check the scale of the rewards"
            )
        return {name: results[name] for name in names}


def overrides(instance: Any, base: type, *names: str) -> bool:
    """Return whether an object's class has other methods of these names than ``base``, whether derived from it or not.

    Where somebody's class does things its own way, the faster routes around the documented methods are closed.
    """
    return any(getattr(type(instance), name, None) is not getattr(base, name) for name in names)
