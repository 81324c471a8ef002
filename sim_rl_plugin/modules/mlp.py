"""Multi-layer perceptron."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.modules.activation import apply_in_place, resolve_nn_activation


def get_param(param: Any, idx: int) -> Any:
    """Return ``param[idx]`` of a list or tuple, and anything else as it is."""
    return param[idx] if isinstance(param, (list, tuple)) else param


class MLP(nn.Sequential):
    """Linear layers with an activation between them.

    The sub-modules are numbered as in rsl_rl (``0`` linear, ``1`` activation, ``2`` linear, ...), so
    that state dicts are interchangeable.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int | tuple[int, ...] | list[int],
        hidden_dims: tuple[int, ...] | list[int],
        activation: str = "elu",
        last_activation: str | None = None,
    ) -> None:
        """Build the layers with PyTorch's default initialisation.

        Args:
            input_dim: Size of the last dimension of the input.
            output_dim: Size of the output, or its shape: then the last dimension is unflattened.
            hidden_dims: Sizes of the hidden layers; -1 stands for ``input_dim``.
            activation: Name of the activation between layers.
            last_activation: Name of the activation after the last layer; None leaves it linear.

        Raises:
            ValueError: No hidden layer, a size below 1, or an unknown activation.
        """
        super().__init__()
        sizes = [input_dim, *(input_dim if size == -1 else size for size in hidden_dims)]
        if len(sizes) < 2 or min(sizes) < 1:
            raise UserError(f"hidden_dims: expected at least one size of 1 or more, found {list(hidden_dims)}")

        layers: list[nn.Module] = []
        for size_in, size_out in pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), resolve_nn_activation(activation)]
        if isinstance(output_dim, int):
            layers.append(nn.Linear(sizes[-1], output_dim))
        else:
            layers += [nn.Linear(sizes[-1], math.prod(output_dim)), nn.Unflatten(-1, tuple(output_dim))]
        if last_activation is not None:
            layers.append(resolve_nn_activation(last_activation))
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)

    def init_weights(self, scales: float | tuple[float, ...]) -> None:
        """Make every linear layer orthogonal with zero bias.

        Args:
            scales: Gain of all layers, or one gain per sub-module (activations counted).
        """
        for index, layer in enumerate(self):
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, gain=get_param(scales, index))
                nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., input_dim)`` to ``(..., *output_dim)``; activations reuse the linear layers' outputs."""
        for layer in self:
            x = layer(x) if isinstance(layer, (nn.Linear, nn.Unflatten)) else apply_in_place(layer, x)
        return x
