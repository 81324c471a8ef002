"""Compiled models."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sim_rl_plugin.errors import UserError, unknown_name

COMPILE_MODES = ("default", "max-autotune-no-cudagraphs")


def compile_model(model: nn.Module, mode: str | None = None) -> Any:
    """Return a model whose forward pass is compiled by ``torch.compile``, with the same parameters.

    Args:
        model: The model.
        mode: ``default`` or ``max-autotune-no-cudagraphs``; None returns the model itself.

    Raises:
        ValueError: The mode is another one. Those with CUDA graphs reuse the memory of one pass's
            output for the next, while algorithms hold on to several outputs.
    """
    if mode is None:
        return model
    if mode in ("reduce-overhead", "max-autotune"):
        raise UserError(
            f"torch_compile_mode: {mode!r} uses CUDA graphs, which overwrite outputs that are still needed: "
            f"expected {' or '.join(map(repr, COMPILE_MODES))}, or null"
        )
    if mode not in COMPILE_MODES:
        raise unknown_name("torch_compile_mode", mode, COMPILE_MODES)
    return torch.compile(model, mode=mode)
