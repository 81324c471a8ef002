"""Arrays between JAX and torch, and simulation states in a form that a checkpoint can hold.

What goes out is not copied: ``torch.from_dlpack`` gives a tensor in the JAX array's own memory. That is
safe for the results of a compiled function, which are new arrays at every call, as long as nothing else
reads them in JAX: the tensor can be written to. What comes in must be the simulation's own copy, because
JAX runs asynchronously and may keep the memory for as long as it likes.

On a GPU both libraries have streams of their own. Handing a tensor over makes JAX wait for the torch
kernels that were launched before, and the other way round. So JAX may free an array whose tensor torch
has dropped: whatever JAX puts there belongs to a later step, which waits for that step's actions.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch

from sim_rl_plugin.errors import UserError

# What torch has a type for; anything else is stored as integers of the same size.
_COMMON = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


class Bridge:
    """Moves arrays between torch's device and the JAX device beside it.

    Args:
        device: Where the learner wants its tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.jax_device = _jax_device_of(device)
        self._shares_memory = device.type == "cpu" or self.jax_device.platform != "cpu"

    def to_torch(self, array: jax.Array) -> torch.Tensor:
        """Return a tensor in the array's memory, or a copy where JAX runs on another device."""
        tensor = torch.from_dlpack(array)
        return tensor if self._shares_memory else tensor.to(self.device)

    def to_jax(self, tensor: torch.Tensor) -> Any:
        """Hand a tensor over that nobody will write to.

        Args:
            tensor: Contiguous, and owned by the caller of this method alone.
        """
        if self.jax_device.platform == "cpu":
            # NumPy's way into a compiled function is several times faster than DLPack's.
            return tensor.cpu().numpy()
        return jax.dlpack.from_dlpack(tensor)


def _jax_device_of(device: torch.device) -> jax.Device:
    """Return the JAX device that shares its memory with a torch device, or the CPU if there is none.

    Found by handing a tensor over. The libraries number GPUs on their own, so the index proves nothing.
    """
    if device.type != "cpu":
        try:
            return next(iter(jax.dlpack.from_dlpack(torch.zeros(1, device=device)).devices()))
        except Exception:
            # JAX without support for this GPU: it simulates on the CPU, and tensors are copied.
            pass
    return jax.devices("cpu")[0]


def to_state_dict(tree: Any) -> dict[str, torch.Tensor]:
    """Return copies of a tree's leaves by their paths, on the CPU, in types that torch has."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): _stored(leaf) for path, leaf in leaves}


def from_state_dict(state: dict[str, torch.Tensor], like: Any, device: jax.Device) -> Any:
    """Return the tree that ``to_state_dict`` took apart.

    Args:
        state: What it returned.
        like: A tree of the same structure, shapes and types.
        device: Where its arrays shall lie.

    Raises:
        UserError: A leaf is missing or has another shape.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    leaves = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path)
        if name not in state:
            raise UserError(f"the saved simulation has no {name!r}: it was written by another version of the task")
        expected = tuple(_stored(leaf).shape)
        if tuple(state[name].shape) != expected:
            raise UserError(
                f"the saved simulation's {name!r} has shape {tuple(state[name].shape)}, expected {expected}"
            )
        leaves.append(_restored(state[name], leaf, device))
    return jax.tree_util.tree_unflatten(structure, leaves)


def _is_typed_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _stored(leaf: Any) -> torch.Tensor:
    # PRNG keys with a type of their own do not leave JAX; the integers behind them do.
    array = np.array(jax.random.key_data(leaf) if _is_typed_key(leaf) else leaf)
    if array.dtype.name not in _COMMON:
        array = array.view(f"int{8 * array.dtype.itemsize}")
    return torch.from_numpy(array)


def _restored(tensor: torch.Tensor, like: Any, device: jax.Device) -> jax.Array:
    dtype = jax.random.key_data(like).dtype if _is_typed_key(like) else like.dtype
    # A copy: JAX may keep NumPy's memory.
    array = np.array(tensor.cpu().numpy()).view(dtype)
    data = jax.device_put(array, device)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(like)) if _is_typed_key(like) else data
