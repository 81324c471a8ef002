"""Models with a memory: a recurrent network in front of a multi-layer perceptron.

Legend of shapes: ``t`` steps, ``n`` environments, ``j`` trajectories, ``l`` layers, ``h`` hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from torch import nn

from sim_rl_plugin.models.mlp_model import ExportablePolicy, MLPModel
from sim_rl_plugin.modules import RNN, HiddenState


class RNNModel(MLPModel):
    """Concatenate observation groups, normalise them, and run a GRU or LSTM and a multi-layer perceptron.

    Called without ``masks``, a forward pass is one step and moves the model's own memory on; ``reset``
    clears it where episodes ended. Called with padded trajectories, ``masks`` and the memory at their
    starts, it leaves the own memory alone.
    """

    is_recurrent: bool = True
    """Whether the model has a memory."""

    def __init__(
        self,
        obs: TensorDict,
        obs_groups: dict[str, list[str]],
        obs_set: str,
        output_dim: int,
        hidden_dims: tuple[int, ...] | list[int] = (256, 256, 256),
        activation: str = "elu",
        obs_normalization: bool = False,
        distribution_cfg: dict[str, Any] | None = None,
        rnn_type: str = "lstm",
        rnn_hidden_dim: int = 256,
        rnn_num_layers: int = 1,
    ) -> None:
        """Build the model for the observations that it will see.

        Args:
            obs: Observations as the environment gives them, batch size ``[num_envs]``.
            obs_groups: Observation sets: which groups each of them is made of, in order.
            obs_set: The set that this model reads (``actor``, ``critic``, ...).
            output_dim: Number of actions, or 1 for a value.
            hidden_dims: Sizes of the perceptron's hidden layers.
            activation: Name of the perceptron's activation function.
            obs_normalization: Shift and scale observations by their running mean and deviation.
            distribution_cfg: ``class_name`` and arguments of the distribution; None for a
                deterministic model.
            rnn_type: ``gru`` or ``lstm``.
            rnn_hidden_dim: Size of the memory.
            rnn_num_layers: Recurrent layers on top of each other.

        Raises:
            ValueError: A group is missing or not flat, or an argument is out of range.
        """
        self.latent_dim = rnn_hidden_dim
        super().__init__(
            obs, obs_groups, obs_set, output_dim, hidden_dims, activation, obs_normalization, distribution_cfg
        )
        self.rnn = RNN(self.obs_dim, rnn_hidden_dim, rnn_num_layers, rnn_type)

    def encode(
        self, prepared: torch.Tensor, masks: torch.Tensor | None = None, hidden_state: HiddenState = None
    ) -> torch.Tensor:
        """Run the recurrent network over one step ``(n, obs_dim)`` or over padded trajectories ``(t, j, obs_dim)``.

        Returns:
            ``(n, h)``, or for trajectories ``(t, n, h)``.
        """
        output = self.rnn(prepared, masks, hidden_state)
        return output if masks is not None else output.squeeze(0)

    def reset(self, dones: torch.Tensor | None = None, hidden_state: HiddenState = None) -> None:
        """Clear the memory where ``dones`` ``(n,)``; without ``dones`` replace it by ``hidden_state``."""
        self.rnn.reset(dones, hidden_state)

    def get_hidden_state(self) -> HiddenState:
        """Return the memory after the last step; None before the first."""
        return self.rnn.hidden_state

    def detach_hidden_state(self, dones: torch.Tensor | None = None) -> None:
        """Cut back-propagation through the memory, everywhere or where ``dones`` ``(n,)``."""
        self.rnn.detach_hidden_state(dones)

    def as_jit(self) -> nn.Module:
        """Return a copy for ``torch.jit.script`` that keeps the memory of one robot itself, and has ``reset``."""
        return _JitLSTM(self) if isinstance(self.rnn.rnn, nn.LSTM) else _JitGRU(self)

    def as_onnx(self, verbose: bool = False) -> nn.Module:
        """Return a copy for ``torch.onnx.export`` whose memory goes in and out with every call."""
        return _OnnxLSTM(self, verbose) if isinstance(self.rnn.rnn, nn.LSTM) else _OnnxGRU(self, verbose)

    def _get_latent_dim(self) -> int:
        """Return the size of the memory, which the perceptron reads."""
        return self.latent_dim


class _ExportedRNN(ExportablePolicy):
    """What the exported forms of a recurrent model have in common."""

    is_recurrent: bool = True

    def __init__(self, model: RNNModel, verbose: bool = False) -> None:
        super().__init__(model, verbose)
        network = model.rnn.rnn
        # The bare network: exporters need not understand the module that keeps the memory. A copy by its state,
        # for a memory that is part of a graph cannot be copied.
        self.rnn: Any = type(network)(network.input_size, network.hidden_size, network.num_layers)
        self.rnn.load_state_dict(network.state_dict())

    def _empty(self) -> torch.Tensor:
        return torch.zeros(self.rnn.num_layers, 1, self.rnn.hidden_size)


class _JitGRU(_ExportedRNN):
    """A GRU policy that remembers: observations ``(1, obs_dim)`` in, actions ``(1, num_actions)`` out."""

    if TYPE_CHECKING:  # TorchScript cannot read postponed annotations
        hidden_state: torch.Tensor

    def __init__(self, model: RNNModel) -> None:
        super().__init__(model)
        self.register_buffer("hidden_state", self._empty())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, hidden = self.rnn(self.obs_normalizer(x).unsqueeze(0), self.hidden_state)
        self.hidden_state[:] = hidden
        return self.deterministic_output(self.mlp(x.squeeze(0)))

    @torch.jit.export
    def reset(self) -> None:
        self.hidden_state[:] = 0.0


class _JitLSTM(_ExportedRNN):
    """An LSTM policy that remembers: observations ``(1, obs_dim)`` in, actions ``(1, num_actions)`` out."""

    if TYPE_CHECKING:  # TorchScript cannot read postponed annotations
        hidden_state: torch.Tensor
        cell_state: torch.Tensor

    def __init__(self, model: RNNModel) -> None:
        super().__init__(model)
        self.register_buffer("hidden_state", self._empty())
        self.register_buffer("cell_state", self._empty())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, (hidden, cell) = self.rnn(self.obs_normalizer(x).unsqueeze(0), (self.hidden_state, self.cell_state))
        self.hidden_state[:] = hidden
        self.cell_state[:] = cell
        return self.deterministic_output(self.mlp(x.squeeze(0)))

    @torch.jit.export
    def reset(self) -> None:
        self.hidden_state[:] = 0.0
        self.cell_state[:] = 0.0


class _OnnxGRU(_ExportedRNN):
    """A GRU policy: ``obs (n, obs_dim)`` and ``h_in (l, n, h)`` in, ``actions`` and ``h_out`` out."""

    def forward(self, obs: torch.Tensor, h_in: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, h_out = self.rnn(self.obs_normalizer(obs).unsqueeze(0), h_in)
        return self.deterministic_output(self.mlp(x.squeeze(0))), h_out

    def get_dummy_inputs(self) -> tuple[torch.Tensor, ...]:
        """Return inputs to trace with."""
        return (*super().get_dummy_inputs(), self._empty())

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs in the exported file."""
        return ["obs", "h_in"]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs in the exported file."""
        return ["actions", "h_out"]


class _OnnxLSTM(_ExportedRNN):
    """An LSTM policy: ``obs``, ``h_in`` and ``c_in`` in, ``actions``, ``h_out`` and ``c_out`` out."""

    def forward(
        self, obs: torch.Tensor, h_in: torch.Tensor, c_in: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, (h_out, c_out) = self.rnn(self.obs_normalizer(obs).unsqueeze(0), (h_in, c_in))
        return self.deterministic_output(self.mlp(x.squeeze(0))), h_out, c_out

    def get_dummy_inputs(self) -> tuple[torch.Tensor, ...]:
        """Return inputs to trace with."""
        return (*super().get_dummy_inputs(), self._empty(), self._empty())

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs in the exported file."""
        return ["obs", "h_in", "c_in"]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs in the exported file."""
        return ["actions", "h_out", "c_out"]
