"""PPO's update on a GPU: the optimizer's step is recorded as a CUDA graph once, and replayed for every mini-batch.

A step is some eighty small kernels, and asking for them one by one takes longer than running them. What is recorded is
the plain path's own function, so the numbers are its numbers.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.algorithms.mini_batches import MiniBatch

if TYPE_CHECKING:
    from sim_rl_plugin.algorithms.ppo import PPO

_log = logging.getLogger(__name__)

Step = Callable[[], torch.Tensor]
Recorder = Callable[[Step, torch.optim.Optimizer], tuple[Callable[[], None], torch.Tensor]]
"""Takes a step, without running it, and its optimizer; returns what runs it, and where its result will be."""

_NUM_WARM_UPS = 3
"""Steps before the recording, in which libraries and the optimizer allocate what they keep."""


def record_cuda_graph(step: Step, optimizer: torch.optim.Optimizer) -> tuple[Callable[[], None], torch.Tensor]:
    """Record what a step asks of the device, see ``Recorder``."""
    graph = torch.cuda.CUDAGraph()
    with _capturable(optimizer), torch.cuda.graph(graph):
        result = step()
    return graph.replay, result


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let an optimizer be recorded: a fused one is able to, but wants to be told."""
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    before = [group["capturable"] for group in groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            group["capturable"] = value


def _beside(step: Step) -> torch.Tensor:
    """Run a step on a stream of its own, as a recording will: autograd remembers streams."""
    if not torch.cuda.is_available():
        return step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = step()
    torch.cuda.current_stream().wait_stream(stream)
    return result


class RecordedUpdate:
    """The optimizer steps of one algorithm; the recording is kept from update to update."""

    def __init__(self, algorithm: PPO, record: Recorder = record_cuda_graph) -> None:
        """Note whose steps are taken.

        Args:
            algorithm: The algorithm.
            record: What records a step.
        """
        self._algorithm = algorithm
        self._record = record
        self._warm_ups_left = _NUM_WARM_UPS
        self._forget()

    def _forget(self) -> None:
        self._inputs: MiniBatch | None = None
        """Where a recorded step reads its mini-batch."""
        self._replay: Callable[[], None] | None = None
        self._losses: torch.Tensor | None = None
        self._assumed: list[Any] = []

    def fits(self) -> bool:
        """Return whether this may go on; a recording that has become useless is made anew."""
        if self._replay is not None and self._assumed != self._assumptions():
            self._forget()
        return True

    def _assumptions(self) -> list[Any]:
        """Return what a recording takes for given: addresses of what outlives a step, and numbers."""
        algorithm = self._algorithm
        models = (algorithm._raw_actor, algorithm._raw_critic)
        kept: list[Any] = [value for model in models for value in (*model.parameters(), *model.buffers())]
        kept += [value for state in algorithm.optimizer.state.values() for value in state.values()]
        places = [value.data_ptr() for value in (*kept, algorithm._learning_rate) if isinstance(value, torch.Tensor)]
        groups = [{name: value for name, value in group.items() if name not in ("params", "lr")}
                  for group in algorithm.optimizer.param_groups]  # fmt: skip
        settings = {name: value for name, value in vars(algorithm).items() if isinstance(value, (int, float, str))}
        return [places, groups, settings, *map(id, models), id(algorithm.optimizer)]

    def run(self) -> torch.Tensor:
        """Take all steps of the optimizer; return the means of the losses, in the order of ``PPO.update``."""
        sums, number = None, 0
        for batch in self._algorithm._mini_batches():
            losses = self._take(batch)
            # What a recording returns is overwritten by its next replay.
            sums = losses.clone() if sums is None else sums.add_(losses)
            number += 1
        assert sums is not None
        return sums / number

    def _take(self, batch: MiniBatch) -> torch.Tensor:
        """Take one step; return its losses."""
        algorithm = self._algorithm
        if self._warm_ups_left > 0:
            self._warm_ups_left -= 1
            return _beside(lambda: algorithm._update_once(batch))
        if self._replay is None and not self._try_to_record(batch):
            return algorithm._update_once(batch)
        assert self._inputs is not None and self._replay is not None and self._losses is not None
        pairs = list(zip(_tensors(self._inputs), _tensors(batch), strict=False))
        if any(kept.shape != given.shape for kept, given in pairs):
            return algorithm._update_once(batch)  # an environment was left out of this rollout
        for kept, given in pairs:
            kept.copy_(given)
        self._replay()
        return self._losses

    def _try_to_record(self, batch: MiniBatch) -> bool:
        algorithm = self._algorithm
        inputs = _mapped(torch.clone, batch)
        try:
            self._replay, self._losses = self._record(lambda: algorithm._update_once(inputs), algorithm.optimizer)
        except Exception as error:  # a driver, an operation or a model that cannot be recorded
            reason = f"it cannot be recorded: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            _log.warning("fast paths: update off (%s)", reason)
            self._forget()
            algorithm.against_recording = reason
            return False
        self._inputs, self._assumed = inputs, self._assumptions()
        return True


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a mini-batch, always in the same order."""
    found: list[torch.Tensor] = []
    _mapped(lambda tensor: found.append(tensor) or tensor, value)  # type: ignore[func-returns-value]
    return iter(found)


def _mapped(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """Return a copy of a mini-batch, or of a part of one, with every tensor replaced by the function's."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, TensorDict):
        return value.apply(function)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(function, part) for part in value))
    if isinstance(value, tuple):
        return tuple(_mapped(function, part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _mapped(function, getattr(value, field.name)) for field in fields(value)}
        return replace(copy.copy(value), **parts)
    return value
