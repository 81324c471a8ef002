"""Action distributions: how the output of a network becomes a random action.

Legend of shapes: ``b`` samples, ``a`` actions.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from sim_rl_plugin.errors import UserError

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_SMALLEST_STD = 1e-6


class Distribution(nn.Module):
    """What a stochastic model needs from a distribution; subclass it to add one.

    ``update`` takes the network's output, and the other methods speak of the distribution that this
    output described.
    """

    def __init__(self, output_dim: int) -> None:
        """Remember the number of actions."""
        super().__init__()
        self.output_dim = output_dim

    @property
    def input_dim(self) -> int | list[int]:
        """Size or shape that the network's output must have."""
        raise NotImplementedError

    def update(self, mlp_output: torch.Tensor) -> None:
        """Describe the distribution by the network's output ``(..., *input_dim)``."""
        raise NotImplementedError

    def sample(self) -> torch.Tensor:
        """Draw ``(..., output_dim)`` without gradient, from torch's global generator."""
        raise NotImplementedError

    def deterministic_output(self, mlp_output: torch.Tensor) -> torch.Tensor:
        """Return the action ``(..., output_dim)`` to play when nothing shall be random."""
        raise NotImplementedError

    def as_deterministic_output_module(self) -> nn.Module:
        """Return a module for export that maps the network's output to ``deterministic_output``."""
        raise NotImplementedError

    @property
    def mean(self) -> torch.Tensor:
        """Mean, ``(..., output_dim)``."""
        raise NotImplementedError

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation, ``(..., output_dim)``."""
        raise NotImplementedError

    @property
    def entropy(self) -> torch.Tensor:
        """Entropy in nats, summed over actions, ``(...)``."""
        raise NotImplementedError

    @property
    def params(self) -> tuple[torch.Tensor, ...]:
        """Tensors that describe the distribution, each ``(..., output_dim)``; stored with a rollout."""
        raise NotImplementedError

    def log_prob(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the log-density of ``outputs``, summed over actions, ``(...)``."""
        raise NotImplementedError

    def kl_divergence(self, old_params: tuple[torch.Tensor, ...], new_params: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return KL(old || new) in nats between two ``params``, summed over actions, ``(...)``."""
        raise NotImplementedError

    def init_mlp_weights(self, mlp: nn.Module) -> None:
        """Initialise the part of the network's last layer that this distribution reads; by default nothing."""


class GaussianDistribution(Distribution):
    """Independent Gaussians whose standard deviation does not depend on the observation.

    The standard deviation is clamped to ``std_range`` wherever it is used, so a parameter that the
    optimizer pushes below zero never makes a negative or zero deviation.
    """

    def __init__(
        self,
        output_dim: int,
        init_std: float = 1.0,
        std_range: tuple[float, float] = (1e-6, 1e6),
        std_type: str = "scalar",
        learn_std: bool = True,
    ) -> None:
        """Create the parameter of the standard deviation.

        Args:
            output_dim: Number of actions.
            init_std: Standard deviation at the start, in the unit of the action.
            std_range: Smallest and largest standard deviation; the smallest is at least 1e-6.
            std_type: ``scalar`` learns the deviation itself (``std_param``), ``log`` its logarithm
                (``log_std_param``).
            learn_std: False keeps ``init_std``.

        Raises:
            ValueError: ``std_type`` is neither, ``init_std`` is not positive, or the range is empty.
        """
        super().__init__(output_dim)
        if std_type not in ("scalar", "log"):
            raise UserError(f"std_type: expected 'scalar' or 'log', found {std_type!r}")
        if not init_std > 0.0:
            raise UserError(f"init_std: expected a number above 0, found {init_std}")
        self.std_type = std_type
        self.std_range = [max(std_range[0], _SMALLEST_STD), std_range[1]]
        if not self.std_range[0] < self.std_range[1]:
            raise UserError(f"std_range: expected (smallest, largest), found {tuple(std_range)}")
        self.log_std_range = [math.log(self.std_range[0]), math.log(self.std_range[1])]
        start_a = init_std * torch.ones(output_dim)
        if std_type == "scalar":
            self.std_param = nn.Parameter(start_a, requires_grad=learn_std)
        else:
            self.log_std_param = nn.Parameter(start_a.log(), requires_grad=learn_std)
        self._mean_ba: torch.Tensor | None = None
        self._std_a: torch.Tensor | None = None

    @property
    def input_dim(self) -> int:
        """The network gives the mean alone."""
        return self.output_dim

    def update(self, mlp_output: torch.Tensor) -> None:
        """Take the mean ``(..., output_dim)`` from the network and the deviation from the parameter."""
        self._mean_ba = mlp_output
        if self.std_type == "scalar":
            self._std_a = self.std_param.clamp(*self.std_range)
        else:
            self._std_a = self.log_std_param.clamp(*self.log_std_range).exp()

    def _current(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._mean_ba is not None and self._std_a is not None, "update() describes the distribution first"
        return self._mean_ba, self._std_a

    def sample(self) -> torch.Tensor:
        """Draw ``mean + std * noise``."""
        mean_ba, std_a = self._current()
        with torch.no_grad():
            return torch.randn_like(mean_ba).mul_(std_a).add_(mean_ba)

    def deterministic_output(self, mlp_output: torch.Tensor) -> torch.Tensor:
        """Return the mean."""
        return mlp_output

    def as_deterministic_output_module(self) -> nn.Module:
        """Return an identity: the network's output is the mean."""
        return nn.Identity()

    @property
    def mean(self) -> torch.Tensor:
        """Mean, ``(..., output_dim)``."""
        return self._current()[0]

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation, ``(..., output_dim)``, the same in every row."""
        mean_ba, std_a = self._current()
        return std_a.expand_as(mean_ba)

    @property
    def entropy(self) -> torch.Tensor:
        """Entropy in nats, summed over actions, ``(...)``, the same for every sample."""
        mean_ba, std_a = self._current()
        return (0.5 + _HALF_LOG_TWO_PI + std_a.log()).sum().expand(mean_ba.shape[:-1])

    @property
    def params(self) -> tuple[torch.Tensor, ...]:
        """Mean and standard deviation."""
        return self.mean, self.std

    def log_prob(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the log-density of ``outputs`` ``(..., output_dim)``, summed over actions, ``(...)``."""
        mean_ba, std_a = self._current()
        normaliser = (std_a.log() + _HALF_LOG_TWO_PI).sum()
        return ((outputs - mean_ba) / std_a).square().sum(dim=-1).mul(-0.5) - normaliser

    def kl_divergence(self, old_params: tuple[torch.Tensor, ...], new_params: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return KL(old || new) of two ``(mean, std)`` pairs, summed over actions, ``(...)``."""
        (old_mean_ba, old_std_ba), (new_mean_ba, new_std_ba) = old_params, new_params
        variance_ratio_ba = (old_std_ba / new_std_ba).square()
        shift_ba = ((old_mean_ba - new_mean_ba) / new_std_ba).square()
        return 0.5 * (variance_ratio_ba + shift_ba - 1.0 - variance_ratio_ba.log()).sum(dim=-1)
