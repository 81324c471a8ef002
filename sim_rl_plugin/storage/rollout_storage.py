"""Storage of one rollout, and the mini-batches that are cut from it.

Legend of shapes: ``t`` steps, ``n`` environments, ``a`` actions, ``b`` = t * n samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tensordict import TensorDict

from sim_rl_plugin.errors import UserError

HiddenStates = tuple[torch.Tensor | tuple[torch.Tensor, ...] | None, torch.Tensor | tuple[torch.Tensor, ...] | None]


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
            """Parameters of the distribution the actions were drawn from; reinforcement learning only."""
            self.privileged_actions: torch.Tensor | None = None
            """The teacher's actions, ``(n, a)``; distillation only."""
            self.hidden_states: HiddenStates = (None, None)
            """Memory of actor and critic before the step; recurrent models only."""

        def clear(self) -> None:
            """Forget the step."""
            self.__init__()  # type: ignore[misc]

    @dataclass
    class Batch:
        """Samples to learn from; what an algorithm does not use is None."""

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
            self.distribution_params: tuple[torch.Tensor, ...] | None = None  # as many as the distribution has
            self.returns = _fresh(t, n, 1, device=device)
            self.advantages = _fresh(t, n, 1, device=device)
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
        self.step += 1

    def _add_policy_terms(self, transition: Transition) -> None:
        params, log_prob = transition.distribution_params, transition.actions_log_prob
        assert params is not None and log_prob is not None
        if transition.values is not None:
            self.values[self.step].copy_(transition.values)
        self.actions_log_prob[self.step].copy_(log_prob.view(-1, 1))
        if self.distribution_params is None:
            # A tensor made in inference mode could not be written to outside of it.
            with torch.inference_mode(False):
                self.distribution_params = tuple(
                    _fresh(self.num_transitions_per_env, *param.shape, device=self.device) for param in params
                )
        for buffer, param in zip(self.distribution_params, params, strict=True):
            buffer[self.step].copy_(param)

    def clear(self) -> None:
        """Start the next rollout at the first step."""
        self.step = 0

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
            )

    def sample_order(self, num_mini_batches: int) -> torch.Tensor:
        """Draw the order in which samples are visited, ``(num_mini_batches * mini_batch_size,)``.

        One permutation serves all epochs, as in rsl_rl. When the rollout does not divide evenly, its
        last samples are left out.

        Raises:
            ValueError: There are more mini-batches than samples, or the storage is for distillation.
        """
        if self.training_type != "rl":
            raise UserError("mini-batches are for reinforcement learning; this storage was made for 'distillation'")
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
