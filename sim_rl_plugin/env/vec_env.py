"""The contract that a batched simulator keeps and the learner relies on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.env.commands import Command, command_named
from sim_rl_plugin.env.terms import Term
from sim_rl_plugin.errors import UserError


class VecEnv(ABC):
    """A batch of ``num_envs`` environments that step together and reset themselves.

    The signature is rsl_rl's ``VecEnv``. Three things are added, all optional: ``final_obs`` in
    ``extras``, the names of what is in observations and actions, and the methods at the end of this
    class, which let a training be resumed exactly, filmed, and closed.

    ``sim-rl check-env`` and ``sim_rl_plugin.testing.VecEnvContract`` test every sentence below.
    """

    num_envs: int
    """Number of environments, constant."""

    num_actions: int
    """Size of one environment's action vector."""

    max_episode_length: int | torch.Tensor
    """Episode limit in control steps: one number, or a tensor ``(num_envs,)``."""

    episode_length_buf: torch.Tensor
    """Control steps since each environment's last reset, integer, ``(num_envs,)``. Can be assigned:
    the runner spreads the first episodes' ends by setting it to random values, and an environment
    that counts to ``max_episode_length`` from there times out earlier."""

    device: torch.device | str
    """Device of every tensor that the environment returns."""

    cfg: dict | object
    """The simulator's own configuration, written into the run folder."""

    restores_exactly: bool = True
    """Whether ``load_state_dict`` continues the episodes in progress bit for bit. Where a simulator can only
    restore what outlives an episode (counters, curricula), this is False, and episodes start afresh."""

    state_is_cheap: bool = False
    """Whether ``state_dict`` costs next to nothing and waits for no device, so that it may be called once per
    iteration. The NaN quarantine then keeps what it needs to replay a fault."""

    one_per_process: bool = False
    """Whether the simulator takes one environment at a time in a process, so that none can be opened beside it."""

    observation_terms: Mapping[str, Sequence[Term]] = {}
    """The named parts of each observation group, in order, where the simulator knows them. A policy that
    meets another layout is then told which term differs."""

    action_terms: Sequence[Term] = ()
    """The named parts of the action vector, in order, where the simulator knows them."""

    command_terms: Sequence[Command] = ()
    """The commands that somebody may hold with ``hold_command``, such as a velocity to walk at."""

    @abstractmethod
    def get_observations(self) -> TensorDict:
        """Return the current observations; the simulation does not change.

        Returns:
            Named observation groups, batch size ``[num_envs]``. A group is ``(num_envs, size)`` or,
            for an image, ``(num_envs, channels, height, width)``. Floats are float32, images may be
            uint8. The tensors are the caller's: a later ``step`` does not write into them.
        """

    @abstractmethod
    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Advance every environment by one control step, and reset those that ended.

        Args:
            actions: ``(num_envs, num_actions)``, float32, on ``device``. Not modified.

        Returns:
            A tuple ``(obs, rewards, dones, extras)`` of tensors that later steps do not write into.

            - ``obs``: as from ``get_observations``; for an environment that ended, already the
              first observation of its next episode.
            - ``rewards``: float32, ``(num_envs,)``, of the step just taken.
            - ``dones``: bool or integer, ``(num_envs,)``: terminated or truncated in this step.
            - ``extras``: a dict with any of

              - ``time_outs``: bool, ``(num_envs,)``: ended by the time limit alone, not by a
                termination. A subset of ``dones``. The learner adds the value of what would have
                followed.
              - ``final_obs``: TensorDict like ``obs``: in the rows of the environments that ended,
                the observation before the reset. Other rows hold anything finite. May be missing
                from a step in which none ended.
              - ``skipped``: bool, ``(num_envs,)``: did nothing in this step but reset itself, one step
                late. Only for simulators that cannot do better (Gymnasium's NEXT_STEP): ``obs`` of the
                step before is then still the end of the old episode, and ``dones`` is true here too.
                The learner does not learn from these rows, and no statistics count them.
              - ``log``: str to number or tensor: statistics of this step, averaged over the
                iteration. A key stands only in the step it belongs to. A name with ``/`` is logged
                as it is, any other under ``Episode/``.
        """

    def reset_envs(self, env_ids: torch.Tensor) -> bool:
        """Begin a new episode in some environments, whatever state they are in; the others do not change.

        ``get_observations`` then gives the first observations of the new episodes, and ``episode_length_buf`` is 0
        there. The NaN quarantine calls this for simulations that went wrong, so nothing of the old state may live
        on in the new episode.

        Args:
            env_ids: ``(R,)`` int64, on ``device``.

        Returns:
            Whether it was done; False where single environments cannot be reset, which are then timed out
            through ``episode_length_buf``.
        """
        return False

    def get_command(self, name: str) -> torch.Tensor:
        """Return what a command of ``command_terms`` is now, float32 ``(num_envs, size)``, a copy.

        Raises:
            UserError: There is no such command.
        """
        raise _without_commands(self, name)

    def hold_command(self, name: str, values: torch.Tensor | None) -> None:
        """Hold a command of every environment at given values, or leave it to the task again.

        It stays there through whatever the task does to its commands: drawing new ones, computing them from the
        robot's state, episodes that end. The observations after the next step show it.

        Args:
            name: One of ``command_terms``.
            values: ``(size,)``, also outside of the command's range; None gives the command back to the task, which
                keeps its values until it draws new ones.

        Raises:
            UserError: There is no such command, or ``values`` are not ``size`` finite numbers.
        """
        raise _without_commands(self, name)

    def close(self) -> None:
        """Release the simulator. Safe to call twice."""

    def render(self) -> Any:
        """Return one environment as an RGB array ``(height, width, 3)``, uint8, or None without a renderer.

        It is environment 0 until ``show_env`` says another.
        """
        return None

    def show_env(self, index: int) -> bool:
        """Let ``render`` draw environment ``index`` from now on; return whether that is possible."""
        return index == 0

    def state_dict(self) -> dict[str, Any] | None:
        """Return everything that the next steps depend on, random states included, or None.

        Without ``restores_exactly``, what there is.

        Values are tensors, numbers, strings, and dicts and lists of them, so that a checkpoint
        loads without running code.
        """
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that ``state_dict`` returned, bit for bit if ``restores_exactly``.

        Raises:
            ValueError: The state belongs to another task or number of environments.
        """
        raise UserError(f"{type(self).__name__} cannot restore a simulation state")


def _without_commands(env: VecEnv, name: str) -> UserError:
    try:
        command_named(env.command_terms, name)
    except UserError as error:
        return error
    return UserError(f"{type(env).__name__} names the command {name!r} and cannot hold it")
