"""Recurrent network that keeps its memory between steps.

Legend of shapes: ``t`` steps, ``n`` environments, ``j`` trajectories, ``l`` layers, ``h`` hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Union

import torch
from torch import nn

from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.modules.trajectories import unpad_trajectories

HiddenState = Union[torch.Tensor, tuple[torch.Tensor, torch.Tensor], None]  # noqa: UP007
"""Memory of a recurrent model: a GRU's ``(l, n, h)``, an LSTM's pair of them, or None before the first step."""

_CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


def map_hidden_state(function: Callable[[torch.Tensor], torch.Tensor], hidden_state: Any) -> Any:
    """Apply a function to each tensor of a memory, or of a list of several models' memories; None stays None."""
    if hidden_state is None or isinstance(hidden_state, torch.Tensor):
        return None if hidden_state is None else function(hidden_state)
    return type(hidden_state)(map_hidden_state(function, part) for part in hidden_state)


def _num_envs(hidden_state: HiddenState) -> int | None:
    """Return of how many environments a memory is; None for an empty one."""
    part = hidden_state[0] if isinstance(hidden_state, tuple) else hidden_state
    return None if part is None else part.shape[1]


class RNN(nn.Module):
    """A GRU or LSTM with two modes: step by step with its own memory, and over whole trajectories.

    State dict keys are rsl_rl's: the network is called ``rnn``; the memory is no part of it.
    """

    hidden_state: HiddenState
    """Memory after the last step; None before the first."""

    def __init__(self, input_size: int, hidden_dim: int = 256, num_layers: int = 1, type: str = "lstm") -> None:
        """Build the network.

        Args:
            input_size: Size of one step's input.
            hidden_dim: Size of the memory and of the output.
            num_layers: Layers on top of each other.
            type: ``gru`` or ``lstm``, in any case.

        Raises:
            ValueError: There is no such type, or a size is below 1.
        """
        super().__init__()
        if type.lower() not in _CELLS:
            raise unknown_name("rnn_type", type, _CELLS)
        for name, size in (("rnn_hidden_dim", hidden_dim), ("rnn_num_layers", num_layers)):
            if size < 1:
                raise UserError(f"{name}: expected 1 or more, found {size}")
        cell = _CELLS[type.lower()]
        self.rnn = cell(input_size=input_size, hidden_size=hidden_dim, num_layers=num_layers)
        self.hidden_state = None

    def forward(
        self, input: torch.Tensor, masks: torch.Tensor | None = None, hidden_state: HiddenState = None
    ) -> torch.Tensor:
        """Run one step with the own memory, or whole trajectories with a given one.

        Args:
            input: ``(n, input_size)``, or with ``masks`` padded trajectories ``(t, j, input_size)``.
            masks: Bool ``(t, j)``: which steps of the trajectories are not padding.
            hidden_state: With ``masks``: memory at the start of each trajectory.

        Returns:
            ``(1, n, h)`` for a step, ``(t, n, h)`` for trajectories, put together again.

        Raises:
            ValueError: Trajectories come without a memory to start from, or the own memory is that of
                another number of environments.
        """
        if masks is None:
            return self._step(input)
        if hidden_state is None:
            raise UserError("trajectories need the hidden states that they start from")
        output, _ = self.rnn(input, hidden_state)
        return unpad_trajectories(output, masks)

    def _step(self, input: torch.Tensor) -> torch.Tensor:
        """Run one step with the own memory and move it on."""
        num_envs = _num_envs(self.hidden_state)
        if num_envs is not None and num_envs != input.shape[0]:
            raise UserError(
                f"the memory is that of {num_envs} environments, and there are {input.shape[0]}: call reset() first"
            )
        output, memory = self.rnn(input.unsqueeze(0), self.hidden_state)
        # Mixed precision may give bfloat16; the memory outlives this pass, and has the type of the passes to come.
        lasting = next(self.rnn.parameters()).dtype
        self.hidden_state = map_hidden_state(lambda part: part.to(lasting), memory)
        return output

    def __getstate__(self) -> dict[str, Any]:
        # Cut off from the graph of an update, which can be neither copied nor pickled.
        return {**self.__dict__, "hidden_state": map_hidden_state(torch.Tensor.detach, self.hidden_state)}

    def reset(self, dones: torch.Tensor | None = None, hidden_state: HiddenState = None) -> None:
        """Forget.

        Args:
            dones: ``(n,)``: which environments forget; None replaces the whole memory.
            hidden_state: Without ``dones``: what replaces the memory; None for an empty one.

        Raises:
            NotImplementedError: Both are given, which rsl_rl refuses, too.
        """
        if dones is None:
            self.hidden_state = hidden_state
            return
        if hidden_state is not None:
            raise NotImplementedError("a memory of one's own cannot be set for some environments only")
        # A product of its own, not a write in place: the memory may be an inference tensor, or part of a graph.
        ended_n1 = (dones > 0).view(-1, 1)
        self.hidden_state = map_hidden_state(lambda state: state.masked_fill(ended_n1, 0.0), self.hidden_state)

    def detach_hidden_state(self, dones: torch.Tensor | None = None) -> None:
        """Cut back-propagation through the memory, of all environments or of those where ``dones`` ``(n,)``."""
        if dones is None:
            self.hidden_state = map_hidden_state(torch.Tensor.detach, self.hidden_state)
            return
        ended_n1 = (dones > 0).view(-1, 1)
        self.hidden_state = map_hidden_state(
            lambda state: torch.where(ended_n1, state.detach(), state), self.hidden_state
        )
