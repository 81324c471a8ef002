"""A rollout, cut into mini-batches, and these into each thread's chunks.

Legend of shapes: ``t`` steps, ``n`` environments, ``r`` rows of a chunk, ``b`` rows of a mini-batch, ``a`` actions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from sim_rl_plugin.algorithms.fast.perceptron import Sizes
from sim_rl_plugin.algorithms.fast.sequences import Sequences
from sim_rl_plugin.algorithms.fast.threads import shares
from sim_rl_plugin.algorithms.mini_batches import MiniBatch
from sim_rl_plugin.algorithms.returns import normalize
from sim_rl_plugin.modules.trajectories import trajectory_starts
from sim_rl_plugin.storage import RolloutStorage


class Chunk(NamedTuple):
    """Rows of a mini-batch: the models' inputs, which are tensors or sequences, and arrays for the losses."""

    actor_input: Any
    critic_input: Any
    actions_ra: Any
    old_mean_ra: Any
    old_std_ra: Any
    old_log_prob_r: Any
    advantages_r: Any
    old_values_r: Any
    returns_r: Any


class Cut(NamedTuple):
    """A mini-batch of ``number`` rows, cut into each thread's chunks of ``most`` rows at the most."""

    number: int
    most: int
    shares: list[list[Chunk]]


def cut_samples(batches: Iterable[MiniBatch], sizes: Sizes, dtype: torch.dtype, num_threads: int) -> list[Cut]:
    """Cut mini-batches of shuffled samples; the chunks are views."""
    cuts = []
    for batch in batches:
        parts = [*(part.value.to(dtype) for part in (batch.actor, batch.critic)), *_arrays(batch.samples)]
        number = len(parts[0])
        rows_of_threads = shares(
            number,
            bytes_per_row=2 * dtype.itemsize * sizes.widest,
            operations_per_row=6 * sizes.weights,
            num_threads=num_threads,
        )
        chunks = [[Chunk(*(part[rows] for part in parts)) for rows in share] for share in rows_of_threads]
        cuts.append(Cut(number, rows_of_threads[0][0].stop, chunks))
    return cuts


def cut_sequences(
    storage: RolloutStorage,
    models: tuple[Any, Any],
    sizes: Sizes,
    *,
    num_mini_batches: int,
    normalize_advantages: bool,
    over_all_ranks: bool,
    num_threads: int,
) -> list[Cut]:
    """Cut mini-batches of consecutive environments' whole rollouts, as for recurrent models; the chunks are copies."""
    num_steps = storage.num_transitions_per_env
    starts_tn = trajectory_starts(storage.dones)
    prepared = [model.prepare(storage.observations) for model in models]
    memories = [_memory(storage, model, index) for index, model in enumerate(models)]
    cuts = []
    for envs, _ in storage.recurrent_cuts(num_mini_batches):
        # Everything but the observations; masks and padded trajectories belong to the plain path.
        samples = storage.recurrent_batch(envs, None, None)
        if normalize_advantages:
            assert samples.advantages is not None
            samples.advantages = normalize(samples.advantages, over_all_ranks)
        shares_of_threads = shares(
            envs.stop - envs.start,
            bytes_per_row=num_steps * 4 * sizes.widest,
            operations_per_row=num_steps * 6 * sizes.weights,
            num_threads=num_threads,
        )
        chunks = [
            [
                Chunk(*_inputs(prepared, memories, starts_tn, _shifted(part, envs)), *_arrays(samples, part))
                for part in share
            ]
            for share in shares_of_threads
        ]
        number = num_steps * (envs.stop - envs.start)
        cuts.append(Cut(number, num_steps * shares_of_threads[0][0].stop, chunks))
    return cuts


def _shifted(part: slice, envs: slice) -> slice:
    return slice(envs.start + part.start, envs.start + part.stop)


def _inputs(
    prepared: list[torch.Tensor], memories: list[torch.Tensor | None], starts_tn: torch.Tensor, envs: slice
) -> list[Any]:
    """Return the inputs of both models for some environments."""
    inputs: list[Any] = []
    for value, memory in zip(prepared, memories, strict=True):
        own = value[:, envs].contiguous()
        if memory is None:
            inputs.append(own.flatten(0, 1))
        else:
            saved = memory[:, envs].contiguous().numpy()
            inputs.append(Sequences(own, starts_tn[:, envs].contiguous().numpy(), saved))
    return inputs


def _memory(storage: RolloutStorage, model: Any, index: int) -> torch.Tensor | None:
    """Return a recurrent model's memory before each step, ``(t, n, h)``; None for another model.

    The storage has none if the rollout was a single step, the model's first; it was empty then.
    """
    if not model.is_recurrent:
        return None
    saved = (storage.saved_hidden_state_a, storage.saved_hidden_state_c)[index]
    if saved is None:
        return torch.zeros(*storage.dones.shape[:2], model.rnn.rnn.hidden_size)
    return saved[0][:, 0]


def _arrays(samples: RolloutStorage.Batch, envs: slice | None = None) -> list[Any]:
    """Return what the losses read, of all rows or of some environments, step by step."""
    params = samples.old_distribution_params
    assert params is not None
    wide = [samples.actions, *params]
    narrow = [samples.old_actions_log_prob, samples.advantages, samples.values, samples.returns]
    arrays = []
    for value in wide + narrow:
        assert value is not None
        rows = value if envs is None else value[:, envs].flatten(0, 1)
        arrays.append(rows.numpy())
    return [*arrays[: len(wide)], *(array[:, 0] for array in arrays[len(wide) :])]
