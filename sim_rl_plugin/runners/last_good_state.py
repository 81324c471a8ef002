"""A copy of what an algorithm has learned, to go back to when an iteration goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_Place = tuple[Any, Any]
"""A dict and a key of it, where a tensor lies."""


class LastGoodState:
    """Models, normalisers, optimizers and the learning rate of an algorithm, copied where they lie.

    ``keep`` is called once per iteration, so it copies from tensor to tensor on their device and waits for
    nothing.
    """

    def __init__(self, algorithm: Any) -> None:
        """Note whose state it is; ``keep`` copies."""
        self._algorithm = algorithm
        self._places: list[_Place] = []
        self._copies: list[torch.Tensor] = []
        self._states: list[tuple[Any, int]] = []
        self._numbers: list[tuple[Any, Any, Any]] = []
        self._rnd: dict[str, Any] | None = None

    def keep(self) -> None:
        """Copy the current state."""
        states = [(optimizer.state, len(optimizer.state)) for optimizer in self._optimizers()]
        with torch.no_grad():
            # An optimizer makes its state in its first step, and gets another when a checkpoint is loaded.
            if not self._is_known(states):
                self._states, self._places = states, list(self._tensors())
                self._copies = [torch.empty_like(holder[key]) for holder, key in self._places]
            torch._foreach_copy_(self._copies, [holder[key] for holder, key in self._places])
        groups = [group for optimizer in self._optimizers() for group in optimizer.param_groups]
        self._numbers = [(group, "lr", group["lr"]) for group in groups if not isinstance(group["lr"], torch.Tensor)]
        self._numbers += [(vars(self._algorithm), name, vars(self._algorithm)[name]) for name in self._counters()]
        rnd = getattr(self._algorithm, "rnd", None)
        self._rnd = None if rnd is None else rnd.training_state()

    def restore(self) -> None:
        """Go back to what was kept."""
        kept = {id(holder) for holder, _ in self._places}
        for optimizer in self._optimizers():
            for parameter in [p for p, state in optimizer.state.items() if id(state) not in kept]:
                del optimizer.state[parameter]  # of a first step that shall not have been taken
        with torch.no_grad():
            for (holder, key), copied in zip(self._places, self._copies, strict=True):
                holder[key].copy_(copied)
        for holder, key, number in self._numbers:
            holder[key] = number
        if self._rnd is not None:
            self._algorithm.rnd.load_training_state(self._rnd, self._algorithm.storage.num_envs)

    def _is_known(self, states: list[tuple[Any, int]]) -> bool:
        """Return whether the places that were found last time are those of these optimizers' states."""
        return len(states) == len(self._states) and all(
            own is known and size == known_size
            for (own, size), (known, known_size) in zip(states, self._states, strict=True)
        )

    def _modules(self) -> Iterator[nn.Module]:
        """Yield every module once; a compiled front holds those of the model behind it."""
        seen: set[int] = set()
        for value in vars(self._algorithm).values():
            if isinstance(value, nn.Module):
                for module in value.modules():
                    if id(module) not in seen:
                        seen.add(id(module))
                        yield module

    def _optimizers(self) -> Iterator[torch.optim.Optimizer]:
        yield self._algorithm.optimizer
        rnd = getattr(self._algorithm, "rnd", None)
        if rnd is not None:
            yield rnd.optimizer

    def _counters(self) -> list[str]:
        return [name for name in ("num_updates",) if name in vars(self._algorithm)]

    def _tensors(self) -> Iterator[_Place]:
        """Yield where each tensor lies that an iteration may change."""
        yield vars(self._algorithm), "_learning_rate"
        for module in self._modules():
            for holder in (module._parameters, module._buffers):
                yield from ((holder, name) for name, value in holder.items() if value is not None)
        for optimizer in self._optimizers():
            for state in optimizer.state.values():
                yield from ((state, name) for name, value in state.items() if isinstance(value, torch.Tensor))
