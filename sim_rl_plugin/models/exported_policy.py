"""Policies out of files that somebody exported, as teachers.

Legend of shapes: ``n`` environments, ``l`` layers, ``h`` hidden size.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import nn

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.modules import HiddenState

_JIT_MEMORIES = ("hidden_state", "cell_state")


def is_exported_policy(path: str) -> bool:
    """Return whether a file is ONNX or TorchScript; a checkpoint is neither."""
    file = Path(path)
    if file.suffix.lower() == ".onnx":
        return True
    if not file.is_file() or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())


class ExportedPolicy(nn.Module):
    """A TorchScript or ONNX policy with the interface of a model, for Distillation's teacher.

    Understands what rsl_rl's and our exporters write: flat observations as one tensor, then images; a
    recurrent TorchScript module that keeps its memory in ``hidden_state`` and ``cell_state``, a
    recurrent ONNX graph with inputs ``*_in`` and outputs ``*_out``. A graph that was exported for one
    robot is run once per environment.

    It learns nothing, has no distribution, and its state dict is empty: the file stays where it is.
    """

    is_loaded: bool = True
    """The parameters are in the file."""

    distribution = None
    backend: Any

    def __init__(
        self, obs: TensorDict, obs_groups: dict[str, list[str]], obs_set: str, output_dim: int, path: str
    ) -> None:
        """Open the file.

        Args:
            obs: Observations as the environment gives them, batch size ``[n]``.
            obs_groups: Observation sets: which groups each of them is made of, in order.
            obs_set: The set that this model reads.
            output_dim: Number of actions.
            path: The file.

        Raises:
            ValueError: The file is missing or damaged, a package is missing, or it does not fit.
        """
        super().__init__()
        groups = obs_groups[obs_set]
        self.obs_groups = [group for group in groups if obs[group].dim() == 2]
        self.obs_groups_2d = [group for group in groups if obs[group].dim() != 2]
        if not Path(path).is_file():
            raise UserError(f"{obs_set}.path: no file at {path}")
        is_onnx = Path(path).suffix.lower() == ".onnx"
        # Not a sub-module: its parameters are not ours to train, move or save.
        self.__dict__["backend"] = _OnnxBackend(path) if is_onnx else _JitBackend(path)
        self.is_recurrent = self.backend.is_recurrent
        try:
            actions = self(obs)
        except Exception as error:  # the runtimes raise classes of their own
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{obs_set}.path: {path} cannot read the groups {', '.join(groups)}: {reason}") from error
        self.reset()
        if actions.shape[-1] != output_dim:
            raise UserError(f"{obs_set}.path: {path} gives {actions.shape[-1]} actions, the robot takes {output_dim}")

    def forward(
        self,
        obs: TensorDict,
        masks: torch.Tensor | None = None,
        hidden_state: HiddenState = None,
        stochastic_output: bool = False,
    ) -> torch.Tensor:
        """Return actions ``(n, output_dim)``; a recurrent policy moves on by one step."""
        flat = torch.cat([obs[group] for group in self.obs_groups], dim=-1) if self.obs_groups else None
        images = [obs[group] for group in self.obs_groups_2d]
        with torch.no_grad():
            return self.backend.run(flat, images)

    def reset(self, dones: torch.Tensor | None = None, hidden_state: HiddenState = None) -> None:
        """Clear the memory where ``dones`` ``(n,)``; without ``dones`` replace it by ``hidden_state``."""
        if dones is not None:
            for part in self.backend.memory:
                part[:, (dones > 0).to(part.device)] = 0.0
            return
        parts = hidden_state if isinstance(hidden_state, tuple) else (hidden_state,)
        # Ordinary tensors even within inference mode, for they are written to outside of it, too.
        with torch.inference_mode(False):
            self.backend.memory = [part.clone() for part in parts if part is not None]

    def get_hidden_state(self) -> HiddenState:
        """Return the memory, ``(l, n, h)`` or a pair of them; None before the first step."""
        memory = [part.clone() for part in self.backend.memory]
        if not memory:
            return None
        return memory[0] if len(memory) == 1 else (memory[0], memory[1])

    def detach_hidden_state(self, dones: torch.Tensor | None = None) -> None:
        """Do nothing: the memory has no gradient."""

    def update_normalization(self, obs: TensorDict) -> None:
        """Do nothing: the policy has learned."""


class _JitBackend:
    """Runs a TorchScript module."""

    def __init__(self, path: str) -> None:
        try:
            self.module: Any = torch.jit.load(path, map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{path} is no TorchScript module: {' '.join(str(error).split())[:200]}") from error
        self._device = torch.device("cpu")
        buffers = dict(self.module.named_buffers())
        self._shapes = {name: buffers[name].shape for name in _JIT_MEMORIES if name in buffers}
        self.is_recurrent = bool(self._shapes)
        self.memory: list[torch.Tensor] = []

    def run(self, flat: torch.Tensor | None, images: list[torch.Tensor]) -> torch.Tensor:
        """Run one step; ``flat (n, size)``, images ``(n, channels, height, width)``."""
        some = images[0] if flat is None else flat
        if some.device != self._device:
            self.module.to(some.device)
            self._device = some.device
        self._remember(some.shape[0])
        if not images:
            return self.module(flat)
        return self.module(some.new_zeros(some.shape[0], 0).float() if flat is None else flat, images)

    def _remember(self, num_envs: int) -> None:
        """Give the module a memory for as many environments; it writes into it."""
        if self.is_recurrent and not self.memory:
            # Ordinary tensors even within inference mode, for the memory outlives it.
            with torch.inference_mode(False):
                self.memory = [
                    torch.zeros(shape[0], num_envs, shape[2], device=self._device) for shape in self._shapes.values()
                ]
        for name, part in zip(self._shapes, self.memory, strict=False):
            setattr(self.module, name, part)


class _OnnxBackend:
    """Runs an ONNX graph on the CPU."""

    def __init__(self, path: str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError('a teacher out of an ONNX file needs: pip install "sim-rl-plugin[export]"') from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # small graphs; its threads would wait for ours
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes, which are not public
            raise UserError(f"{path} is no ONNX graph: {' '.join(str(error).split())[:200]}") from error
        inputs = {entry.name: entry for entry in self.session.get_inputs()}
        self._memories = {name: entry.shape for name, entry in inputs.items() if name.endswith("_in")}
        self._inputs = [entry for name, entry in inputs.items() if name not in self._memories]
        self._outputs = [entry.name for entry in self.session.get_outputs()]
        self._new_memories = [f"{name.removesuffix('_in')}_out" for name in self._memories]
        actions = [name for name in self._outputs if name not in self._new_memories]
        if not set(self._new_memories) <= set(self._outputs) or not actions:
            raise UserError(f"{path}: inputs {', '.join(inputs)} and outputs {', '.join(self._outputs)} are no policy")
        self._actions = actions[0]
        self._one_by_one = self._inputs[0].shape[0] == 1
        self.is_recurrent = bool(self._memories)
        self.memory: list[torch.Tensor] = []

    def run(self, flat: torch.Tensor | None, images: list[torch.Tensor]) -> torch.Tensor:
        """Run one step; ``flat (n, size)``, images ``(n, channels, height, width)``."""
        given = ([] if flat is None else [flat]) + images
        if len(given) != len(self._inputs):
            names = ", ".join(entry.name for entry in self._inputs)
            raise ValueError(f"the graph has the inputs {names}, but there are {len(given)} observations")
        num_envs, device = given[0].shape[0], given[0].device
        if self.is_recurrent and not self.memory:
            with torch.inference_mode(False):
                self.memory = [torch.zeros(shape[0], num_envs, shape[2]) for shape in self._memories.values()]
        feeds = {entry.name: value.cpu().numpy() for entry, value in zip(self._inputs, given, strict=True)}
        memories = {name: part.cpu().numpy() for name, part in zip(self._memories, self.memory, strict=True)}
        if self._one_by_one:
            pieces = [self._call(feeds, memories, slice(row, row + 1)) for row in range(num_envs)]
            results = [np.concatenate(parts, axis=min(axis, 1)) for axis, parts in enumerate(zip(*pieces, strict=True))]
        else:
            results = self._call(feeds, memories, slice(None))
        with torch.inference_mode(False):
            self.memory = [torch.from_numpy(np.array(part)) for part in results[1:]]
        return torch.from_numpy(np.array(results[0])).to(device)

    def _call(self, feeds: dict[str, np.ndarray], memories: dict[str, np.ndarray], rows: slice) -> list[np.ndarray]:
        """Return actions and memories of some environments."""
        own = {name: np.ascontiguousarray(value[rows]) for name, value in feeds.items()}
        own |= {name: np.ascontiguousarray(value[:, rows]) for name, value in memories.items()}
        return self.session.run([self._actions, *self._new_memories], own)
