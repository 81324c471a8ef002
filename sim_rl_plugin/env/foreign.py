"""Environments that were written for rsl_rl and its relatives, in whichever of their shapes.

``num_envs``, ``num_actions``, ``step`` and the rest have the same names everywhere. What differs is how
observations and flags are handed over:

- rsl_rl from 3.0 on, Isaac Lab and Genesis of today: ``get_observations()`` gives a TensorDict. That is
  our contract already; such an environment is left alone.
- rsl_rl 2.x, Isaac Lab before, Genesis before: ``(obs, extras)``, further groups in
  ``extras["observations"]``.
- rsl_rl 1.x, legged_gym: a tensor, privileged observations beside it, ``step`` returns five values.

These simulators reuse buffers, and leave the log and the time-outs of one step in ``extras`` until the
next reset. Both is put right here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase

from sim_rl_plugin.env.commands import Command, command_terms
from sim_rl_plugin.env.terms import Term
from sim_rl_plugin.env.vec_env import VecEnv
from sim_rl_plugin.errors import UserError

REQUIRED = ("num_envs", "num_actions", "device", "max_episode_length", "episode_length_buf", "get_observations", "step")
"""Members that an environment must have for us to train on it."""

_KEPT_APART = ("observations", "time_outs", "final_obs", "episode", "log", "skipped")


def missing_members(env: object) -> list[str]:
    """Return which members of ``REQUIRED`` an object lacks."""
    return [name for name in REQUIRED if not hasattr(env, name)]


def wrap_vec_env_shaped(env: Any) -> Any:
    """Return an environment with rsl_rl's members behind our contract, or None if members are missing.

    One whose observations are a TensorDict is returned as it is.

    Raises:
        UserError: It has the members, and what they return cannot be understood.
    """
    if missing_members(env):
        return None
    # An environment that draws noise in here must not move the generator that a seeded training draws from.
    device = torch.device(env.device)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        is_current = isinstance(env.get_observations(), TensorDictBase)
    return env if is_current and hasattr(env, "cfg") else ForeignVecEnv(env)


class ForeignVecEnv(VecEnv):
    """An environment of an older shape; what is not in the contract is the inner one's.

    The observations are the group ``policy``, privileged ones the group ``critic``, and those in
    ``extras["observations"]`` groups of their own names.
    """

    def __init__(self, env: Any) -> None:
        """Wrap an environment, and reset it if it can be reset: some hold zeros before their first reset.

        Raises:
            UserError: A number or an observation has the wrong form.
        """
        self.env = env
        self.num_envs = int(env.num_envs)
        self.num_actions = int(env.num_actions)
        self.device = torch.device(env.device)
        self.cfg = getattr(env, "cfg", None) or {}
        self._log = _FreshLog()
        if callable(getattr(env, "reset", None)):
            env.reset()
        self._obs = self._read_observations()

    def __getattr__(self, name: str) -> Any:
        # Only asked for what this object does not have. Without the guard, copying it would never end.
        if name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    @property
    def max_episode_length(self) -> int | torch.Tensor:  # type: ignore[override]
        """Episode limit in control steps; legged_gym gives it as a float."""
        limit = self.env.max_episode_length
        return limit if isinstance(limit, torch.Tensor) and limit.ndim else int(limit)

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """The inner environment's counters."""
        return self.env.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self.env.episode_length_buf = value

    @property
    def restores_exactly(self) -> bool:  # type: ignore[override]
        """Whether the inner environment's state continues episodes bit for bit; it is believed unless it denies it."""
        return getattr(self.env, "restores_exactly", True)

    @property
    def observation_terms(self) -> Mapping[str, Sequence[Term]]:  # type: ignore[override]
        """The inner environment's, if it tells."""
        return getattr(self.env, "observation_terms", {})

    @property
    def action_terms(self) -> Sequence[Term]:  # type: ignore[override]
        """The inner environment's, if it tells."""
        return getattr(self.env, "action_terms", ())

    @property
    def command_terms(self) -> Sequence[Command]:  # type: ignore[override]
        """The inner environment's, if it tells."""
        return command_terms(self.env)

    def get_command(self, name: str) -> torch.Tensor:
        """Return a command of the inner environment, if it has any."""
        return self.env.get_command(name) if self.command_terms else super().get_command(name)

    def hold_command(self, name: str, values: torch.Tensor | None) -> None:
        """Hold a command of the inner environment, if it has any."""
        if not self.command_terms:
            super().hold_command(name, values)
        self.env.hold_command(name, values)

    def get_observations(self) -> TensorDict:
        """Return a copy of what ``step`` returned last, or at first of what the environment had."""
        return self._obs.clone()

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Step the inner environment and return copies in our shape."""
        result = _parsed(self.env.step(actions.clone()), type(self.env).__name__)
        dones = self._flag(result.dones)
        extras = {key: value for key, value in result.extras.items() if key not in _KEPT_APART}
        for key in ("time_outs", "skipped"):
            flags = result.time_outs if key == "time_outs" else None
            flags = result.extras.get(key) if flags is None else flags
            if flags is not None:
                # legged_gym keeps those of the last reset, which would be added to later rewards again.
                extras[key] = self._flag(flags) & dones
        extras["log"] = self._log.of_this_step(result.extras)
        self._obs = self._groups(result.obs, result.privileged, result.extras.get("observations"))
        final_obs = result.extras.get("final_obs")
        if final_obs is not None:
            final_groups = self._converted(_named(final_obs))
            if set(final_groups) == set(map(str, self._obs.keys())):
                extras["final_obs"] = self._tensor_dict(final_groups)
        rewards = result.rewards.detach().to(device=self.device, dtype=torch.float32, copy=True)
        return self._obs.clone(), rewards.reshape(self.num_envs), dones, extras

    def close(self) -> None:
        """Close the inner environment, if it can be closed."""
        if callable(getattr(self.env, "close", None)):
            self.env.close()

    def render(self) -> Any:
        """Return the inner environment's picture; None if it draws none, or into a window of its own."""
        frame = self.env.render() if callable(getattr(self.env, "render", None)) else None
        return frame if isinstance(frame, np.ndarray) and frame.ndim == 3 else None

    def show_env(self, index: int) -> bool:
        """Let the inner environment draw another of its environments, if it can."""
        return self.env.show_env(index) if hasattr(self.env, "show_env") else index == 0

    def state_dict(self) -> dict[str, Any] | None:
        """Return the inner environment's state; None if it has none to give."""
        if not hasattr(self.env, "state_dict") or not hasattr(self.env, "load_state_dict"):
            return None
        state = self.env.state_dict()
        obs = {str(name): value.clone() for name, value in self._obs.items()}
        return None if state is None else {"env": state, "obs": obs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the inner environment's state."""
        self.env.load_state_dict(state["env"])
        self._obs = self._tensor_dict({name: value.to(self.device, copy=True) for name, value in state["obs"].items()})
        # What lies in `extras` by now was logged before the state was saved, or comes from a reset that never counted.
        self._log.of_this_step(getattr(self.env, "extras", None) or {})

    def _read_observations(self) -> TensorDict:
        found = self.env.get_observations()
        if not isinstance(found, tuple):
            return self._groups(found, None, None)
        more = found[1] if len(found) > 1 else None
        if isinstance(more, Mapping):
            return self._groups(found[0], None, more.get("observations"))
        return self._groups(found[0], more, None)

    def _groups(self, obs: Any, privileged: Any, observations: Any) -> TensorDict:
        """Return all groups, of whichever place, as one TensorDict of copies."""
        named = {**(observations or {}), **_named(obs)}
        if privileged is None and "critic" not in named:
            get_privileged = getattr(self.env, "get_privileged_observations", None)
            privileged = get_privileged() if callable(get_privileged) else None
            privileged = privileged[0] if isinstance(privileged, tuple) else privileged
        if privileged is not None:
            named["critic"] = privileged
        return self._tensor_dict(self._converted(named))

    def _converted(self, named: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        groups = {}
        for name, value in named.items():
            if value is None:
                continue
            if not isinstance(value, torch.Tensor) or value.ndim not in (2, 4) or value.shape[0] != self.num_envs:
                is_tensor = isinstance(value, torch.Tensor)
                found = f"shape {tuple(value.shape)}" if is_tensor else f"a {type(value).__name__}"
                raise UserError(
                    f"{type(self.env).__name__}: the observation group {name!r} has {found}, expected a tensor "
                    f"({self.num_envs}, size), or ({self.num_envs}, channels, height, width) for an image"
                )
            is_bytes = value.ndim == 4 and value.dtype == torch.uint8
            dtype = torch.uint8 if is_bytes else torch.float32
            groups[str(name)] = value.detach().to(device=self.device, dtype=dtype, copy=True)
        return groups

    def _tensor_dict(self, groups: dict[str, torch.Tensor]) -> TensorDict:
        return TensorDict(dict(groups), batch_size=[self.num_envs], device=self.device)

    def _flag(self, flags: torch.Tensor) -> torch.Tensor:
        return flags.detach().to(device=self.device, dtype=torch.bool, copy=True).reshape(self.num_envs)


class _Result(NamedTuple):
    """What ``step`` returned, sorted."""

    obs: Any
    privileged: Any
    rewards: torch.Tensor
    dones: torch.Tensor
    extras: Mapping[str, Any]
    time_outs: torch.Tensor | None = None


def _parsed(result: Any, name: str) -> _Result:
    """Sort what ``step`` returned.

    Raises:
        UserError: It has none of the known shapes.
    """
    if isinstance(result, tuple) and isinstance(result[-1], Mapping):
        if len(result) == 4:
            obs, rewards, dones, extras = result
            return _Result(obs, None, rewards, dones, extras)
        if len(result) == 5 and isinstance(result[1], torch.Tensor) and result[1].ndim == 1:
            # Gymnasium's five; in legged_gym's, the second is a matrix of privileged observations or None.
            obs, rewards, terminated, truncated, extras = result
            terminated, truncated = terminated.bool(), truncated.bool()
            return _Result(obs, None, rewards, terminated | truncated, extras, truncated & ~terminated)
        if len(result) == 5:
            return _Result(*result)
    found = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
    raise UserError(
        f"{name}.step returned {found}, expected (obs, rewards, dones, extras), "
        "(obs, privileged_obs, rewards, dones, extras) or (obs, rewards, terminated, truncated, extras)"
    )


def _named(obs: Any) -> dict[str, Any]:
    return dict(obs.items()) if isinstance(obs, (Mapping, TensorDictBase)) else {"policy": obs}


class _FreshLog:
    """Tells what belongs to a step from what an earlier one has left in ``extras``."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Any, list[tuple[Any, int]]]] = {}

    def of_this_step(self, extras: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of ``episode`` and ``log`` that were written since the last call."""
        fresh: dict[str, Any] = {}
        for part in ("episode", "log"):
            log = extras.get(part)
            if not isinstance(log, Mapping):
                continue
            # Held, not only compared by id: the memory of an object that is gone is given to another.
            marks = [(value, _version(value)) for value in log.values()]
            before = self._last.get(part)
            self._last[part] = (log, marks)
            if before is None or before[0] is not log or not _same_marks(before[1], marks):
                fresh.update({str(name): _copied(value) for name, value in log.items() if _is_number(value)})
        return fresh


def _version(value: Any) -> int:
    """Return how often a tensor was written to; tensors made in inference mode do not count that."""
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0


def _same_marks(before: list[tuple[Any, int]], after: list[tuple[Any, int]]) -> bool:
    """Say whether every value is the same object and, if it is a tensor, was not written to."""
    if len(before) != len(after):
        return False
    return all(
        old_version == version and (old is value or (not isinstance(value, torch.Tensor) and old == value))
        for (old, old_version), (value, version) in zip(before, after, strict=True)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number, torch.Tensor))


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
