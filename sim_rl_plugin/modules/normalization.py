"""Running normalisation of observations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from sim_rl_plugin import distributed


class EmpiricalNormalization(nn.Module):
    """Shift and scale by the mean and standard deviation of everything seen so far.

    Statistics are shared by all environments. Batches are merged as parallel moments (Chan, Golub
    and LeVeque 1979), so the order of batches matters to rounding only.
    """

    if TYPE_CHECKING:  # TorchScript cannot read postponed annotations
        _mean: torch.Tensor
        _var: torch.Tensor
        _std: torch.Tensor
        count: torch.Tensor

    def __init__(self, shape: int | tuple[int, ...] | list[int], eps: float = 1e-2, until: int | None = None) -> None:
        """Start from mean 0 and standard deviation 1.

        Args:
            shape: Shape of one sample.
            eps: Added to the standard deviation, in the unit of the input.
            until: Stop learning once this many samples have been seen; None never stops.
        """
        super().__init__()
        self.eps = eps
        self.until = until
        self.register_buffer("_mean", torch.zeros(shape).unsqueeze(0))
        self.register_buffer("_var", torch.ones(shape).unsqueeze(0))
        self.register_buffer("_std", torch.ones(shape).unsqueeze(0))
        self.register_buffer("count", torch.tensor(0, dtype=torch.long))

    @property
    def mean(self) -> torch.Tensor:
        """A copy of the running mean, of the shape of one sample."""
        return self._mean.squeeze(0).clone()

    @property
    def std(self) -> torch.Tensor:
        """A copy of the running standard deviation, of the shape of one sample."""
        return self._std.squeeze(0).clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``(..., *shape)``."""
        return (x - self._mean) / (self._std + self.eps)

    @torch.jit.unused
    def update(self, x: torch.Tensor) -> None:
        """Learn from a batch ``(samples, *shape)``; nothing happens in evaluation mode.

        In a distributed run all ranks must call this together: they learn the moments of the
        union of their batches.
        """
        if not self.training:
            return
        if self.until is not None and self.count >= self.until:
            return
        count_x, mean_x, var_x = _moments(x)
        # Copies in place keep the buffers ordinary tensors even when this runs in inference mode.
        self.count += count_x
        rate = count_x / self.count
        delta = mean_x - self._mean
        self._mean += rate * delta
        self._var += rate * (var_x - self._var + delta * (mean_x - self._mean))
        self._std.copy_(torch.sqrt(self._var))

    @torch.jit.unused
    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        """Undo ``forward``."""
        return y * (self._std + self.eps) + self._mean


class EmpiricalDiscountedVariationNormalization(nn.Module):
    """Scale rewards by the running standard deviation of their discounted sum.

    For rewards whose scale changes while training goes on, such as those of curiosity (Burda et al.
    2018, arXiv:1808.04355).
    """

    def __init__(
        self, shape: int | tuple[int, ...] | list[int], eps: float = 1e-2, gamma: float = 0.99, until: int | None = None
    ) -> None:
        """Start from standard deviation 1.

        Args:
            shape: Shape of one environment's reward, ``[]`` for a number.
            eps: As for ``EmpiricalNormalization``.
            gamma: Discount per step.
            until: Stop learning once this many samples have been seen; None never stops.
        """
        super().__init__()
        self.emp_norm = EmpiricalNormalization(shape, eps, until)
        self.disc_avg = DiscountedAverage(gamma)

    def forward(self, rew: torch.Tensor) -> torch.Tensor:
        """Scale the rewards of one step, ``(n, *shape)``; in training mode learn from them first."""
        if self.training:
            self.emp_norm.update(self.disc_avg.update(rew))
        std = self.emp_norm._std
        return torch.where(std > 0, rew / std, rew)


class DiscountedAverage:
    """Discounted sum of rewards, per environment: ``sum = gamma * sum + reward``."""

    def __init__(self, gamma: float) -> None:
        """Start empty; the first rewards are the first sum."""
        self.avg: torch.Tensor | None = None
        self.gamma = gamma

    def update(self, rew: torch.Tensor) -> torch.Tensor:
        """Add the rewards of one step and return the sum."""
        self.avg = rew if self.avg is None else self.avg * self.gamma + rew
        return self.avg


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return count, mean ``(1, *shape)`` and biased variance ``(1, *shape)`` of a batch over all ranks."""
    if distributed.is_running():
        count, mean, squares = distributed.moments(x)
        return count, mean, squares / count
    count = torch.tensor(x.shape[0], dtype=torch.long, device=x.device)
    mean = x.mean(dim=0, keepdim=True)
    # Two plain passes: torch.var walks a tall matrix column by column, ten times slower.
    return count, mean, (x - mean).square_().mean(dim=0, keepdim=True)
