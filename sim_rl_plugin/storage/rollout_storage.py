"""Storage of one rollout, and the mini-batches that are cut from it.

Legend of shapes: ``t`` steps, ``n`` environments, ``a`` actions, ``b`` = t * n samples, ``j`` trajectories
(pieces of an episode within the rollout), ``l`` layers, ``h`` hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.modules.rnn import HiddenState
from sim_rl_plugin.modules.trajectories import split_and_pad_trajectories, trajectory_starts

HiddenStates = tuple[HiddenState, HiddenState]
"""Memory of two models: actor and critic."""


def _fresh(*shape: int, device: torch.device | str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a buffer that a forgotten write turns into NaN, where the dtype has one."""
    if dtype.is_floating_point:
        return torch.full(shape, torch.nan, dtype=dtype, device=device)
    return torch.zeros(shape, dtype=dtype, device=device)


class RolloutStorage:
    """Buffers for ``num_transitions_per_env`` steps of ``num_envs`` environments."""

    class Transition:
        """One step of all environments, filled in bit by bit and then added to the storage."""

        def __init__(self) -> None:
            self.observations: TensorDict | None = None
            """What the policy saw."""
            self.actions: torch.Tensor | None = None
            """What it did, ``(n, a)``."""
            self.rewards: torch.Tensor | None = None
            """What it got, ``(n,)``."""
            self.dones: torch.Tensor | None = None
            """Whether the episode ended, ``(n,)``."""
            self.values: torch.Tensor | None = None
            """The critic's value of the observations, ``(n, 1)``; reinforcement learning only."""
            self.actions_log_prob: torch.Tensor | None = None
            """Log-density of the actions, ``(n,)``; reinforcement learning only."""
            self.distribution_params: tuple[torch.Tensor, ...] | None = None
            """Parameters of the distribution the actions were drawn from; in distillation, if given, of the
            teacher's distribution."""
            self.privileged_actions: torch.Tensor | None = None
            """The teacher's actions, ``(n, a)``; distillation only."""
            self.hidden_states: HiddenStates = (None, None)
            """Memory of actor and critic before the step; recurrent models only."""

        def clear(self) -> None:
            """Forget the step."""
            self.__init__()  # type: ignore[misc]

    @dataclass
    class Batch:
        """Samples to learn from; what an algorithm does not use is None.

        Those of a recurrent model are whole trajectories: ``observations`` ``[t, j]`` padded with zeros where
        ``masks`` ``(t, j)`` is false, ``hidden_states`` at their starts, everything else ``(t, n, ...)``.
        """

        observations: TensorDict | None = None
        actions: torch.Tensor | None = None
        values: torch.Tensor | None = None
        advantages: torch.Tensor | None = None
        returns: torch.Tensor | None = None
        old_actions_log_prob: torch.Tensor | None = None
        old_distribution_params: tuple[torch.Tensor, ...] | None = None
        hidden_states: HiddenStates = (None, None)
        masks: torch.Tensor | None = None
        privileged_actions: torch.Tensor | None = None
        dones: torch.Tensor | None = None

        def rows(self, rows: slice) -> RolloutStorage.Batch:
            """Return views of some samples; not for trajectories."""
            fields = vars(self).items()
            cut: dict[str, Any] = {
                name: value[rows] for name, value in fields if isinstance(value, (torch.Tensor, TensorDict))
            }
            params = self.old_distribution_params
            cut["old_distribution_params"] = None if params is None else tuple(param[rows] for param in params)
            return RolloutStorage.Batch(**cut)

    def __init__(
        self,
        training_type: str,
        num_envs: int,
        num_transitions_per_env: int,
        obs: TensorDict,
        actions_shape: tuple[int, ...] | list[int],
        device: str = "cpu",
    ) -> None:
        """Allocate the buffers.

        Args:
            training_type: ``rl`` or ``distillation``.
            num_envs: Number of environments.
            num_transitions_per_env: Steps of one rollout.
            obs: Observations as the environment gives them; only shapes and dtypes are used.
            actions_shape: Shape of one environment's action.
            device: Where the buffers lie.

        Raises:
            ValueError: ``training_type`` is neither.
        """
        if training_type not in ("rl", "distillation"):
            raise UserError(f"training_type: expected 'rl' or 'distillation', found {training_type!r}")
        self.training_type = training_type
        self.device = device
        self.num_transitions_per_env = num_transitions_per_env
        self.num_envs = num_envs
        self.actions_shape = actions_shape
        t, n = num_transitions_per_env, num_envs
        self.observations = TensorDict(
            {key: _fresh(t, *value.shape, device=device, dtype=value.dtype) for key, value in obs.items()},
            batch_size=[t, n],
            device=device,
        )
        self.rewards = _fresh(t, n, 1, device=device)
        self.actions = _fresh(t, n, *actions_shape, device=device)
        self.dones = _fresh(t, n, 1, device=device, dtype=torch.uint8)
        if training_type == "distillation":
            self.privileged_actions = _fresh(t, n, *actions_shape, device=device)
        else:
            self.values = _fresh(t, n, 1, device=device)
            self.actions_log_prob = _fresh(t, n, 1, device=device)
            self.returns = _fresh(t, n, 1, device=device)
            self.advantages = _fresh(t, n, 1, device=device)
        self.distribution_params: tuple[torch.Tensor, ...] | None = None  # as many as the distribution has
        self.saved_hidden_state_a: list[torch.Tensor] | None = None
        """The actor's memory before each step, ``(t, l, n, h)``; an LSTM's are two."""
        self.saved_hidden_state_c: list[torch.Tensor] | None = None
        """The critic's memory before each step."""
        self.step = 0
        # Reading a TensorDict costs more than the copy itself for small batches.
        self._observation_buffers: dict[str, torch.Tensor] = dict(self.observations.items())

    def add_transition(self, transition: Transition) -> None:
        """Copy one step into the buffers.

        A transition without ``values`` leaves that buffer as it is: an algorithm may evaluate the
        critic once the rollout is complete.

        Raises:
            OverflowError: The storage is full; call ``clear`` first.
        """
        if self.step >= self.num_transitions_per_env:
            raise OverflowError(f"the rollout storage holds {self.num_transitions_per_env} steps; clear() it first")
        step = self.step
        observations, actions, rewards, dones = (
            transition.observations, transition.actions, transition.rewards, transition.dones,
        )  # fmt: skip
        assert observations is not None and actions is not None and rewards is not None and dones is not None
        for key, buffer in self._observation_buffers.items():
            buffer[step].copy_(observations[key])
        self.actions[step].copy_(actions)
        self.rewards[step].copy_(rewards.view(-1, 1))
        self.dones[step].copy_(dones.view(-1, 1))
        if self.training_type == "distillation":
            assert transition.privileged_actions is not None
            self.privileged_actions[step].copy_(transition.privileged_actions)
        else:
            self._add_policy_terms(transition)
        if transition.distribution_params is not None:
            self._add_distribution_params(transition.distribution_params)
        self.saved_hidden_state_a = self._add_hidden_state(self.saved_hidden_state_a, transition.hidden_states[0])
        self.saved_hidden_state_c = self._add_hidden_state(self.saved_hidden_state_c, transition.hidden_states[1])
        self.step += 1

    def _add_policy_terms(self, transition: Transition) -> None:
        log_prob = transition.actions_log_prob
        assert transition.distribution_params is not None and log_prob is not None
        if transition.values is not None:
            self.values[self.step].copy_(transition.values)
        self.actions_log_prob[self.step].copy_(log_prob.view(-1, 1))

    def _add_distribution_params(self, params: tuple[torch.Tensor, ...]) -> None:
        if self.distribution_params is None:
            self.distribution_params = tuple(self._buffer_for(param) for param in params)
        for buffer, param in zip(self.distribution_params, params, strict=True):
            buffer[self.step].copy_(param)

    def _add_hidden_state(self, buffers: list[torch.Tensor] | None, hidden_state: HiddenState) -> Any:
        """Copy a model's memory and return its buffers, which the first memory brings into being."""
        if hidden_state is None:
            # The memory of a model that has not seen a step is empty, which to the network is zero.
            for buffer in buffers or ():
                buffer[self.step].zero_()
            return buffers
        parts = hidden_state if isinstance(hidden_state, tuple) else (hidden_state,)
        if buffers is None:
            buffers = [self._buffer_for(part) for part in parts]
            for buffer in buffers:
                buffer[: self.step] = 0.0
        for buffer, part in zip(buffers, parts, strict=True):
            buffer[self.step].copy_(part)
        return buffers

    def _buffer_for(self, value: torch.Tensor) -> torch.Tensor:
        # A tensor made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            return _fresh(self.num_transitions_per_env, *value.shape, device=self.device)

    def clear(self) -> None:
        """Start the next rollout at the first step."""
        self.step = 0

    def of_environments(self, env_ids: torch.Tensor) -> RolloutStorage:
        """Return a storage that holds copies of the rollout of some environments only.

        A sub-class's own buffers come along if they begin with ``(t, n)``.

        Args:
            env_ids: ``(R,)`` int64.
        """
        whole = (self.num_transitions_per_env, self.num_envs)

        def cut(value: Any, dim: int) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(cut(part, dim) for part in value)
            if isinstance(value, TensorDict):
                return value[:, env_ids] if value.batch_size == whole else value
            if not isinstance(value, torch.Tensor) or value.dim() <= dim:
                return value
            return value.index_select(dim, env_ids) if (value.shape[0], value.shape[dim]) == whole else value

        part = copy.copy(self)
        # Ordinary tensors even within inference mode, for an update learns from them.
        with torch.inference_mode(False):
            for name, value in vars(self).items():
                # Memories are (t, l, n, h).
                setattr(part, name, cut(value, 2 if name.startswith("saved_hidden_state") else 1))
        part.num_envs = len(env_ids)
        part._observation_buffers = dict(part.observations.items())
        return part

    def generator(self) -> Iterator[Batch]:
        """Yield one batch per step, in order, for distillation.

        Raises:
            ValueError: The storage was made for reinforcement learning.
        """
        if self.training_type != "distillation":
            raise UserError("generator() is for distillation; this storage was made for 'rl'")
        for step in range(self.num_transitions_per_env):
            yield RolloutStorage.Batch(
                observations=self.observations[step],
                privileged_actions=self.privileged_actions[step],
                dones=self.dones[step],
                old_distribution_params=self._params_at(step),
            )

    def _params_at(self, steps: int | slice) -> tuple[torch.Tensor, ...] | None:
        return None if self.distribution_params is None else tuple(param[steps] for param in self.distribution_params)

    def sample_order(self, num_mini_batches: int) -> torch.Tensor:
        """Draw the order in which samples are visited, ``(num_mini_batches * mini_batch_size,)``.

        One permutation serves all epochs, as in rsl_rl. When the rollout does not divide evenly, its
        last samples are left out.

        Raises:
            ValueError: There are more mini-batches than samples, or the storage is for distillation.
        """
        self._require_rl()
        num_samples = self.num_envs * self.num_transitions_per_env
        mini_batch_size = num_samples // num_mini_batches
        if mini_batch_size < 1:
            raise UserError(f"algorithm.num_mini_batches: {num_mini_batches} mini-batches of {num_samples} samples")
        return torch.randperm(num_mini_batches * mini_batch_size, device=self.device)

    def gather(self, indices: torch.Tensor, observations: bool = True) -> Batch:
        """Return copies of the samples ``indices`` of the flattened rollout.

        Args:
            indices: Positions in ``t * n``, step-major.
            observations: False leaves the observations out.
        """
        assert self.distribution_params is not None, "the storage is empty"
        return RolloutStorage.Batch(
            observations=self.observations.flatten(0, 1)[indices] if observations else None,
            actions=self.actions.flatten(0, 1)[indices],
            values=self.values.flatten(0, 1)[indices],
            advantages=self.advantages.flatten(0, 1)[indices],
            returns=self.returns.flatten(0, 1)[indices],
            old_actions_log_prob=self.actions_log_prob.flatten(0, 1)[indices],
            old_distribution_params=tuple(param.flatten(0, 1)[indices] for param in self.distribution_params),
        )

    def mini_batch_generator(self, num_mini_batches: int, num_epochs: int = 8) -> Iterator[Batch]:
        """Yield shuffled mini-batches, the same partition in every epoch; each is the caller's to change.

        Raises:
            ValueError: There are more mini-batches than samples, or the storage is for distillation.
        """
        order = self.sample_order(num_mini_batches)
        for _ in range(num_epochs):
            for indices in order.chunk(num_mini_batches):
                yield self.gather(indices)

    def trajectories(self) -> tuple[TensorDict, torch.Tensor]:
        """Return the observations as padded trajectories ``[t, j]``, by environment, and their masks ``(t, j)``."""
        return split_and_pad_trajectories(self.observations, self.dones)

    def recurrent_mini_batch_generator(self, num_mini_batches: int, num_epochs: int = 8) -> Iterator[Batch]:
        """Yield mini-batches of whole trajectories: consecutive environments, the same in every epoch, as in rsl_rl.

        When the environments do not divide evenly, the last ones are left out.

        Raises:
            ValueError: There are more mini-batches than environments, or the storage is for distillation.
        """
        trajectories, masks = self.trajectories()
        cuts = self.recurrent_cuts(num_mini_batches)
        for _ in range(num_epochs):
            for envs, pieces in cuts:
                yield self.recurrent_batch(envs, trajectories[:, pieces], masks[:, pieces])

    def recurrent_cuts(self, num_mini_batches: int) -> list[tuple[slice, slice]]:
        """Return which environments, and which of the padded trajectories, each mini-batch is made of.

        Raises:
            ValueError: There are more mini-batches than environments, or the storage is for distillation.
        """
        self._require_rl()
        size = self.num_envs // num_mini_batches
        if size < 1:
            raise UserError(
                f"algorithm.num_mini_batches: {num_mini_batches} mini-batches of {self.num_envs} environments, whose "
                "trajectories a recurrent model needs whole"
            )
        pieces_n = trajectory_starts(self.dones).sum(dim=0)
        ends = [0, *pieces_n[: size * num_mini_batches].view(num_mini_batches, size).sum(dim=1).cumsum(0).tolist()]
        return [
            (slice(index * size, (index + 1) * size), slice(ends[index], ends[index + 1]))
            for index in range(num_mini_batches)
        ]

    def recurrent_batch(self, envs: slice, observations: TensorDict | None, masks: torch.Tensor | None) -> Batch:
        """Return one mini-batch of whole trajectories, as views except for the hidden states.

        Args:
            envs: Its environments.
            observations: Their padded trajectories ``[t, j]``; None leaves them out.
            masks: Bool ``(t, j)``.
        """
        return RolloutStorage.Batch(
            observations=observations,
            actions=self.actions[:, envs],
            values=self.values[:, envs],
            advantages=self.advantages[:, envs],
            returns=self.returns[:, envs],
            old_actions_log_prob=self.actions_log_prob[:, envs],
            old_distribution_params=tuple(param[:, envs] for param in self.distribution_params or ()),
            hidden_states=(
                self._hidden_states_at_starts(self.saved_hidden_state_a, envs),
                self._hidden_states_at_starts(self.saved_hidden_state_c, envs),
            ),
            masks=masks,
        )

    def _hidden_states_at_starts(self, buffers: list[torch.Tensor] | None, envs: slice) -> HiddenState:
        """Return a model's memory at the start of each trajectory of some environments, ``(l, j, h)``."""
        if buffers is None:
            return None
        starts_nt = trajectory_starts(self.dones)[:, envs].t()
        states = [buffer[:, :, envs].permute(2, 0, 1, 3)[starts_nt].transpose(0, 1).contiguous() for buffer in buffers]
        return states[0] if len(states) == 1 else (states[0], states[1])

    def _require_rl(self) -> None:
        if self.training_type != "rl":
            raise UserError("mini-batches are for reinforcement learning; this storage was made for 'distillation'")
