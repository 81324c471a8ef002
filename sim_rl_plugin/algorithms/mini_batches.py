"""What one step of PPO's optimizer sees, cut out of a rollout with as little work as the models allow.

Legend of shapes: ``t`` steps, ``n`` environments, ``j`` trajectories, ``b`` samples. The tensors of a recurrent
mini-batch are ``(t, n, ...)`` instead of ``(b, ...)``.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from tensordict import TensorDict

from sim_rl_plugin.algorithms.model_input import ModelInput
from sim_rl_plugin.algorithms.returns import normalize
from sim_rl_plugin.extensions import RandomNetworkDistillation, Symmetry
from sim_rl_plugin.models import MLPModel
from sim_rl_plugin.modules import HiddenState
from sim_rl_plugin.modules.rnn import map_hidden_state
from sim_rl_plugin.modules.trajectories import split_and_pad_trajectories
from sim_rl_plugin.storage import RolloutStorage


@dataclass
class MiniBatch:
    """One mini-batch.

    Attributes:
        samples: Rollout data, mirror images behind the originals.
        actor: Input of the actor.
        critic: Input of the critic.
        rnd_state: Normalised input of random network distillation; None if there is none, or if it reads the
            observations itself.
        num_originals: Rows that are no mirror images.
    """

    samples: RolloutStorage.Batch
    actor: ModelInput
    critic: ModelInput
    rnd_state: torch.Tensor | None
    num_originals: int


class MiniBatches:
    """Cuts a complete rollout into mini-batches: one permutation and one normalisation for all epochs.

    A recurrent model gets whole trajectories of consecutive environments, without a permutation, as in
    rsl_rl; a model without memory beside it gets the same environments' samples.
    """

    def __init__(
        self,
        storage: RolloutStorage,
        actor: MLPModel,
        critic: MLPModel,
        rnd: RandomNetworkDistillation | None,
        symmetry: Symmetry | None,
        *,
        num_mini_batches: int,
        normalize_advantages: bool,
        over_all_ranks: bool,
        prepare: bool,
    ) -> None:
        """Prepare what all mini-batches share.

        Args:
            storage: The rollout.
            actor: The actor.
            critic: The critic.
            rnd: Random network distillation, or None.
            symmetry: Symmetry, or None.
            num_mini_batches: Mini-batches per epoch.
            normalize_advantages: Give each mini-batch's advantages mean 0 and deviation 1.
            over_all_ranks: The same mini-batch of all ranks together.
            prepare: False hands observations to every model, for a compiled forward pass starts there.
        """
        self._storage = storage
        reads_observations = rnd is not None and type(rnd).compute_loss is not RandomNetworkDistillation.compute_loss
        self._rnd = None if reads_observations else rnd
        self._symmetry = symmetry
        self._num = num_mini_batches
        self._normalize = normalize_advantages
        self._over_all_ranks = over_all_ranks
        # Mirror images are made of observations, so nothing can be prepared before them.
        allowed = prepare and symmetry is None
        self._prepared = [allowed and getattr(model, "has_fixed_input", False) for model in (actor, critic)]
        self._models = (actor, critic)
        self._keeps_observations = not all(self._prepared) or symmetry is not None or reads_observations
        with torch.no_grad():
            is_recurrent = any(model.is_recurrent for model in self._models)
            self._batches = self._recurrent() if is_recurrent else self._flat()

    def epochs(self, number: int) -> Iterator[MiniBatch]:
        """Yield the mini-batches of ``number`` epochs, the same ones in each."""
        for _ in range(number):
            for make in self._batches:
                yield make()

    def _flat(self) -> list[Callable[[], MiniBatch]]:
        """Return the mini-batches of shuffled samples."""
        storage = self._storage
        order = storage.sample_order(self._num)
        everything = storage.gather(order, observations=False)
        inputs = self._shared_inputs(order)
        size = order.shape[0] // self._num
        makers = []
        for start in range(0, size * self._num, size):
            rows = slice(start, start + size)
            parts = [None if value is None else value[rows] for value in inputs]
            makers.append(self._maker(everything.rows(rows), parts, order[rows]))
        return makers

    def _shared_inputs(self, order: torch.Tensor) -> list[torch.Tensor | None]:
        """Return the prepared inputs of actor and critic, and RND's, in the order of the samples."""
        groups = {group for model in self._readers() for group in model}
        observations = self._storage.observations.select(*groups).flatten(0, 1)[order] if groups else None
        inputs: list[torch.Tensor | None] = [
            model.prepare(observations) if prepared else None
            for model, prepared in zip(self._models, self._prepared, strict=True)
        ]
        return [*inputs, self._rnd_state(observations)]

    def _readers(self) -> Iterator[list[str]]:
        """Yield the groups of everything that is prepared."""
        for model, prepared in zip(self._models, self._prepared, strict=True):
            if prepared:
                yield model.obs_groups
        if self._rnd is not None:
            yield self._rnd.obs_groups["rnd_state"]

    def _rnd_state(self, observations: TensorDict | None) -> torch.Tensor | None:
        if self._rnd is None or observations is None:
            return None
        return self._rnd.state_normalizer(self._rnd.get_rnd_state(observations))

    def _maker(
        self, samples: RolloutStorage.Batch, inputs: list[torch.Tensor | None], indices: torch.Tensor
    ) -> Callable[[], MiniBatch]:
        """Return a function that makes a mini-batch: at once if it is always the same, or else when it is needed."""
        assert samples.advantages is not None
        if self._normalize:
            samples.advantages = normalize(samples.advantages, self._over_all_ranks)

        def make() -> MiniBatch:
            batch = copy.copy(samples)
            if self._keeps_observations:
                # Gathered mini-batch by mini-batch: images would fill the memory.
                batch.observations = self._storage.observations.flatten(0, 1)[indices]
            if self._symmetry is not None:
                assert samples.actions is not None
                batch.actions = samples.actions.clone()  # the user's function may write into it
                self._symmetry.augment_batch(batch, len(indices))
            actor, critic = (ModelInput(batch.observations if value is None else value) for value in inputs[:2])
            return MiniBatch(batch, actor, critic, inputs[2], len(indices))

        if self._keeps_observations:
            return make
        return functools.partial(_same, make())

    def _recurrent(self) -> list[Callable[[], MiniBatch]]:
        """Return the mini-batches of whole trajectories."""
        storage = self._storage
        _, masks = split_and_pad_trajectories(storage.dones, storage.dones)
        trajectories = storage.trajectories()[0] if self._keeps_observations or self._rnd is not None else None
        # rsl_rl's predictor learns on the padding, too, which holds zeros.
        rnd_state = self._rnd_state(trajectories)
        shared = [self._recurrent_input(index) for index in (0, 1)]
        makers: list[Callable[[], MiniBatch]] = []
        for envs, pieces in storage.recurrent_cuts(self._num):
            observations = None if trajectories is None else trajectories[:, pieces]
            samples = storage.recurrent_batch(envs, observations, masks[:, pieces])
            assert samples.advantages is not None
            if self._normalize:
                samples.advantages = normalize(samples.advantages, self._over_all_ranks)
            inputs = []
            for index, value in enumerate(shared):
                if value is not None and not self._models[index].is_recurrent:
                    inputs.append(ModelInput(value[:, envs]))
                else:
                    own = samples.observations if value is None else value[:, pieces]
                    assert own is not None
                    memory = self._memory_at_starts(index, samples, pieces.stop - pieces.start)
                    inputs.append(ModelInput(own, samples.masks, memory))
            state = None if rnd_state is None else rnd_state[:, pieces]
            batch = MiniBatch(samples, inputs[0], inputs[1], state, storage.num_transitions_per_env)
            makers.append(functools.partial(_same, batch))
        return makers

    def _memory_at_starts(self, index: int, samples: RolloutStorage.Batch, num_pieces: int) -> HiddenState:
        """Return a model's memory at the start of the trajectories, ``(l, j, h)``.

        The storage has none if the rollout was a single step, the model's first; it was empty then.
        """
        memory = samples.hidden_states[index]
        if memory is not None or not self._models[index].is_recurrent:
            return memory
        own = self._models[index].get_hidden_state()
        return map_hidden_state(lambda state: torch.zeros_like(state[:, :1]).repeat(1, num_pieces, 1), own)

    def _recurrent_input(self, index: int) -> torch.Tensor | None:
        """Return a model's prepared input: padded trajectories if it is recurrent; None if it is not prepared."""
        if not self._prepared[index]:
            return None
        prepared = self._models[index].prepare(self._storage.observations)
        if not self._models[index].is_recurrent:
            return prepared
        return split_and_pad_trajectories(prepared, self._storage.dones)[0]


def from_generator(
    storage: RolloutStorage,
    models: tuple[MLPModel, MLPModel],
    symmetry: Symmetry | None,
    *,
    num_mini_batches: int,
    num_epochs: int,
    normalize_advantages: bool,
    over_all_ranks: bool,
) -> Iterator[MiniBatch]:
    """Yield the mini-batches of the storage's own generators, for a storage that brings its own."""
    is_recurrent = any(model.is_recurrent for model in models)
    generator = storage.recurrent_mini_batch_generator if is_recurrent else storage.mini_batch_generator
    for samples in generator(num_mini_batches, num_epochs):
        assert samples.observations is not None and samples.advantages is not None
        num_originals = samples.observations.batch_size[0]
        if normalize_advantages:
            samples.advantages = normalize(samples.advantages, over_all_ranks)
        if symmetry is not None:
            symmetry.augment_batch(samples, num_originals)
        actor, critic = (ModelInput(samples.observations, samples.masks, state) for state in samples.hidden_states)
        yield MiniBatch(samples, actor, critic, None, num_originals)


def _same(batch: MiniBatch) -> MiniBatch:
    return batch
