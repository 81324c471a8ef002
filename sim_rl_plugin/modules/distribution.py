"""Action distributions: how the output of a network becomes a random action.

Legend of shapes: ``b`` samples, ``a`` actions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sim_rl_plugin.errors import UserError

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_SMALLEST_STD = 1e-6


class Distribution(nn.Module):
    """What a stochastic model needs from a distribution; subclass it to add one.

    ``update`` takes the network's output, and the other methods speak of the distribution that this
    output described.
    """

    _of_last_pass: tuple[str, ...] = ()
    """Attributes that ``update`` sets; a copy of the module does not have them."""

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

    def __getstate__(self) -> dict[str, Any]:
        # The last pass belongs to an update, whose graph can be neither copied nor pickled.
        return {**self.__dict__, **dict.fromkeys(self._of_last_pass)}


class GaussianDistribution(Distribution):
    """Independent Gaussians whose standard deviation does not depend on the observation.

    The standard deviation is clamped to ``std_range`` wherever it is used, so a parameter that the
    optimizer pushes below zero never makes a negative or zero deviation.
    """

    _of_last_pass = ("_mean_ba", "_std_ba")

    def __init__(
        self,
        output_dim: int,
        init_std: float = 1.0,
        std_range: tuple[float, float] | list[float] = (1e-6, 1e6),
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
            ValueError: ``std_type`` is neither, ``init_std`` is negative, or the range is empty.
        """
        super().__init__(output_dim)
        self._set_std(init_std, std_range, std_type)
        start_a = init_std * torch.ones(output_dim)
        if std_type == "scalar":
            self.std_param = nn.Parameter(start_a, requires_grad=learn_std)
        else:
            self.log_std_param = nn.Parameter(start_a.log(), requires_grad=learn_std)

    def _set_std(self, init_std: float, std_range: tuple[float, float] | list[float], std_type: str) -> None:
        """Check and keep what the arguments say about the standard deviation."""
        if std_type not in ("scalar", "log"):
            raise UserError(f"std_type: expected 'scalar' or 'log', found {std_type!r}")
        # Isaac Lab gives teachers 0, since rsl_rl's actors load only into models with a distribution.
        if not init_std >= 0.0:
            raise UserError(f"init_std: expected a number of 0 or more, found {init_std}")
        self.init_std = init_std
        self.std_type = std_type
        self.std_range = [max(std_range[0], _SMALLEST_STD), std_range[1]]
        if not self.std_range[0] < self.std_range[1]:
            raise UserError(f"std_range: expected (smallest, largest), found {tuple(std_range)}")
        self.log_std_range = [math.log(self.std_range[0]), math.log(self.std_range[1])]
        self._mean_ba: torch.Tensor | None = None
        self._std_ba: torch.Tensor | None = None  # broadcasts against the mean

    @property
    def input_dim(self) -> int | list[int]:
        """The network gives the mean alone."""
        return self.output_dim

    def update(self, mlp_output: torch.Tensor) -> None:
        """Take the mean ``(..., output_dim)`` from the network and the deviation from the parameter."""
        self._mean_ba = mlp_output
        self._std_ba = self._clamped_std(self.std_param if self.std_type == "scalar" else self.log_std_param)

    def _clamped_std(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the standard deviation that a parameter or an output of the network stands for."""
        if self.std_type == "scalar":
            return raw.clamp(*self.std_range)
        return raw.clamp(*self.log_std_range).exp()

    def _current(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._mean_ba is not None and self._std_ba is not None, "update() describes the distribution first"
        return self._mean_ba, self._std_ba

    def sample(self) -> torch.Tensor:
        """Draw ``mean + std * noise``."""
        mean_ba, std_ba = self._current()
        with torch.no_grad():
            return torch.randn_like(mean_ba).mul_(std_ba).add_(mean_ba)

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
        """Standard deviation, ``(..., output_dim)``."""
        mean_ba, std_ba = self._current()
        return std_ba.expand_as(mean_ba)

    @property
    def entropy(self) -> torch.Tensor:
        """Entropy in nats, summed over actions, ``(...)``."""
        mean_ba, std_ba = self._current()
        return (0.5 + HALF_LOG_TWO_PI + std_ba.log()).sum(dim=-1).expand(mean_ba.shape[:-1])

    @property
    def params(self) -> tuple[torch.Tensor, ...]:
        """Mean and standard deviation."""
        return self.mean, self.std

    def log_prob(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the log-density of ``outputs`` ``(..., output_dim)``, summed over actions, ``(...)``."""
        mean_ba, std_ba = self._current()
        normaliser = (std_ba.log() + HALF_LOG_TWO_PI).sum(dim=-1)
        return ((outputs - mean_ba) / std_ba).square().sum(dim=-1).mul(-0.5) - normaliser

    def kl_divergence(self, old_params: tuple[torch.Tensor, ...], new_params: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return KL(old || new) of two ``(mean, std)`` pairs, summed over actions, ``(...)``."""
        (old_mean_ba, old_std_ba), (new_mean_ba, new_std_ba) = old_params, new_params
        variance_ratio_ba = (old_std_ba / new_std_ba).square()
        shift_ba = ((old_mean_ba - new_mean_ba) / new_std_ba).square()
        return 0.5 * (variance_ratio_ba + shift_ba - 1.0 - variance_ratio_ba.log()).sum(dim=-1)


class HeteroscedasticGaussianDistribution(GaussianDistribution):
    """Independent Gaussians whose standard deviation depends on the observation.

    The network gives mean and deviation, ``(..., 2, output_dim)``.
    """

    def __init__(
        self,
        output_dim: int,
        init_std: float = 1.0,
        std_range: tuple[float, float] | list[float] = (1e-6, 1e6),
        std_type: str = "scalar",
    ) -> None:
        """Note what the deviation shall be at the start.

        Args:
            output_dim: Number of actions.
            init_std: Standard deviation at the start, in the unit of the action.
            std_range: Smallest and largest standard deviation; the smallest is at least 1e-6.
            std_type: Whether the network gives the deviation itself (``scalar``) or its logarithm
                (``log``).

        Raises:
            ValueError: ``std_type`` is neither, ``init_std`` is negative, or the range is empty.
        """
        Distribution.__init__(self, output_dim)  # the Gaussian's own constructor would make a parameter
        self._set_std(init_std, std_range, std_type)

    @property
    def input_dim(self) -> list[int]:
        """Mean, then deviation."""
        return [2, self.output_dim]

    def update(self, mlp_output: torch.Tensor) -> None:
        """Take mean and deviation from the network's output ``(..., 2, output_dim)``."""
        self._mean_ba, raw_ba = _in_full_precision(mlp_output).unbind(dim=-2)
        self._std_ba = self._clamped_std(raw_ba)

    def deterministic_output(self, mlp_output: torch.Tensor) -> torch.Tensor:
        """Return the mean."""
        return mlp_output[..., 0, :]

    def as_deterministic_output_module(self) -> nn.Module:
        """Return a module that takes the mean out of the network's output."""
        return _FirstRow()

    def init_mlp_weights(self, mlp: nn.Module) -> None:
        """Make the deviation ``init_std`` for every observation."""
        # rsl_rl's small addition is kept, and its float32, so that equal seeds give equal weights.
        start = self.init_std if self.std_type == "scalar" else torch.tensor(self.init_std + 1e-7).log().item()
        _init_second_half(mlp, self.output_dim, start)


class BetaDistribution(Distribution):
    """Independent Beta distributions, stretched from [0, 1] to the range of the actions.

    The network gives the two shape parameters before ``softplus(x) + 1``, ``(..., 2, output_dim)``. Above
    one each, so the density has a single peak (Chou, Maturana and Scherer 2017).
    """

    _of_last_pass = ("_beta",)

    def __init__(self, output_dim: int, action_range: tuple[float, float] | list[float] = (-1.0, 1.0)) -> None:
        """Note the range.

        Args:
            output_dim: Number of actions.
            action_range: Smallest and largest action.

        Raises:
            ValueError: The range is empty.
        """
        super().__init__(output_dim)
        if not action_range[0] < action_range[1]:
            raise UserError(f"action_range: expected (smallest, largest), found {tuple(action_range)}")
        self.action_range = action_range
        self._scale = action_range[1] - action_range[0]
        self._offset = action_range[0]
        self._beta: torch.distributions.Beta | None = None

    @property
    def input_dim(self) -> list[int]:
        """First shape parameter (alpha), then second (beta), before ``softplus(x) + 1``."""
        return [2, self.output_dim]

    def update(self, mlp_output: torch.Tensor) -> None:
        """Take the shape parameters from the network's output ``(..., 2, output_dim)``."""
        self._beta = _beta(*_shape_parameters(mlp_output))

    def _current(self) -> torch.distributions.Beta:
        assert self._beta is not None, "update() describes the distribution first"
        return self._beta

    def sample(self) -> torch.Tensor:
        """Draw within the range."""
        with torch.no_grad():
            return self._current().sample() * self._scale + self._offset

    def deterministic_output(self, mlp_output: torch.Tensor) -> torch.Tensor:
        """Return the mean."""
        alpha_ba, beta_ba = _shape_parameters(mlp_output)
        return alpha_ba / (alpha_ba + beta_ba) * self._scale + self._offset

    def as_deterministic_output_module(self) -> nn.Module:
        """Return a module that computes the mean from the network's output."""
        return _BetaMean(self._scale, self._offset)

    @property
    def mean(self) -> torch.Tensor:
        """Mean, ``(..., output_dim)``."""
        alpha_ba, beta_ba = self.params
        return alpha_ba / (alpha_ba + beta_ba) * self._scale + self._offset

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation, ``(..., output_dim)``."""
        return self._current().stddev * self._scale

    @property
    def entropy(self) -> torch.Tensor:
        """Entropy in nats of the distribution on [0, 1], as in rsl_rl, summed over actions, ``(...)``.

        The range adds its logarithm per action, a constant without a gradient.
        """
        return self._current().entropy().sum(dim=-1)

    @property
    def params(self) -> tuple[torch.Tensor, ...]:
        """The two shape parameters."""
        beta = self._current()
        return beta.concentration1, beta.concentration0

    def log_prob(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the log-density of ``outputs`` ``(..., output_dim)``, summed over actions, ``(...)``.

        Outputs closer to the ends of the range than a millionth of it count as that far away.
        """
        unit_ba = ((outputs - self._offset) / self._scale).clamp(1e-6, 1.0 - 1e-6)
        return (self._current().log_prob(unit_ba) - math.log(self._scale)).sum(dim=-1)

    def kl_divergence(self, old_params: tuple[torch.Tensor, ...], new_params: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return KL(old || new) of two pairs of shape parameters, summed over actions, ``(...)``."""
        return torch.distributions.kl_divergence(_beta(*old_params), _beta(*new_params)).sum(dim=-1)

    def init_mlp_weights(self, mlp: nn.Module) -> None:
        """Make the second shape parameter the same for every observation."""
        _init_second_half(mlp, self.output_dim, 0.0)


def _beta(alpha_ba: torch.Tensor, beta_ba: torch.Tensor) -> torch.distributions.Beta:
    # Validation would read the parameters back from the device.
    return torch.distributions.Beta(alpha_ba, beta_ba, validate_args=False)


def _shape_parameters(mlp_output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    alpha_ba, beta_ba = (nn.functional.softplus(_in_full_precision(mlp_output)) + 1.0).unbind(dim=-2)
    return alpha_ba, beta_ba


def _in_full_precision(mlp_output: torch.Tensor) -> torch.Tensor:
    """Return the output in float32 at least.

    Mixed precision gives bfloat16, in which a logarithm is wrong by more than the divergences that the
    learning rate is steered by.
    """
    return mlp_output if mlp_output.dtype in (torch.float32, torch.float64) else mlp_output.float()


def _init_second_half(mlp: nn.Module, output_dim: int, value: float) -> None:
    """Make the second of two outputs of a network constant: weights zero, bias ``value``."""
    last = [layer for layer in mlp.modules() if isinstance(layer, nn.Linear)][-1]
    nn.init.zeros_(last.weight[output_dim:])
    nn.init.constant_(last.bias[output_dim:], value)


class _FirstRow(nn.Module):
    """Takes the first row of ``(..., 2, output_dim)``."""

    def forward(self, mlp_output: torch.Tensor) -> torch.Tensor:
        return mlp_output[..., 0, :]


class _BetaMean(nn.Module):
    """Computes the mean of a stretched Beta distribution from a network's output ``(..., 2, output_dim)``."""

    def __init__(self, scale: float, offset: float) -> None:
        super().__init__()
        self.scale = float(scale)
        self.offset = float(offset)

    def forward(self, mlp_output: torch.Tensor) -> torch.Tensor:
        shape = nn.functional.softplus(mlp_output) + 1.0
        alpha, beta = shape[..., 0, :], shape[..., 1, :]
        return alpha / (alpha + beta) * self.scale + self.offset
