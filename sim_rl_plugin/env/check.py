"""Does an environment keep the contract? Every deviation becomes one message that says what to change.

``check_env`` steps an environment with random actions, holds on to what it returned, and looks at it
again later. Nothing is known about the simulator behind it, so each rule below is one that can be
decided from the outside. Two things cannot: whether an episode that ended early was a termination
or a truncation, and whether ``get_observations`` changes hidden state of an environment without
``state_dict``. The first is reported by what makes it likely, the second only when it shows.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase

from sim_rl_plugin.env.vec_env import VecEnv
from sim_rl_plugin.errors import UserError

AREAS: dict[str, tuple[str, ...]] = {
    "attributes": ("missing-attribute", "wrong-attribute"),
    "structure": ("wrong-type", "wrong-shape", "groups-changed"),
    "dtypes": ("wrong-dtype",),
    "devices": ("wrong-device",),
    "buffers": ("buffer-reused", "actions-modified"),
    "get_observations": (
        "get-observations-changes-simulation",
        "get-observations-unstable",
        "get-observations-differs",
    ),
    "resets": ("reset-late", "obs-is-final-obs", "no-reset-seen"),
    "episode_length": (
        "episode-length-not-counted",
        "episode-length-not-reset",
        "episode-length-not-settable",
        "episode-length-ignored",
        "limit-passed",
    ),
    "time_outs": ("time-out-without-done", "time-outs-missing", "time-outs-early", "time-outs-are-dones"),
    "final_obs": ("final-obs-missing", "final-obs-groups"),
    "finite": ("not-finite",),
    "log": ("log-stale",),
    "state": ("state-not-plain", "state-not-restored"),
}
"""Every code that a ``Problem`` can have, by the area of the contract that it belongs to."""

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

# Held this long, a tensor has seen a few more steps, and a large batch still fits in memory.
_HELD_STEPS = 4


@dataclass(frozen=True)
class Problem:
    """One deviation from the contract.

    Attributes:
        code: Stable name of the rule, one of ``AREAS``.
        where: What deviates, as the adapter's author would write it (``"obs['policy']"``).
        message: What was found, what the contract wants, and what to change.
        severity: ``"error"`` breaks or biases training; ``"warning"`` may be intended.
    """

    code: str
    where: str
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.severity} [{self.code}] {self.where}: {self.message}"


def check_env(env: VecEnv, *, num_steps: int = 64, seed: int = 0) -> list[Problem]:
    """Examine an environment and return what deviates from the contract of ``VecEnv``.

    The environment is stepped about ``num_steps + 30`` times with actions drawn uniformly from
    ``[-1, 1]``, its ``episode_length_buf`` is assigned to provoke time-outs, and its state is
    restored once if it has one. It is left in the middle of an episode and is not closed.

    Mistakes of type, shape, dtype or device end the examination at the step that shows them, since
    values cannot be judged before they are put right.

    Args:
        env: The environment.
        num_steps: Control steps before ``episode_length_buf`` is touched.
        seed: Seed of the actions.

    Returns:
        One problem per rule and place, errors first; empty if none was found.
    """
    checker = _Checker(env, seed)
    with suppress(_Unsound):
        checker.examine(num_steps)
    return sorted(checker.problems.values(), key=lambda problem: problem.severity)


def require_env(env: VecEnv, *, num_steps: int = 64, seed: int = 0) -> None:
    """Examine an environment like ``check_env`` and refuse it if there is any error.

    Raises:
        UserError: Names every problem, warnings included, one a line.
    """
    problems = check_env(env, num_steps=num_steps, seed=seed)
    if any(problem.severity == "error" for problem in problems):
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"{type(env).__name__} does not keep the contract of VecEnv:\n{lines}")


class _Unsound(Exception):
    """Something has the wrong form, so its values mean nothing."""


@dataclass(frozen=True)
class _Record:
    """What one step returned, copied at once, with the counters around it; rows are environments."""

    rewards: torch.Tensor
    dones: torch.Tensor
    time_outs: torch.Tensor | None
    age_before: torch.Tensor
    age_after: torch.Tensor
    forced: torch.Tensor
    """Rows whose counter was set to one step before the limit."""
    final_equals_obs: torch.Tensor | None
    """Rows whose ``final_obs`` equals ``obs`` in every group, or None without ``final_obs``."""
    log: object
    """The very object, kept alive so that its identity means something."""
    log_values: dict[str, Any]


@dataclass
class _Held:
    """A tensor that the caller still owns: how to read it again, and what it was."""

    read: Callable[[], torch.Tensor]
    value: torch.Tensor


class _Checker:
    """The state of one examination: the environment, what was seen, and what was found."""

    def __init__(self, env: VecEnv, seed: int) -> None:
        self.env = env
        self.problems: dict[tuple[str, str], Problem] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._records: list[_Record] = []
        self._num_natural_records = 0
        self._held: dict[str, deque[_Held]] = {}
        self._groups: dict[str, tuple[torch.Size, torch.dtype]] | None = None
        self._last_obs: dict[str, torch.Tensor] | None = None
        self._motion_squared: dict[str, float] = {}

    # The course of an examination.

    def examine(self, num_steps: int) -> None:
        self._check_attributes()
        first_obs = self._checked_get_observations()
        self._hold_obs(first_obs)
        self._last_obs = _cloned(dict(first_obs.items()))
        for _ in range(num_steps):
            self._step()
        self._num_natural_records = len(self._records)
        self._judge_counters()
        counters_sound = not self._found("episode-length-not-counted", "episode-length-not-reset")
        settable = counters_sound and self._force_time_outs()
        if counters_sound:
            self._judge_counters()
            self._judge_limit()
            self._judge_time_outs()
            self._judge_resets()
        self._judge_final_obs()
        self._judge_log()
        self._check_state(settable)

    def report(self, code: str, where: str, message: str, severity: Literal["error", "warning"] = "error") -> None:
        """Note a problem; the first of its kind and place is kept, since it is where things began."""
        assert any(code in codes for codes in AREAS.values()), code
        self.problems.setdefault((code, where), Problem(code, where, message, severity))

    def _found(self, *codes: str) -> bool:
        return any(code in codes for code, _ in self.problems)

    # Form: attributes, types, shapes, dtypes, devices.

    def _check_attributes(self) -> None:
        for name in ("num_envs", "num_actions", "max_episode_length", "episode_length_buf", "device", "cfg"):
            try:
                getattr(self.env, name)
            except AttributeError as error:
                self.report(
                    "missing-attribute",
                    name,
                    f"reading it raises AttributeError ({error}); set env.{name} before the first step",
                )
        if self.problems:
            raise _Unsound
        for name in ("num_envs", "num_actions"):
            value = getattr(self.env, name)
            if not _is_integer(value) or value < 1:
                self.report("wrong-attribute", name, f"found {value!r}, expected an int of at least 1")
        try:
            torch.device(self.env.device)
        except (TypeError, RuntimeError):
            self.report(
                "wrong-attribute",
                "device",
                f"found {self.env.device!r}, expected a torch.device or a string such as 'cpu' or 'cuda:0'",
            )
        self._stop_if_unsound()
        self._check_limit_attribute()
        self._check_tensor("episode_length_buf", self.env.episode_length_buf, (self.env.num_envs,), _INTEGERS)
        self._stop_if_unsound()

    def _check_limit_attribute(self) -> None:
        limit: Any = self.env.max_episode_length
        if isinstance(limit, torch.Tensor):
            if limit.shape != (self.env.num_envs,):
                self.report(
                    "wrong-attribute",
                    "max_episode_length",
                    f"found a tensor of shape {tuple(limit.shape)}, expected ({self.env.num_envs},) or one int",
                )
            elif not bool((limit > 0).all()):
                self.report("wrong-attribute", "max_episode_length", "found limits below 1, expected control steps")
        elif not _is_integer(limit) or limit < 1:
            self.report(
                "wrong-attribute",
                "max_episode_length",
                f"found {limit!r}, expected an int of at least 1, in control steps, or a tensor (num_envs,)",
            )

    def _check_tensor(
        self, where: str, value: object, shape: tuple[int, ...] | None, dtypes: tuple[torch.dtype, ...]
    ) -> None:
        if not isinstance(value, torch.Tensor):
            self.report("wrong-type", where, f"found a {type(value).__name__}, expected a torch.Tensor")
            return
        if shape is not None and tuple(value.shape) != shape:
            self.report("wrong-shape", where, f"found shape {tuple(value.shape)}, expected {shape}")
        if value.dtype not in dtypes:
            names = " or ".join(str(dtype) for dtype in dtypes)
            self.report("wrong-dtype", where, f"found {value.dtype}, expected {names}; convert it once in the adapter")
        if not _same_device(value.device, torch.device(self.env.device)):
            self.report(
                "wrong-device",
                where,
                f"found a tensor on {value.device}, expected env.device, which is {self.env.device}",
            )

    def _check_groups(self, where: str, obs: object) -> None:
        if not isinstance(obs, TensorDictBase):
            self.report(
                "wrong-type",
                where,
                f"found a {type(obs).__name__}, expected a TensorDict of named groups: "
                "TensorDict({'policy': tensor}, batch_size=[num_envs])",
            )
            return
        num_envs = self.env.num_envs
        if tuple(obs.batch_size) != (num_envs,):
            self.report(
                "wrong-shape", where, f"found batch_size {list(obs.batch_size)}, expected [{num_envs}] (num_envs)"
            )
        if len(obs.keys()) == 0:
            self.report("wrong-type", where, "found no observation group, expected at least one")
        for key, value in obs.items():
            self._check_group(f"{where}[{key!r}]", value)

    def _check_group(self, where: str, value: object) -> None:
        if not isinstance(value, torch.Tensor):
            self.report("wrong-type", where, f"found a {type(value).__name__}, expected a tensor; groups do not nest")
            return
        is_image = value.ndim == 4
        if value.ndim not in (2, 4) or value.shape[0] != self.env.num_envs:
            self.report(
                "wrong-shape",
                where,
                f"found shape {tuple(value.shape)}, expected ({self.env.num_envs}, size), "
                f"or ({self.env.num_envs}, channels, height, width) for an image",
            )
        self._check_tensor(where, value, None, (torch.float32, torch.uint8) if is_image else (torch.float32,))

    def _check_groups_constant(self, where: str, obs: TensorDictBase) -> None:
        groups = {str(key): (value.shape, value.dtype) for key, value in obs.items()}
        if self._groups is None:
            self._groups = groups
        elif groups != self._groups:
            self.report(
                "groups-changed",
                where,
                f"found {_describe(groups)}, earlier {_describe(self._groups)}; every call must return the same "
                "groups with the same shapes and dtypes, so fill what is not available with zeros",
            )

    def _check_extras(self, extras: object) -> None:
        if not isinstance(extras, dict):
            self.report("wrong-type", "extras", f"found a {type(extras).__name__}, expected a dict (may be empty)")
            return
        if "time_outs" in extras:
            self._check_tensor("time_outs", extras["time_outs"], (self.env.num_envs,), (torch.bool,))
        if "final_obs" in extras:
            self._check_groups("final_obs", extras["final_obs"])
        log = extras.get("log", {})
        if not isinstance(log, dict):
            self.report(
                "wrong-type", "log", f"found a {type(log).__name__}, expected a dict of str to number or tensor"
            )
            return
        for key, value in log.items():
            is_number = isinstance(value, (int, float, np.number, torch.Tensor))
            if not isinstance(key, str) or not is_number:
                self.report(
                    "wrong-type", f"log[{key!r}]", f"found a {type(value).__name__}, expected str to number or tensor"
                )

    def _stop_if_unsound(self) -> None:
        if self._found("wrong-attribute", "wrong-type", "wrong-shape", "wrong-dtype", "wrong-device", "groups-changed"):
            raise _Unsound

    # Stepping, and everything that is decided at once.

    def _actions(self) -> torch.Tensor:
        shape = (self.env.num_envs, self.env.num_actions)
        return (2.0 * torch.rand(shape, generator=self._generator) - 1.0).to(self.env.device)

    def _step(self, forced: torch.Tensor | None = None) -> _Record:
        """Take one step, check its form, copy it, and look again at what earlier steps returned."""
        actions = self._actions()
        handed_in = actions.clone()
        age_before = self.env.episode_length_buf.clone()
        result = self.env.step(actions)
        obs, rewards, dones, extras = self._checked_result(result)
        if not _same(actions, handed_in):
            self.report(
                "actions-modified",
                "actions",
                "step() wrote into the tensor that it was given, which is also in the learner's storage; "
                "work on a copy (actions.clamp(...), not actions.clamp_(...))",
            )
        self._check_held()
        age_after = self.env.episode_length_buf
        self._check_tensor("episode_length_buf", age_after, (self.env.num_envs,), _INTEGERS)
        self._stop_if_unsound()

        self._check_finite(obs, rewards, extras)
        time_outs, final_obs, log = extras.get("time_outs"), extras.get("final_obs"), extras.get("log")
        record = _Record(
            rewards=rewards.clone(),
            dones=dones.bool().clone(),
            time_outs=None if time_outs is None else time_outs.clone(),
            age_before=age_before,
            age_after=age_after.clone(),
            forced=torch.zeros_like(age_before, dtype=torch.bool) if forced is None else forced,
            final_equals_obs=None if final_obs is None else self._final_equals_obs(obs, final_obs),
            log=log,
            log_values=_cloned(log or {}),
        )
        self._records.append(record)
        self._measure_motion(obs, record.dones)
        self._hold_result(obs, rewards, dones, extras)
        # Probing every step would hide an environment that computes something on the first call only.
        if len(self._records) % 2 or bool(record.dones.any()):
            self._probe_get_observations()
        return record

    def _checked_result(self, result: object) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        if not isinstance(result, tuple) or len(result) != 4:
            found = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
            self.report("wrong-type", "step()", f"found {found}, expected (obs, rewards, dones, extras)")
            raise _Unsound
        obs, rewards, dones, extras = result
        self._check_groups("obs", obs)
        self._check_tensor("rewards", rewards, (self.env.num_envs,), (torch.float32,))
        self._check_tensor("dones", dones, (self.env.num_envs,), (torch.bool, *_INTEGERS))
        self._check_extras(extras)
        self._stop_if_unsound()
        self._check_groups_constant("obs", obs)
        if "final_obs" in extras:
            self._check_final_groups(obs, extras["final_obs"])
        self._stop_if_unsound()
        return obs, rewards, dones, extras

    def _check_final_groups(self, obs: TensorDictBase, final_obs: TensorDictBase) -> None:
        expected = {str(key): value.shape for key, value in obs.items()}
        found = {str(key): value.shape for key, value in final_obs.items()}
        if found != expected:
            self.report(
                "final-obs-groups",
                "final_obs",
                f"found groups {_describe_shapes(found)}, expected those of obs, {_describe_shapes(expected)}: "
                "the critic is evaluated on final_obs and needs every group that it reads",
            )

    def _check_finite(self, obs: TensorDictBase, rewards: torch.Tensor, extras: dict[str, Any]) -> None:
        named: list[tuple[str, Any]] = [("rewards", rewards)] + [(f"obs[{key!r}]", value) for key, value in obs.items()]
        if "final_obs" in extras:
            named += [(f"final_obs[{key!r}]", value) for key, value in extras["final_obs"].items()]
        for where, value in named:
            finite = torch.isfinite(value)
            if not bool(finite.all()):
                rows = (~finite).reshape(self.env.num_envs, -1).any(dim=-1).nonzero().flatten().tolist()
                self.report(
                    "not-finite",
                    where,
                    f"found NaN or infinity in environments {_shortened(rows)} after {len(self._records) + 1} steps; "
                    "one such value destroys the weights in one update, so end the episode of a simulation that "
                    "diverged and reset it (rows of final_obs that did not end may hold anything finite)",
                )

    def _final_equals_obs(self, obs: TensorDictBase, final_obs: TensorDictBase) -> torch.Tensor:
        equal = torch.ones(self.env.num_envs, dtype=torch.bool, device=self.env.device)
        for key in set(obs.keys()) & set(final_obs.keys()):
            equal &= (obs[key] == final_obs[key]).reshape(self.env.num_envs, -1).all(dim=-1)
        return equal

    # Buffers.

    def _hold(self, where: str, read: Callable[[], torch.Tensor]) -> None:
        self._held.setdefault(where, deque(maxlen=_HELD_STEPS)).append(_Held(read, read().clone()))

    def _hold_obs(self, obs: TensorDictBase, where: str = "obs") -> None:
        for key in obs.keys():  # noqa: SIM118
            # Read through the TensorDict: an environment may also put a new tensor into the old one.
            self._hold(f"{where}[{key!r}]", lambda key=key: obs.get(key))  # type: ignore[misc]

    def _hold_result(
        self, obs: TensorDictBase, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]
    ) -> None:
        self._hold_obs(obs)
        self._hold("rewards", lambda: rewards)
        self._hold("dones", lambda: dones)
        if (time_outs := extras.get("time_outs")) is not None:
            self._hold("time_outs", lambda: time_outs)
        if (final_obs := extras.get("final_obs")) is not None:
            self._hold_obs(final_obs, "final_obs")
        for key, value in extras.get("log", {}).items():
            if isinstance(value, torch.Tensor):
                self._hold(f"log[{key!r}]", lambda value=value: value)  # type: ignore[misc]

    def _check_held(self) -> None:
        for where, entries in self._held.items():
            if any(not _same(entry.read(), entry.value) for entry in entries):
                entries.clear()
                self.report(
                    "buffer-reused",
                    where,
                    "a later step wrote into a tensor that an earlier one had returned, so what the learner kept "
                    "of the rollout changes behind its back; return a new tensor each step (.clone())",
                )

    # get_observations.

    def _checked_get_observations(self) -> TensorDict:
        obs = self.env.get_observations()
        self._check_groups("get_observations()", obs)
        self._stop_if_unsound()
        self._check_groups_constant("get_observations()", obs)
        self._stop_if_unsound()
        return obs

    def _probe_get_observations(self) -> None:
        """Call ``get_observations`` twice and compare the simulation around it, the calls, and ``step``."""
        codes = AREAS["get_observations"]
        if self._found(*codes):
            return
        state_before, age_before = _cloned(self._state()), self.env.episode_length_buf.clone()
        first = _cloned(dict(self._checked_get_observations().items()))
        if not _same(age_before, self.env.episode_length_buf) or not _same_tree(state_before, self._state()):
            self.report(
                codes[0],
                "get_observations()",
                "a call changed the simulation (state_dict or episode_length_buf differ afterwards), so a runner that "
                "asks once more trains on something else; compute the observations in step(), keep them, and return "
                "a copy (drawing noise and pushing a history belong into step() too)",
            )
            return
        second = _cloned(dict(self._checked_get_observations().items()))
        if not _same_tree(first, second):
            self.report(
                codes[1],
                "get_observations()",
                "two calls in a row returned different values: either it advances something, or it draws new noise; "
                "compute the observations in step(), keep them, and return a copy",
            )
            return
        self._compare_with_step(first)

    def _compare_with_step(self, obs: dict[str, torch.Tensor]) -> None:
        assert self._last_obs is not None
        for key, value in obs.items():
            difference = (value.float() - self._last_obs[key].float()).square().flatten(1).mean(dim=-1)
            if _same(value, self._last_obs[key]):
                continue
            motion = self._motion_squared.get(key, 0.0)
            # Noise smaller than half a step's motion is small enough not to hide it; more is another state.
            small = float(difference.max()) < 0.25 * motion
            self.report(
                "get-observations-differs",
                f"get_observations()[{key!r}]",
                "differs from what step() had just returned, by up to "
                f"{float(difference.max()) ** 0.5:.3g} (root mean square over a row); both must be the observations "
                "that the next action is chosen from, after the reset of environments that ended"
                + ("; newly drawn noise would explain it: keep what step() computed" if small else ""),
                "warning" if small else "error",
            )

    def _measure_motion(self, obs: TensorDictBase, dones: torch.Tensor) -> None:
        current = _cloned(dict(obs.items()))
        if self._last_obs is not None and not bool(dones.all()):
            for key, value in current.items():
                moved = (value.float() - self._last_obs[key].float())[~dones].square().mean()
                self._motion_squared[key] = float(moved)
        self._last_obs = current

    # Resets, time-outs and counters, judged over all records.

    def _force_time_outs(self) -> bool:
        """Set half of the counters to one step before the limit, three times; return whether that works."""
        rows = torch.arange(self.env.num_envs, device=self.env.device)
        for round_ in range(3):
            forced = rows % 2 == round_ % 2 if self.env.num_envs > 1 else rows == 0
            # An environment that has just ended may still be about to reset, one step late.
            forced = forced & ~self._records[-1].dones
            counters = self.env.episode_length_buf
            wanted = torch.where(forced, (self._limit() - 1).to(counters.dtype), counters)
            try:
                self.env.episode_length_buf = wanted.clone()
                found = self.env.episode_length_buf
                reason = "" if _same(found, wanted) else "a read afterwards gives the old values"
            except Exception as error:
                reason = f"the assignment raises {type(error).__name__}: {error}"
            if reason:
                self.report(
                    "episode-length-not-settable",
                    "episode_length_buf",
                    f"{reason}; the runner assigns random values before the first iteration, so that the "
                    "episodes do not all end in the same step: make it an attribute, or a property with a setter",
                )
                return False
            self._step(forced)
            self._step()
            self._step()
        return True

    def _limit(self) -> torch.Tensor:
        return torch.as_tensor(self.env.max_episode_length, device=self.env.device).expand(self.env.num_envs)

    def _judge_counters(self) -> None:
        for record in self._records:
            if bool((record.dones & (record.age_after != 0)).any()):
                self.report(
                    "episode-length-not-reset",
                    "episode_length_buf",
                    "found a value other than 0 right after a step in which the environment ended; set it to 0 in "
                    "the reset that belongs to that step",
                )
            if bool((~record.dones & (record.age_after != record.age_before + 1)).any()):
                self.report(
                    "episode-length-not-counted",
                    "episode_length_buf",
                    "a step in which an environment did not end must add exactly 1 to it; it counts control steps, "
                    "not physics steps",
                )

    def _judge_limit(self) -> None:
        limit = self._limit()
        natural = self._records[: self._num_natural_records]
        if any(bool((~record.dones & (record.age_after >= limit)).any()) for record in natural):
            self.report(
                "limit-passed",
                "max_episode_length",
                "an environment was not done although episode_length_buf had reached max_episode_length; end it in "
                "the step in which the counter reaches the limit, or correct the limit",
            )
        elif any(bool((record.forced & ~record.dones).any()) for record in self._records):
            self.report(
                "episode-length-ignored",
                "episode_length_buf",
                "set to max_episode_length - 1, it must lead to a time-out in the next step, but the environment went "
                "on; let the time limit look at this very tensor (a simulator's own limit, such as Gymnasium's "
                "TimeLimit, has to be switched off)",
            )

    def _judge_time_outs(self) -> None:
        limit = self._limit()
        at_limit = time_outs_at_limit = early_dones = early_time_outs = 0
        # Counters that the simulator does not look at say nothing about the limit once they were assigned.
        ignored = self._found("episode-length-ignored")
        for record in self._records[: self._num_natural_records] if ignored else self._records:
            time_outs = torch.zeros_like(record.dones) if record.time_outs is None else record.time_outs
            if bool((time_outs & ~record.dones).any()):
                self.report(
                    "time-out-without-done",
                    "time_outs",
                    "true for an environment that is not done; time_outs says why an episode ended, so it must be a "
                    "subset of dones (not a mere counter test after the reset, nor the flag of the step before)",
                )
            at_limit_row = record.dones & (record.age_before + 1 >= limit)
            # One step of grace: some simulators test the counter before they add to it.
            early_row = record.dones & (record.age_before + 1 < limit - 1)
            at_limit += int(at_limit_row.sum())
            time_outs_at_limit += int((at_limit_row & time_outs).sum())
            early_dones += int(early_row.sum())
            early_time_outs += int((early_row & time_outs).sum())
        if at_limit and not time_outs_at_limit:
            self.report(
                "time-outs-missing",
                "time_outs",
                f"{at_limit} episodes ended at max_episode_length and none was marked in extras['time_outs']; without "
                "it the learner takes the limit for a failure, and values near it for zero",
            )
        if early_time_outs >= 2 and early_time_outs == early_dones:
            self.report(
                "time-outs-are-dones",
                "time_outs",
                f"all {early_dones} episodes that ended before max_episode_length were marked as time-outs; "
                "terminations (a fall, a collision) must not be, or the learner bootstraps from a state that has "
                "no future: time_outs = truncated & ~terminated (right as it is only if the task itself truncates "
                "and never terminates)",
            )
        elif early_time_outs:
            self.report(
                "time-outs-early",
                "time_outs",
                f"{early_time_outs} of {early_dones} episodes that ended before max_episode_length were marked as "
                "time-outs; right for a truncation by the task itself, wrong for a termination",
                "warning",
            )

    def _judge_resets(self) -> None:
        if not any(bool(record.dones.any()) for record in self._records):
            self.report(
                "no-reset-seen",
                "dones",
                f"no environment ended in {len(self._records)} steps, so resets, time_outs and final_obs were not "
                "examined; use more steps or a shorter max_episode_length",
                "warning",
            )
            return
        if self._resets_late():
            return
        compared = [r.final_equals_obs[r.dones] for r in self._records if r.final_equals_obs is not None]
        rows = torch.cat(compared) if compared else torch.zeros(0, dtype=torch.bool)
        if len(rows) and bool(rows.all()):
            self.report(
                "obs-is-final-obs",
                "obs",
                f"equal to final_obs in all {len(rows)} environments that ended: either obs is still the end of the "
                "old episode (reset before returning it), or final_obs was read after the reset (keep a copy before)",
            )

    def _resets_late(self) -> bool:
        """Look for the signs of a reset one step after its episode's end."""
        again = zero = pairs = zero_elsewhere = elsewhere = 0
        ended_before = torch.zeros_like(self._records[0].dones)
        for record, following in zip(self._records, self._records[1:], strict=False):
            just_ended = record.dones & ~ended_before & ~following.forced
            no_reward = following.rewards == 0.0
            pairs += int(just_ended.sum())
            again += int((just_ended & following.dones).sum())
            zero += int((just_ended & no_reward).sum())
            elsewhere += int((~record.dones).sum())
            zero_elsewhere += int((~record.dones & no_reward).sum())
            ended_before = record.dones
        always_again = pairs >= 2 and again == pairs and bool((self._limit() > 1).all())
        # Exactly zero after each end, and hardly ever otherwise: a step that the simulator did not take.
        fake = pairs >= 2 and zero == pairs and elsewhere > 0 and zero_elsewhere < 0.1 * elsewhere
        if always_again or fake:
            sign = "was done again in the next step" if always_again else "earned exactly 0 in the next step"
            self.report(
                "reset-late",
                "obs",
                f"every environment that ended {sign} ({pairs} times): the reset happens one step late, which puts a "
                "transition that never took place into every episode; reset in the same step (Gymnasium: "
                "AutoresetMode.SAME_STEP or DISABLED) and return the new episode's observation",
            )
            return True
        return False

    def _judge_final_obs(self) -> None:
        ended = [record for record in self._records if bool(record.dones.any())]
        given = sum(record.final_equals_obs is not None for record in ended)
        if 0 < given < len(ended):
            self.report(
                "final-obs-missing",
                "final_obs",
                f"given in {given} of {len(ended)} steps in which an environment ended; the learner needs it in all of "
                "them, or in none (it then bootstraps from the observation before)",
            )

    def _judge_log(self) -> None:
        keys = {key for record in self._records for key in record.log_values}
        stale = {key for key in keys if self._log_key_stale(key)}
        for record, following in zip(self._records, self._records[1:], strict=False):
            quiet = not bool(following.dones.any())
            if quiet and following.log and following.log is record.log:
                stale |= {key for key in following.log_values if _same_log(record, following, key)}
        if stale:
            self.report(
                "log-stale",
                "log",
                f"{', '.join(sorted(map(repr, stale)))} kept the value of an earlier step in steps in which nothing "
                "ended, and would be averaged again and again; return a new dict each step that holds only what "
                "belongs to that step",
            )

    def _log_key_stale(self, key: str) -> bool:
        """Say whether a value changes when an environment ends and never otherwise."""
        kept = changed_quietly = changed_at_end = 0
        for record, following in zip(self._records, self._records[1:], strict=False):
            if key not in record.log_values or key not in following.log_values:
                continue
            same = _same_log(record, following, key)
            if bool(following.dones.any()):
                changed_at_end += not same
            else:
                kept += same
                changed_quietly += not same
        return kept >= 3 and changed_at_end >= 2 and changed_quietly == 0

    # Restoring.

    def _state(self) -> dict[str, Any] | None:
        state_dict = getattr(self.env, "state_dict", None)
        return None if state_dict is None else state_dict()

    def _check_state(self, settable: bool) -> None:
        """Take the same steps twice from one state, a time-out among them where one can be provoked."""
        with _global_random_state_kept():
            state = self._state()
        if state is None:
            return
        if wrong := _not_plain("state_dict()", state):
            self.report(
                "state-not-plain",
                wrong,
                "expected tensors, numbers, strings, None, and dicts and lists of them, so that a checkpoint loads "
                "without running code",
            )
            return
        saved = _cloned(state)
        actions = [self._actions() for _ in range(6)]
        with _global_random_state_kept():
            expected = self._replay(actions, settable)
        if not _same_tree(state, saved):
            self.report(
                "buffer-reused",
                "state_dict()",
                "a later step wrote into the state that was returned, so a checkpoint written in the background holds "
                "half of the next step; return copies",
            )
        try:
            self.env.load_state_dict(_cloned(saved))
        except Exception as error:
            self.report(
                "state-not-restored",
                "load_state_dict()",
                f"raises {type(error).__name__} ({error}) for a state that state_dict() had just returned",
            )
            return
        found = self._replay(actions, settable)
        pairs = list(zip(expected, found, strict=True))
        different = [name for name in expected[0] if any(not _same_tree(a[name], b[name]) for a, b in pairs)]
        if different:
            self.report(
                "state-not-restored",
                "load_state_dict()",
                f"the same actions from the same state gave other {', '.join(different)}; state_dict() must hold "
                "everything that the next steps depend on: random states, counters, warm starts, pending commands",
            )

    def _replay(self, actions: list[torch.Tensor], settable: bool) -> list[dict[str, Any]]:
        steps = []
        for index, action in enumerate(actions):
            if settable and index == 2:
                counters = self.env.episode_length_buf
                self.env.episode_length_buf = (self._limit() - 1).to(counters.dtype).clone()
            obs, rewards, dones, extras = self.env.step(action.clone())
            steps.append(
                _cloned(
                    {
                        "obs": dict(obs.items()),
                        "rewards": rewards,
                        "dones": dones,
                        "time_outs": extras.get("time_outs"),
                        "episode_length_buf": self.env.episode_length_buf,
                    }
                )
            )
        return steps


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _same_device(found: torch.device, expected: torch.device) -> bool:
    # "cuda" means the current device, which only the tensor's own index can tell.
    return found.type == expected.type and (None in (found.index, expected.index) or found.index == expected.index)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Compare bit by bit in effect: a NaN equals a NaN in the same place."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _same_tree(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same_tree(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same_tree, a, b))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return _same(a, b)
    return bool(np.all(a == b)) or (a != a and b != b)


