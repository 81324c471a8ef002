"""Exported files, run as a robot runs them: one file, observations in, actions out.

Legend of shapes: ``m`` robots at once, ``a`` actions, ``l`` layers, ``h`` hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.export.formats import INSTALL

_JIT_MEMORIES = ("hidden_state", "cell_state")


class Player(Protocol):
    """A file that is open and runs."""

    def reset(self, robots: np.ndarray) -> None:
        """Forget where ``robots``, bool ``(m,)``."""

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return actions ``(m, a)`` for observation groups ``(m, ...)``."""

    def memory(self) -> list[np.ndarray]:
        """Return the memory after the last step, parts ``(l, m, h)``; none without one."""


class OnnxPlayer:
    """ONNX Runtime, through the very class that is meant for robots."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        try:
            from sim_rl_plugin.onnx_policy import OnnxPolicy
        except ImportError as error:
            raise UserError(f"running an ONNX file needs more packages: {INSTALL}") from error
        self._policy = OnnxPolicy(path)

    def reset(self, robots: np.ndarray) -> None:
        """See ``Player``."""
        self._policy.reset(None if robots.all() else robots)

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """See ``Player``."""
        return self._policy(observations)

    def memory(self) -> list[np.ndarray]:
        """See ``Player``."""
        return list(self._policy._memory.values())


class TorchScriptPlayer:
    """A scripted module, which keeps the memory of one robot itself."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._module: Any = torch.jit.load(str(path), map_location="cpu").eval()
        self._inputs = about["inputs"]
        self._has_images = any(len(entry["shape"]) > 2 for entry in self._inputs)

    def reset(self, robots: np.ndarray) -> None:
        """See ``Player``; of one robot, for which it is all or nothing."""
        if robots.all():
            self._module.reset()

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """See ``Player``."""
        inputs = _tensors(observations, self._inputs)
        with torch.no_grad():
            if not self._has_images:
                return self._module(inputs[0]).numpy()
            is_flat = len(self._inputs[0]["shape"]) == 2
            flat, images = (inputs[0], inputs[1:]) if is_flat else (torch.zeros(len(inputs[0]), 0), inputs)
            return self._module(flat, images).numpy()

    def memory(self) -> list[np.ndarray]:
        """See ``Player``."""
        buffers = dict(self._module.named_buffers())
        return [buffers[name].numpy().copy() for name in _JIT_MEMORIES if name in buffers]


class Pt2Player:
    """A program of ``torch.export``, whose memory goes in and out."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        program = torch.export.load(str(path))
        self._module: Any = program.module()
        self._inputs = about["inputs"]
        # The placeholders that follow the observations are the memories.
        shapes = [
            node.meta["val"].shape for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
        ]
        self._shapes = [(int(shape[0]), int(shape[2])) for shape in shapes[len(self._inputs) :]]
        self._memory: list[torch.Tensor] = []

    def reset(self, robots: np.ndarray) -> None:
        """See ``Player``."""
        for part in self._memory:
            part[:, torch.from_numpy(robots)] = 0.0

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """See ``Player``."""
        inputs = _tensors(observations, self._inputs)
        if not self._memory:
            self._memory = [torch.zeros(layers, len(inputs[0]), size) for layers, size in self._shapes]
        with torch.no_grad():
            outputs = self._module(*inputs, *self._memory)
        actions, *self._memory = outputs if isinstance(outputs, tuple) else (outputs,)
        return actions.numpy()

    def memory(self) -> list[np.ndarray]:
        """See ``Player``."""
        return [part.numpy().copy() for part in self._memory]


def _tensors(observations: Mapping[str, np.ndarray], inputs: list[dict[str, Any]]) -> list[torch.Tensor]:
    """Return a file's inputs without memories, in order."""
    values = [np.concatenate([observations[group] for group in entry["groups"]], axis=1) for entry in inputs]
    return [torch.from_numpy(np.ascontiguousarray(value)) for value in values]
