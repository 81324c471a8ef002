"""Forward and backward pass of a multi-layer perceptron, written by hand.

Autograd allocates every activation anew, for the whole mini-batch, and walks through memory layer by layer. Here a few
hundred samples at a time go forward and back through buffers that are kept, small enough to stay in the processor's
cache; gradients add up over these chunks.

Legend of shapes: ``r`` rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

_aten = torch.ops.aten

_CHUNK_BYTES = 4 * 2**20
"""Buffers of one chunk per thread: about what a core's caches hold."""
_ROWS_STEP = 128
_FEWEST_ROWS = 256

Activation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Takes a pre-activation, a buffer for the slope, and ones; overwrites the former by the activation."""


def _elu(x: torch.Tensor, slope: torch.Tensor, ones: torch.Tensor) -> None:
    # The derivative is exp(x) below zero, and the activation that minus one: one exponential gives both.
    _aten.elu_backward.grad_input(ones, 1.0, 1.0, 1.0, False, x, grad_input=slope)
    torch.maximum(x, slope - 1.0, out=x)


def _relu(x: torch.Tensor, slope: torch.Tensor, ones: torch.Tensor) -> None:
    x.clamp_(min=0.0)
    torch.sign(x, out=slope)


def _tanh(x: torch.Tensor, slope: torch.Tensor, ones: torch.Tensor) -> None:
    x.tanh_()
    _aten.tanh_backward.grad_input(ones, x, grad_input=slope)


def _sigmoid(x: torch.Tensor, slope: torch.Tensor, ones: torch.Tensor) -> None:
    x.sigmoid_()
    _aten.sigmoid_backward.grad_input(ones, x, grad_input=slope)


def _silu(x: torch.Tensor, slope: torch.Tensor, ones: torch.Tensor) -> None:
    _aten.silu_backward.grad_input(ones, x, grad_input=slope)
    _aten.silu.out(x, out=x)


_ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ELU: _elu,
    nn.ReLU: _relu,
    nn.Tanh: _tanh,
    nn.Sigmoid: _sigmoid,
    nn.SiLU: _silu,
}


def find_activation(module: nn.Module) -> Activation | None:
    """Return an activation that is known here, or None."""
    if type(module) is nn.ELU and module.alpha != 1.0:
        return None
    return _ACTIVATIONS.get(type(module))


@dataclass
class _Layer:
    """One linear layer: its parameters, where its gradients add up, and what follows it."""

    linear: nn.Linear
    activation: Activation | None
    weight: torch.Tensor
    bias: torch.Tensor


class _Rows(NamedTuple):
    """Buffers of one layer, cut to the rows of a chunk."""

    output: torch.Tensor
    slope: torch.Tensor
    ones: torch.Tensor
    gradient: torch.Tensor


class Perceptron:
    """Passes of one perceptron, a chunk of rows at a time."""

    def __init__(self, mlp: nn.Sequential, rows: int, dtype: torch.dtype) -> None:
        """Allocate the buffers.

        Args:
            mlp: Linear layers, all with a bias, and activations between them that ``find_activation`` knows.
            rows: Most rows of a chunk.
            dtype: Type of the products: float32, or bfloat16 for mixed precision.
        """
        modules = list(mlp)
        self.dtype = dtype
        self._layers = [
            _Layer(linear, find_activation(modules[index + 1]) if index + 1 < len(modules) else None, linear.weight, linear.bias)
            for index, linear in enumerate(modules)
            if isinstance(linear, nn.Linear)
        ]  # fmt: skip
        widths = [layer.linear.out_features for layer in self._layers]
        # A tensor made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            self._buffers = [torch.empty(3, rows, width, dtype=dtype) for width in widths]
            self._ones = torch.ones(rows * max(widths), dtype=dtype)
            self._bias_gradients = [torch.empty(width) for width in widths]
            self._weight_gradients = [torch.empty(layer.linear.weight.shape, dtype=dtype) for layer in self._layers]
            self._casts = [(torch.empty(layer.linear.weight.shape, dtype=dtype), torch.empty(width, dtype=dtype))
                           for layer, width in zip(self._layers, widths, strict=True)]  # fmt: skip
        self._cuts: dict[int, list[_Rows]] = {}

    def refresh(self) -> None:
        """Take over the current parameters; call it after they have changed."""
        for layer, (weight, bias) in zip(self._layers, self._casts, strict=True):
            if self.dtype == torch.float32:
                layer.weight, layer.bias = layer.linear.weight.detach(), layer.linear.bias.detach()
            else:
                weight.copy_(layer.linear.weight.detach())
                bias.copy_(layer.linear.bias.detach())
                layer.weight, layer.bias = weight, bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the output ``(r, size)`` for ``inputs`` ``(r, size)``: a buffer, which the next call overwrites."""
        for layer, rows in zip(self._layers, self._cut(inputs.shape[0]), strict=True):
            torch.addmm(layer.bias, inputs, layer.weight.t(), out=rows.output)
            if layer.activation is not None:
                layer.activation(rows.output, rows.slope, rows.ones)
            inputs = rows.output
        return inputs

    def backward(self, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add this chunk's gradients to the parameters' ``grad``.

        Args:
            inputs: What ``forward`` was last called with.
            gradient: Gradient of the output ``(r, size)``, of this perceptron's type; not modified.
        """
        cut = self._cut(inputs.shape[0])
        for index in range(len(self._layers) - 1, -1, -1):
            layer = self._layers[index]
            below = inputs if index == 0 else cut[index - 1].output
            self._add_gradients(index, gradient, below)
            if index > 0:
                rows = cut[index - 1]
                torch.mm(gradient, layer.weight, out=rows.gradient)
                gradient = rows.gradient.mul_(rows.slope)

    def _add_gradients(self, index: int, gradient: torch.Tensor, below: torch.Tensor) -> None:
        linear = self._layers[index].linear
        assert linear.weight.grad is not None and linear.bias.grad is not None
        if self.dtype == torch.float32:
            linear.weight.grad.addmm_(gradient.t(), below)
        else:
            linear.weight.grad.add_(torch.mm(gradient.t(), below, out=self._weight_gradients[index]))
        linear.bias.grad.add_(torch.sum(gradient, 0, dtype=torch.float32, out=self._bias_gradients[index]))

    def _cut(self, number: int) -> list[_Rows]:
        """Return the buffers of every layer for a number of rows."""
        if number not in self._cuts:
            self._cuts[number] = [
                _Rows(*buffer[:2, :number], self._ones[: number * buffer.shape[2]].view(number, -1), buffer[2, :number])
                for buffer in self._buffers
            ]
        return self._cuts[number]


def chunk_rows(*models: nn.Module) -> int:
    """Return how many rows go through these models at once."""
    linears = [module for model in models for module in model.modules() if isinstance(module, nn.Linear)]
    bytes_per_row = 4 * sum(linear.in_features + 2 * linear.out_features for linear in linears)
    rows = _CHUNK_BYTES * torch.get_num_threads() // bytes_per_row
    return max(_FEWEST_ROWS, rows // _ROWS_STEP * _ROWS_STEP)
