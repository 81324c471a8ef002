"""Memories of models, into checkpoints and back."""

from __future__ import annotations

from sim_rl_plugin.models.mlp_model import MLPModel
from sim_rl_plugin.modules import HiddenState
from sim_rl_plugin.modules.rnn import map_hidden_state


def memory_of(model: MLPModel) -> HiddenState:
    """Return a copy of a model's memory, without gradient; None for a model without one."""
    return map_hidden_state(lambda state: state.detach().clone(), model.get_hidden_state())


def restore_memory(model: MLPModel, memory: HiddenState, device: str) -> None:
    """Give a model the memory that ``memory_of`` returned."""
    model.reset(hidden_state=map_hidden_state(lambda state: state.to(device), memory))
