"""The models' passes during a rollout: the policy step, and the critic over everything at its end.

Legend of shapes: ``t`` steps, ``n`` environments, ``r`` rows of a chunk, ``a`` actions.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.algorithms.fast.perceptron import Perceptron, Sizes
from sim_rl_plugin.algorithms.fast.threads import one_thread_per_operation, run_together, shares
from sim_rl_plugin.modules import EmpiricalNormalization

if TYPE_CHECKING:
    from sim_rl_plugin.algorithms.ppo import PPO
    from sim_rl_plugin.models import MLPModel


class PerceptronRollout:
    """Policy steps and values of one algorithm; buffers are kept from rollout to rollout."""

    def __init__(self, algorithm: PPO) -> None:
        """Note whose rollouts these are."""
        self._algorithm = algorithm
        self._actor = _Passes(algorithm._raw_actor)
        self._critic = _Passes(algorithm._raw_critic)

    def fits(self) -> bool:
        """Return whether the algorithm still has the models that the buffers were made for."""
        return (self._actor.model, self._critic.model) == (self._algorithm._raw_actor, self._algorithm._raw_critic)

    def begin(self) -> PerceptronRollout:
        """Take over the present parameters and statistics."""
        self._actor.begin()
        self._critic.begin()
        return self

    def act(self, obs: TensorDict) -> torch.Tensor:
        """Do what ``PPO.act`` does where the critic waits."""
        algorithm = self._algorithm
        distribution: Any = algorithm._raw_actor.distribution
        mean_na = torch.empty(len(obs), distribution.output_dim)
        self._actor.run([obs[group] for group in self._actor.model.obs_groups], mean_na)
        distribution.update(mean_na)
        transition = algorithm.transition
        transition.observations = obs
        actions = transition.actions = distribution.sample()
        transition.actions_log_prob = distribution.log_prob(actions)
        transition.distribution_params = distribution.params
        return actions

    def finish(self) -> None:
        """Fill the storage with the values of all observations."""
        storage = self._algorithm.storage
        groups = [storage.observations[group].flatten(0, 1) for group in self._critic.model.obs_groups]
        self._critic.run(groups, storage.values.flatten(0, 1))


class _Passes:
    """Forward passes of one model over any number of rows, on all threads."""

    def __init__(self, model: MLPModel) -> None:
        self.model = model
        self._sizes = Sizes.of(model)
        self._readers: list[_Reader] = []

    def begin(self) -> None:
        for reader in self._readers:
            reader.begin()

    def run(self, groups: list[torch.Tensor], outputs: torch.Tensor) -> None:
        """Write the outputs ``(number, size)`` for observation groups ``(number, size)``."""
        with one_thread_per_operation() as num_threads:
            cuts = shares(
                outputs.shape[0],
                bytes_per_row=8 * self._sizes.widest,
                operations_per_row=2 * self._sizes.weights,
                num_threads=num_threads,
            )
            most = cuts[0][0].stop
            if len(self._readers) < len(cuts) or self._readers[0].num_rows < most:
                self._readers = [_Reader(self.model, most) for _ in cuts]
            run_together(
                [
                    functools.partial(reader.run, share, groups, outputs)
                    for reader, share in zip(self._readers, cuts, strict=False)
                ]
            )


class _Reader:
    """What one thread needs to get from observations to the network's output."""

    def __init__(self, model: MLPModel, num_rows: int) -> None:
        self._model = model
        self.num_rows = num_rows
        self._perceptron = Perceptron(model.mlp, num_rows)
        with torch.inference_mode(False):
            self._inputs = torch.empty(num_rows, model.obs_dim)
        self.begin()

    def begin(self) -> None:
        self._perceptron.take([parameter.detach() for parameter in self._model.mlp.parameters()])
        normalizer = self._model.obs_normalizer
        self._moments = None
        if isinstance(normalizer, EmpiricalNormalization):
            self._moments = (normalizer._mean, normalizer._std + normalizer.eps)

    def run(self, chunks: list[slice], groups: list[torch.Tensor], outputs: torch.Tensor) -> None:
        with torch.inference_mode():  # modes of torch belong to a thread
            for rows in chunks:
                outputs[rows].copy_(self._perceptron.forward(self._prepared([group[rows] for group in groups])))

    def _prepared(self, groups: list[torch.Tensor]) -> torch.Tensor:
        """Do what ``MLPModel.prepare`` does, into a buffer that is kept."""
        inputs = self._inputs[: len(groups[0])]
        raw = groups[0] if len(groups) == 1 else torch.cat(groups, dim=-1, out=inputs)
        if self._moments is None:
            return raw
        mean, scale = self._moments
        return torch.sub(raw, mean, out=inputs).div_(scale)
