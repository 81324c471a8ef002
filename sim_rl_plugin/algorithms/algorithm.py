"""What PPO and Distillation have in common: their place among other processes, the learning rate, the last check."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sim_rl_plugin import distributed
from sim_rl_plugin.algorithms.optimizer import build_optimizer, publish_learning_rate
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.modules.rnn import map_hidden_state
from sim_rl_plugin.storage import RolloutStorage


class DivergedUpdate(UserError):
    """An update that left a loss, a parameter or a normaliser NaN or infinite.

    Attributes:
        parts: Their names.
    """

    def __init__(self, parts: list[str], learning_rate: float) -> None:
        """Say what went wrong, and what to do about it."""
        self.parts = parts
        super().__init__(
            f"the update made {', '.join(parts)} NaN or infinite (learning rate {learning_rate:g}): continue "
            "from the last checkpoint with a smaller learning rate, or check the scale of the rewards"
        )


class Algorithm:
    """Base of our algorithms; one from elsewhere needs the documented methods only, not this class."""

    optimizer: torch.optim.Optimizer

    storage: RolloutStorage

    def __init__(self, device: str, multi_gpu_cfg: dict[str, Any] | None, grad_reduce_bucket_mb: float) -> None:
        """Note where the algorithm runs.

        Args:
            device: Where models and buffers lie.
            multi_gpu_cfg: ``global_rank``, ``local_rank`` and ``world_size`` of a distributed run, or None.
            grad_reduce_bucket_mb: Largest buffer of one gradient reduction, in MB.
        """
        self.device = device
        self.is_multi_gpu = multi_gpu_cfg is not None
        self.gpu_global_rank = multi_gpu_cfg["global_rank"] if multi_gpu_cfg else 0
        self.gpu_world_size = multi_gpu_cfg["world_size"] if multi_gpu_cfg else 1
        self.grad_reduce_bucket_mb = grad_reduce_bucket_mb
        self._weight: torch.Tensor | None = None
        """Of this rank's means over a mini-batch among those of all ranks; None where all are alike."""
        self._riding: torch.Tensor | None = None
        """A mean of this rank's mini-batch that shall be averaged with the gradients."""

    def _build_optimizer(self, name: str, parameters: Any, learning_rate: float) -> None:
        # A CPU kernel takes the rate in double precision, so it reads back as it was given.
        rate_dtype = torch.float64 if torch.device(self.device).type == "cpu" else torch.float32
        self._learning_rate = torch.tensor(float(learning_rate), dtype=rate_dtype, device=self.device)
        self.optimizer = build_optimizer(name, parameters, self._learning_rate)

    @property
    def learning_rate(self) -> float:
        """The current learning rate; reading it waits for the device."""
        return self._learning_rate.item()

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate.fill_(value)
        publish_learning_rate(self.optimizer, self._learning_rate)

    def _checked(self, names: list[str], means: torch.Tensor, networks: dict[str, nn.Module]) -> dict[str, float]:
        """Bring the losses to the host, the iteration's one transfer, and raise if the update went wrong.

        Args:
            names: Names of the losses.
            means: The losses, ``(len(names),)``.
            networks: What has learned, by name.

        Returns:
            The losses; in a distributed run their means over all ranks.

        Raises:
            ValueError: A loss, a parameter or a normaliser is NaN or infinite.
        """
        if self.is_multi_gpu:
            distributed.average([means], self.grad_reduce_bucket_mb, self._weight)
        with torch.no_grad():
            totals = [torch.stack([part.sum() for part in _learned(net)]).sum() for net in networks.values()]
        results = dict(zip([*names, *networks], torch.cat((means, torch.stack(totals))).tolist(), strict=True))
        bad = [name for name, number in results.items() if not math.isfinite(number)]
        if bad:
            raise DivergedUpdate(bad, self.learning_rate)
        return {name: results[name] for name in names}

    # Distributed training

    def reduce_parameters(self) -> None:
        """Average the gradients of all ranks; call it between the backward pass and the optimizer's step."""
        raise NotImplementedError

    def _average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients over all ranks, and what rides with them."""
        riders = [] if self._riding is None else [self._riding]
        distributed.average_gradients(parameters, self.grad_reduce_bucket_mb, self._weight, riders)
        self._riding = None

    def _average_with(self, mean: torch.Tensor | None) -> None:
        """Average the gradients of all ranks and, in the same collective, a mean over the mini-batch, in place."""
        self._riding = mean
        self.reduce_parameters()
        if self._riding is not None:
            # Somebody's own ``reduce_parameters`` takes nothing along.
            distributed.average([self._riding], self.grad_reduce_bucket_mb, self._weight)
            self._riding = None

    # Some environments only

    @property
    def learns_each_step(self) -> bool:
        """Whether ``process_env_step`` learns from the observations it is given, so that they must be finite then."""
        return False

    def models(self) -> list[Any]:
        """Return the models that see every step, without the compiled fronts they may have."""
        raise NotImplementedError

    def forget(self, dones: torch.Tensor) -> None:
        """Clear the models' memories where ``dones`` ``(n,)``."""
        for model in self.models():
            model.reset(dones)

    @contextmanager
    def restricted_to(self, env_ids: torch.Tensor) -> Iterator[None]:
        """Make the rollout that of some environments, as if there had never been others.

        Within the context, ``compute_returns`` takes the observations of these environments, and ``update``
        learns from them alone. The others' memories stay as they are.

        Args:
            env_ids: ``(R,)`` int64, ascending.
        """
        whole = self.storage
        memories = [model.get_hidden_state() for model in self.models()]
        self.storage = whole.of_environments(env_ids)
        for model, memory in zip(self.models(), memories, strict=True):
            model.reset(hidden_state=map_hidden_state(lambda state: state[:, env_ids], memory))
        self._restrict(env_ids)
        try:
            yield
        finally:
            self.storage = whole
            whole.clear()
            for model, memory in zip(self.models(), memories, strict=True):
                model.reset(hidden_state=_with_rows(memory, env_ids, model.get_hidden_state()))

    def _restrict(self, env_ids: torch.Tensor) -> None:
        """Cut what else a rollout has left behind down to some environments, ``(R,)`` int64."""


def _with_rows(memory: Any, env_ids: torch.Tensor, rows: Any) -> Any:
    """Return a memory in which that of some environments is replaced; either may be empty."""
    if isinstance(memory, torch.Tensor) and isinstance(rows, torch.Tensor):
        return memory.detach().clone().index_copy(1, env_ids, rows.detach())
    if memory is None or rows is None:
        return memory
    return type(memory)(_with_rows(own, env_ids, part) for own, part in zip(memory, rows, strict=True))


def _learned(network: nn.Module) -> list[torch.Tensor]:
    """Return what is wrong for good once it is not finite: parameters and running statistics."""
    return [*network.parameters(), *(buffer for buffer in network.buffers() if buffer.is_floating_point())]


def overrides(instance: Any, base: type, *names: str) -> bool:
    """Return whether an object's class has other methods of these names than ``base``, whether derived from it or not.

    Where somebody's class does things its own way, the faster routes around the documented methods are closed.
    """
    return any(getattr(type(instance), name, None) is not getattr(base, name) for name in names)
