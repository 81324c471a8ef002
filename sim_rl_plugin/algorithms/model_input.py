"""The input of a model within an update: prepared once, if the model allows it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from tensordict import TensorDict

from sim_rl_plugin.models import MLPModel
from sim_rl_plugin.modules import HiddenState


class ModelInput(NamedTuple):
    """The input of one model: what its ``prepare`` returned, or observations where it must see them itself."""

    value: torch.Tensor | TensorDict
    masks: torch.Tensor | None = None
    hidden_state: HiddenState = None

    def values(self, model: MLPModel) -> torch.Tensor:
        """Return the model's deterministic output."""
        if isinstance(self.value, TensorDict):
            return model(self.value, masks=self.masks, hidden_state=self.hidden_state)
        return model.forward_latent(model.encode(self.value, self.masks, self.hidden_state))

    def describe_distribution(self, model: MLPModel) -> None:
        """Leave the model with its distribution at this input, for log-probabilities and the like."""
        if isinstance(self.value, TensorDict):
            model(self.value, masks=self.masks, hidden_state=self.hidden_state, stochastic_output=True)
        else:
            model.update_distribution(model.encode(self.value, self.masks, self.hidden_state))
