"""Forward and backward pass of a GRU with a perceptron behind it, over whole rollouts of some environments.

rsl_rl cuts a rollout where episodes end and pads the pieces to one length. Here the memory is exchanged in the step in
which a trajectory starts, so no padding is computed.

Legend of shapes: ``t`` steps, ``c`` environments of a chunk, ``h`` size of the memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from sim_rl_plugin.algorithms.fast import kernels
from sim_rl_plugin.algorithms.fast.perceptron import Perceptron, Rows, Sizes

_NUM_GATES = 3


class Sequences(NamedTuple):
    """Input of a recurrent model.

    Attributes:
        inputs: Prepared observations ``(t, c, size)``.
        starts: Where trajectories start, a bool array ``(t, c)``.
        saved: Memory before each step as it was in the rollout, an array ``(t, c, h)``; read at the starts.
    """

    inputs: torch.Tensor
    starts: Any
    saved: Any


class _Step(NamedTuple):
    """Buffers of one step, as tensors for products and as arrays for what lies between them."""

    before: torch.Tensor
    hidden_gates: torch.Tensor
    arrays: tuple[Any, ...]


class GatedPerceptron:
    """Passes of one recurrent model on one thread; in use like a ``Perceptron``."""

    def __init__(self, model: Any, num_rows: int) -> None:
        """Allocate the buffers.

        Args:
            model: ``RNNModel`` with a GRU of one layer.
            num_rows: Most steps times environments of a chunk.
        """
        self.dtype = torch.float32
        self._size: int = model.rnn.rnn.hidden_size
        self._perceptron = Perceptron(model.mlp, num_rows)
        self._gates, self._hidden_gates = torch.empty(2, num_rows, _NUM_GATES * self._size)
        self._before, self._memory, self._gradient, self._carried = torch.empty(4, num_rows, self._size)
        self._network: list[torch.Tensor] = []
        self._cuts: dict[tuple[int, int], list[_Step]] = {}

    @property
    def num_layers(self) -> int:
        """Linear layers of the perceptron."""
        return self._perceptron.num_layers

    def take(self, parameters: list[torch.Tensor]) -> None:
        """Use these parameters: the perceptron's first, the GRU's last, in the order of the modules."""
        self._perceptron.take(parameters)
        self._network = parameters[-4:]

    def last_rows(self, number: int) -> Rows:
        """Return the buffers of the perceptron's last layer."""
        return self._perceptron.last_rows(number)

    def forward(self, sequences: Sequences) -> torch.Tensor:
        """Return the output ``(t * c, size)``, a buffer."""
        num_steps, num_envs, _ = sequences.inputs.shape
        weight_input, weight_memory, bias_input, bias_memory = self._network
        rows = num_steps * num_envs
        torch.addmm(bias_input, sequences.inputs.flatten(0, 1), weight_input.t(), out=self._gates[:rows])
        transposed = weight_memory.t()
        last = sequences.saved[0]
        for step, starts, saved in zip(
            self._cut(num_steps, num_envs), sequences.starts, sequences.saved, strict=True
        ):  # fmt: skip
            before, gates, hidden_gates, memory, _ = step.arrays
            kernels.gru_begin(before, last, starts, saved)
            torch.addmm(bias_memory, step.before, transposed, out=step.hidden_gates)
            kernels.gru_step(gates, hidden_gates, before, memory)
            last = memory
        return self._perceptron.forward(self._memory[:rows])

    def begin_backward(self) -> None:
        """Prepare for the chunks of a mini-batch."""
        self._perceptron.begin_backward()

    def end_backward(self, gradients: list[torch.Tensor]) -> None:
        """Add to the gradients of a mini-batch what is still missing."""
        self._perceptron.end_backward(gradients)

    def backward(self, sequences: Sequences, gradients: list[torch.Tensor]) -> None:
        """Add this chunk's gradients, as ``Perceptron.backward`` does."""
        num_steps, num_envs, _ = sequences.inputs.shape
        rows = num_steps * num_envs
        self._perceptron.backward(self._memory[:rows], gradients, self._gradient[:rows])
        weight_memory = self._network[1]
        carried = self._carried[:num_envs].zero_()
        steps = self._cut(num_steps, num_envs)
        for index in range(num_steps - 1, -1, -1):
            before, gates, hidden_gates, _, gradient = steps[index].arrays
            # Behind the last step nothing is carried: there the carried gradient is zero.
            starts = sequences.starts[min(index + 1, num_steps - 1)]
            kernels.gru_step_backward(gradient, carried.numpy(), starts, gates, hidden_gates, before)
            carried.addmm_(steps[index].hidden_gates, weight_memory)
        gates, hidden_gates = self._gates[:rows], self._hidden_gates[:rows]
        weight_input_gradient, weight_memory_gradient, bias_input_gradient, bias_memory_gradient = gradients[-4:]
        weight_input_gradient.addmm_(gates.t(), sequences.inputs.flatten(0, 1))
        weight_memory_gradient.addmm_(hidden_gates.t(), self._before[:rows])
        bias_input_gradient.add_(gates.sum(0))
        bias_memory_gradient.add_(hidden_gates.sum(0))

    def _cut(self, num_steps: int, num_envs: int) -> list[_Step]:
        """Return the buffers of every step."""
        if (num_steps, num_envs) not in self._cuts:
            rows = num_steps * num_envs
            parts = [
                buffer[:rows].view(num_steps, num_envs, -1)
                for buffer in (self._before, self._gates, self._hidden_gates, self._memory, self._gradient)
            ]
            self._cuts[num_steps, num_envs] = [
                _Step(parts[0][step], parts[2][step], tuple(part[step].numpy() for part in parts))
                for step in range(num_steps)
            ]
        return self._cuts[num_steps, num_envs]


def gated_sizes(model: Any) -> Sizes:
    """Return the sizes of a recurrent model."""
    widest, weights = Sizes.of(model)
    network: nn.GRU = model.rnn.rnn
    own = sum(parameter.numel() for parameter in network.parameters())
    return Sizes(max(widest, network.hidden_size), weights + own)
