"""Forward and backward pass of a multi-layer perceptron, written by hand.

Autograd allocates every activation anew, for the whole mini-batch, and walks through memory layer by layer. Here a few
hundred samples at a time go forward and back through buffers that are kept, small enough to stay in the processor's
cache; gradients add up over these chunks.

Legend of shapes: ``r`` rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from sim_rl_plugin.algorithms.fast import kernels

_aten = torch.ops.aten


class Rows:
    """Buffers of one layer, cut to the rows of a chunk; ``arrays`` are the same ones for numba."""

    def __init__(self, buffer: torch.Tensor, ones: torch.Tensor) -> None:
        """Take views.

        Args:
            buffer: ``(3, r, size)``.
            ones: ``(r, size)``.
        """
        self.output, self.slope, self.gradient = buffer.unbind()
        self.ones = ones
        self.transposed_gradient = self.gradient.t()
        self.arrays = [as_array(part) for part in buffer.unbind()]


class Activation(NamedTuple):
    """An activation by hand.

    Attributes:
        forward: Overwrites ``output``, and ``slope`` by the derivative if the backward pass needs it.
        backward: Multiplies ``gradient`` by the derivative, and adds its columns' sums to the bias's gradient.
    """

    forward: Callable[[Rows], None]
    backward: Callable[[Rows, torch.Tensor], None]


def as_array(tensor: torch.Tensor) -> Any:
    """Return a tensor as numba takes it."""
    return tensor.numpy() if tensor.dtype == torch.float32 else tensor.view(torch.uint16).numpy()


def _elu(rows: Rows) -> None:
    output, slope, _ = rows.arrays
    if rows.output.dtype == torch.float32:
        kernels.elu(output)
    else:
        kernels.elu_bfloat16(output, slope)


def _elu_backward(rows: Rows, bias_gradient: torch.Tensor) -> None:
    output, slope, gradient = rows.arrays
    if rows.output.dtype == torch.float32:
        kernels.elu_backward(gradient, output, bias_gradient.numpy())
    else:
        kernels.elu_backward_bfloat16(gradient, slope, bias_gradient.numpy())


def _relu(rows: Rows) -> None:
    torch.sign(rows.output.clamp_(min=0.0), out=rows.slope)


def _tanh(rows: Rows) -> None:
    rows.output.tanh_()
    _aten.tanh_backward.grad_input(rows.ones, rows.output, grad_input=rows.slope)


def _sigmoid(rows: Rows) -> None:
    rows.output.sigmoid_()
    _aten.sigmoid_backward.grad_input(rows.ones, rows.output, grad_input=rows.slope)


def _silu(rows: Rows) -> None:
    _aten.silu_backward.grad_input(rows.ones, rows.output, grad_input=rows.slope)
    _aten.silu.out(rows.output, out=rows.output)


def _times_slope(rows: Rows, bias_gradient: torch.Tensor) -> None:
    rows.gradient.mul_(rows.slope)
    bias_gradient.add_(rows.gradient.sum(0, dtype=torch.float32))


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ELU: Activation(_elu, _elu_backward),
    nn.ReLU: Activation(_relu, _times_slope),
    nn.Tanh: Activation(_tanh, _times_slope),
    nn.Sigmoid: Activation(_sigmoid, _times_slope),
    nn.SiLU: Activation(_silu, _times_slope),
}


class Sizes(NamedTuple):
    """What decides how many rows of a perceptron, or of several, go through at once.

    Attributes:
        widest: Units of the widest layer.
        weights: Weights of all layers.
    """

    widest: int
    weights: int

    @classmethod
    def of(cls, *models: Any) -> Sizes:
        """Return the sizes of models with an ``mlp``."""
        linears = [linear for model in models for linear in list(model.mlp)[0::2]]
        return cls(max(linear.out_features for linear in linears), sum(linear.weight.numel() for linear in linears))


class Perceptron:
    """Passes of one perceptron on one thread, a chunk of rows at a time."""

    def __init__(self, mlp: nn.Sequential, num_rows: int, dtype: torch.dtype = torch.float32) -> None:
        """Allocate the buffers.

        Args:
            mlp: Linear layers, all with a bias, and between them activations of ``ACTIVATIONS``.
            num_rows: Most rows of a chunk.
            dtype: Type of the products: float32, or bfloat16 for mixed precision.
        """
        modules: list[Any] = list(mlp)
        self.num_rows, self.dtype = num_rows, dtype
        self._activations = [ACTIVATIONS[type(module)] for module in modules[1::2]]
        linears = modules[0::2]
        widths = [linear.out_features for linear in linears]
        # A tensor made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            self._buffers = [torch.empty(3, num_rows, width, dtype=dtype) for width in widths]
            self._ones = torch.ones(num_rows * max(widths), dtype=dtype)
            # A product with many more rows than columns is slower than its transpose.
            self._transposed_gradients = [
                torch.zeros(linear.in_features, linear.out_features)
                if dtype == torch.float32 and linear.out_features > 2 * linear.in_features
                else None
                for linear in linears
            ]
        self._cuts: dict[int, list[Rows]] = {}
        self._weights: list[torch.Tensor] = []
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def take(self, parameters: list[torch.Tensor]) -> None:
        """Use these weights and biases, in the order of the layers, of this perceptron's type; ignore what follows."""
        number = 2 * len(self._buffers)
        self._weights = parameters[0:number:2]
        self._layers = [(weight.t(), bias) for weight, bias in zip(self._weights, parameters[1:number:2], strict=True)]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the output ``(r, size)`` for ``inputs`` ``(r, size)``: a buffer, which the next call overwrites."""
        cut = self._cut(inputs.shape[0])
        for index, ((weight, bias), rows) in enumerate(zip(self._layers, cut, strict=True)):
            torch.addmm(bias, inputs, weight, out=rows.output)
            if index < len(self._activations):
                self._activations[index].forward(rows)
            inputs = rows.output
        return inputs

    @property
    def num_layers(self) -> int:
        """Linear layers."""
        return len(self._buffers)

    def last_rows(self, number: int) -> Rows:
        """Return the buffers of the last layer, in whose ``gradient`` ``backward`` begins."""
        return self._cut(number)[-1]

    def begin_backward(self) -> None:
        """Prepare for the chunks of a mini-batch."""
        for gradient in self._transposed_gradients:
            if gradient is not None:
                gradient.zero_()

    def end_backward(self, gradients: list[torch.Tensor]) -> None:
        """Add to the gradients of a mini-batch, given as to ``backward``, what is still missing."""
        for index, gradient in enumerate(self._transposed_gradients):
            if gradient is not None:
                gradients[2 * index].add_(gradient.t())

    def backward(
        self, inputs: torch.Tensor, gradients: list[torch.Tensor], input_gradient: torch.Tensor | None = None
    ) -> None:
        """Add this chunk's gradients of weights and biases, except for that of the last bias.

        Between ``begin_backward`` and ``end_backward``.

        Args:
            inputs: What ``forward`` was last called with.
            gradients: Of weights and biases, in the order of the layers, float32.
            input_gradient: Overwritten by the gradient of the inputs; None where nobody needs it.
        """
        cut = self._cut(inputs.shape[0])
        for index in range(len(cut) - 1, -1, -1):
            rows = cut[index]
            below = inputs if index == 0 else cut[index - 1].output
            transposed = self._transposed_gradients[index]
            if transposed is not None:
                transposed.addmm_(below.t(), rows.gradient)
            elif self.dtype == torch.float32:
                gradients[2 * index].addmm_(rows.transposed_gradient, below)
            else:
                gradients[2 * index].add_(rows.transposed_gradient @ below)
            if index > 0:
                torch.mm(rows.gradient, self._weights[index], out=cut[index - 1].gradient)
                self._activations[index - 1].backward(cut[index - 1], gradients[2 * index - 1])
            elif input_gradient is not None:
                torch.mm(rows.gradient, self._weights[0], out=input_gradient)

    def _cut(self, number: int) -> list[Rows]:
        """Return the buffers of every layer for a number of rows."""
        if number not in self._cuts:
            self._cuts[number] = [
                Rows(buffer[:, :number], self._ones[: number * buffer.shape[2]].view(number, -1))
                for buffer in self._buffers
            ]
        return self._cuts[number]