def _same_log(record: _Record, following: _Record, key: str) -> bool:
    return _same_tree(record.log_values.get(key), following.log_values.get(key))


def _cloned(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _cloned(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_cloned(value) for value in tree]
    return tree.clone() if isinstance(tree, torch.Tensor) else copy.deepcopy(tree)


def _not_plain(where: str, value: object) -> str:
    """Return the place of the first value that a checkpoint cannot hold, with its type, or nothing."""
    if isinstance(value, dict):
        parts = [(f"{where}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, list):
        parts = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    elif value is None or type(value) in (bool, int, float, str) or isinstance(value, torch.Tensor):
        return ""
    else:
        return f"{where} (a {type(value).__name__})"
    return next((found for place, item in parts if (found := _not_plain(place, item))), "")


def _describe(groups: dict[str, tuple[torch.Size, torch.dtype]]) -> str:
    return "{" + ", ".join(f"{key}: {tuple(shape)} {dtype}" for key, (shape, dtype) in groups.items()) + "}"


def _describe_shapes(groups: dict[str, torch.Size]) -> str:
    return "{" + ", ".join(f"{key}: {tuple(shape)}" for key, shape in groups.items()) + "}"


def _shortened(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


@contextmanager
def _global_random_state_kept() -> Iterator[None]:
    """Put the global generators back, which a checkpoint holds apart from the environment's own state."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)
