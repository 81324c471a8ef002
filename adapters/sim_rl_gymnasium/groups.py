"""From Gymnasium's spaces to observation groups: which group a space becomes, and in which layout.

Legend of shapes: ``n`` environments, ``s`` stacked frames, ``c`` channels, ``h`` height, ``w`` width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict

from sim_rl_plugin.errors import UserError


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Refuse spaces that have no place in the contract.

    Raises:
        UserError: Names the space, what was expected, and what to do.
    """
    if not isinstance(action_space, spaces.Box) or not np.issubdtype(action_space.dtype, np.floating):
        raise UserError(
            f"the action space is {action_space}, expected a Box of floats: only continuous actions can be trained"
        )
    for name, (_, space) in _named_spaces(observation_space).items():
        if not isinstance(space, spaces.Box):
            raise UserError(
                f"the observation space of {name!r} is {space}, expected a Box: flatten it with a wrapper "
                "such as gymnasium.wrappers.FlattenObservation (env.wrappers=[FlattenObservation])"
            )


@dataclass(frozen=True)
class Group:
    """Where one observation group comes from, and how it is laid out.

    Attributes:
        path: Keys that lead to it through nested ``Dict`` spaces; empty for the space itself.
        dtype: uint8 for images of bytes, float32 for everything else.
        arrange: Gives a batch ``(n, ...)`` of arrays or tensors the layout of the contract, as a view.
    """

    path: tuple[str, ...]
    dtype: torch.dtype
    arrange: Callable[[Any], Any]

    def read(self, observation: Any) -> Any:
        """Return this group's batch out of what the environment returned, as it is."""
        for key in self.path:
            observation = observation[key]
        return observation


class GroupMap:
    """Turns what a vector environment returns into observation groups.

    A ``Box`` is the group ``policy``. A ``Dict`` gives one group per key, a ``Dict`` within it one per
    inner key, named ``outer/inner``. Numbers become float32 vectors. Images become ``(n, c, h, w)``, and
    stay uint8 where they are: three dimensions with the channels first or last, two of uint8 (grey),
    four of uint8 (stacked frames, whose channels are put one behind the other).
    """

    def __init__(self, single_observation_space: spaces.Space, num_envs: int, device: torch.device) -> None:
        self._num_envs = num_envs
        self._device = device
        named = _named_spaces(single_observation_space)
        self.groups = {name: Group(path, *_layout(space)) for name, (path, space) in named.items()}

    def tensors(self, observation: Any) -> TensorDict:
        """Return a batch of observations as groups, each value copied and converted once."""
        groups = {
            name: to_tensor(group.arrange(group.read(observation)), group.dtype, self._device)
            for name, group in self.groups.items()
        }
        return TensorDict(groups, batch_size=[self._num_envs], device=self._device)

    def write_rows(self, groups: TensorDict, rows: np.ndarray, observations: list[Any]) -> None:
        """Put single environments' observations into their rows of a batch.

        Args:
            groups: The batch, written to.
            rows: Indices of the environments.
            observations: One observation for each of them.
        """
        index = torch.from_numpy(rows).to(self._device)
        for name, group in self.groups.items():
            stacked = np.stack([np.asarray(group.read(observation)) for observation in observations])
            groups[name][index] = to_tensor(group.arrange(stacked), group.dtype, self._device)


def to_tensor(values: Any, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """Return a new tensor with the values of an array or tensor: copied and converted in one pass."""
    if isinstance(values, torch.Tensor):
        tensor = values.detach()
    else:
        array = np.asarray(values)
        if not array.flags.writeable:
            return torch.tensor(array, dtype=dtype, device=device)  # slower, but does not warn
        tensor = torch.from_numpy(array)
    return tensor.to(device=device, dtype=dtype, copy=True, memory_format=torch.contiguous_format)


def _named_spaces(space: spaces.Space, path: tuple[str, ...] = ()) -> dict[str, tuple[tuple[str, ...], spaces.Space]]:
    """Return name, path and space of every observation group."""
    if not isinstance(space, spaces.Dict):
        return {"/".join(path) or "policy": (path, space)}
    named: dict[str, tuple[tuple[str, ...], spaces.Space]] = {}
    for key, inner in space.spaces.items():
        named.update(_named_spaces(inner, (*path, key)))
    return named


def image_sizes(observation_space: spaces.Space) -> dict[str, int | None]:
    """Return the groups that a space becomes: the shorter side of an image in pixels, None for a vector."""
    sizes: dict[str, int | None] = {}
    for name, (_, space) in _named_spaces(observation_space).items():
        assert space.shape is not None
        # Height and width are the two longest of any layout.
        sizes[name] = None if _channels_of(space) is None else sorted(space.shape)[-2]
    return sizes


def _layout(space: spaces.Space) -> tuple[torch.dtype, Callable[[Any], Any]]:
    channels = _channels_of(space)
    if channels is None:
        return torch.float32, lambda batch: batch.reshape(batch.shape[0], -1)
    return (torch.uint8 if space.dtype == np.uint8 else torch.float32), channels


def _channels_of(space: spaces.Space) -> Callable[[Any], Any] | None:
    """Return how a batch of images gets its channels in front, or None for a space of no images."""
    assert space.shape is not None
    is_bytes = space.dtype == np.uint8
    if len(space.shape) == 2 and is_bytes:
        return lambda batch: batch[:, None]
    if len(space.shape) == 3:
        return _last_to_front if _channels_are_last(space.shape) else lambda batch: batch
    if len(space.shape) == 4 and is_bytes:
        last = _channels_are_last(space.shape[1:])
        return lambda batch: _merge_frames(batch, last)
    return None


def _channels_are_last(shape: tuple[int, ...]) -> bool:
    # Channels are the shorter end, and stacks of grey frames have theirs in front already.
    return shape[-1] <= shape[0]


def _last_to_front(batch: Any) -> Any:
    """Return ``(n, h, w, c)`` as ``(n, c, h, w)``."""
    return batch.transpose(0, 3, 1, 2) if isinstance(batch, np.ndarray) else batch.permute(0, 3, 1, 2)


def _merge_frames(batch: Any, channels_last: bool) -> Any:
    """Return ``(n, s, h, w, c)`` or ``(n, s, c, h, w)`` as ``(n, s * c, h, w)``."""
    if channels_last:
        axes = (0, 1, 4, 2, 3)
        batch = batch.transpose(*axes) if isinstance(batch, np.ndarray) else batch.permute(*axes)
    return batch.reshape(batch.shape[0], -1, *batch.shape[3:])
