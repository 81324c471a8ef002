"""Activation functions by the names that configs use."""

from __future__ import annotations

import torch
from torch import nn

from sim_rl_plugin.errors import unknown_name

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "selu": nn.SELU,
    "relu": nn.ReLU,
    "crelu": nn.CELU,  # rsl_rl's name for CELU, kept so that its configs mean the same here
    "lrelu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "identity": nn.Identity,
}

# Their backward pass needs the output alone, so the output may overwrite the input.
_IN_PLACE = {
    nn.ELU: torch.nn.functional.elu_,
    nn.ReLU: torch.relu_,
    nn.Tanh: torch.tanh_,
    nn.Sigmoid: torch.sigmoid_,
}


def resolve_nn_activation(act_name: str) -> nn.Module:
    """Return a new activation module.

    Args:
        act_name: ``elu``, ``selu``, ``relu``, ``crelu``, ``lrelu``, ``tanh``, ``sigmoid``,
            ``softplus``, ``gelu``, ``swish``, ``mish`` or ``identity``, in any case.

    Raises:
        ValueError: There is no such activation.
    """
    try:
        return _ACTIVATIONS[act_name.lower()]()
    except KeyError:
        raise unknown_name("activation", act_name, _ACTIVATIONS) from None


def apply_in_place(activation: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply an activation to a tensor that nobody else reads, into the same memory where that is safe."""
    in_place = _IN_PLACE.get(type(activation))
    if in_place is None or (type(activation) is nn.ELU and not _may_overwrite(activation, x)):
        return activation(x)
    return in_place(x)


def _may_overwrite(activation: nn.ELU, x: torch.Tensor) -> bool:
    """Return whether ELU's output is enough for its derivative, ``output + 1`` below zero.

    In bfloat16 the output of a saturated unit is rounded to -1, and its derivative is lost.
    """
    return activation.alpha == 1.0 and (x.dtype in (torch.float32, torch.float64) or not torch.is_grad_enabled())
