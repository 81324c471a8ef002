"""Does an environment keep the contract? Every deviation becomes one message that says what to change.

``check_env`` steps an environment with random actions, holds on to what it returned, and looks at it
again later. Nothing is known about the simulator behind it, so each rule below is one that can be
decided from the outside. Two things cannot: whether an episode that ended early was a termination
or a truncation, and whether ``get_observations`` changes hidden state of an environment without
``state_dict``. The first is reported by what makes it likely, the second only when it shows.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase

from sim_rl_plugin.env._commands import check_commands
from sim_rl_plugin.env._form import INTEGERS, FormCheck, Unsound
from sim_rl_plugin.env._records import Record, RecordCheck
from sim_rl_plugin.env._trees import cloned, not_plain, same, same_tree
from sim_rl_plugin.env.problems import AREAS, Findings, Problem
from sim_rl_plugin.env.vec_env import VecEnv
from sim_rl_plugin.errors import UserError

# Held this long, a tensor has seen a few more steps, and a large batch still fits in memory.
_HELD_STEPS = 4


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
    with suppress(Unsound):
        checker.examine(num_steps)
    return checker.findings.problems()


def require_env(env: VecEnv, *, num_steps: int = 64, seed: int = 0) -> None:
    """Examine an environment like ``check_env`` and refuse it if there is any error.

    Raises:
        UserError: Names every problem, warnings included, one a line.
    """
    problems = check_env(env, num_steps=num_steps, seed=seed)
    if any(problem.severity == "error" for problem in problems):
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"{type(env).__name__} does not keep the contract of VecEnv:\n{lines}")


@dataclass
class _Held:
    """A tensor that the caller still owns: how to read it again, and what it was."""

    read: Callable[[], torch.Tensor]
    value: torch.Tensor


class _Checker:
    """The state of one examination: the environment, what was seen, and what was found."""

    def __init__(self, env: VecEnv, seed: int) -> None:
        self.env = env
        self.findings = Findings()
        self._form = FormCheck(env, self.findings)
        self._generator = torch.Generator().manual_seed(seed)
        self._records: list[Record] = []
        self._held: dict[str, deque[_Held]] = {}
        self._last_obs: dict[str, torch.Tensor] | None = None
        self._motion_squared: dict[str, float] = {}

    def examine(self, num_steps: int) -> None:
        """Run the whole course; raises ``Unsound`` where it cannot go on."""
        self._form.attributes()
        first_obs = self._form.observations(self.env.get_observations())
        self._form.terms(first_obs)
        self._hold_obs(first_obs)
        self._last_obs = cloned(dict(first_obs.items()))
        for _ in range(num_steps):
            self._step()
        natural = RecordCheck(self._records, num_steps, self._limit(), self.findings)
        natural.counters()
        # A counter that does not count would make everything that is judged by it look wrong.
        counters_sound = not self.findings.found("episode-length-not-counted", "episode-length-not-reset")
        settable = counters_sound and self._force_time_outs()
        records = RecordCheck(self._records, num_steps, self._limit(), self.findings)
        if counters_sound:
            records.counters()
            records.limit()
            records.time_outs()
            records.resets()
        records.final_obs()
        records.log()
        if settable and not self.findings.found(*AREAS["get_observations"]):
            self._check_reset_envs()
        self._check_state(settable)
        if settable:
            check_commands(self.env, self.findings, self._step_for_commands)

    # Stepping, and everything that is decided at once.

    def _actions(self) -> torch.Tensor:
        shape = (self.env.num_envs, self.env.num_actions)
        return (2.0 * torch.rand(shape, generator=self._generator) - 1.0).to(self.env.device)

    def _step(self, forced: torch.Tensor | None = None) -> Record:
        """Take one step, check its form, copy it, and look again at what earlier steps returned."""
        actions = self._actions()
        handed_in = actions.clone()
        age_before = self.env.episode_length_buf.clone()
        result = self.env.step(actions)
        obs, rewards, dones, extras = self._form.result(result)
        if not same(actions, handed_in):
            self.findings.report(
                "actions-modified",
                "actions",
                "step() wrote into the tensor that it was given, which is also in the learner's storage; "
                "work on a copy (actions.clamp(...), not actions.clamp_(...))",
            )
        self._check_held()
        age_after = self.env.episode_length_buf
        self._form.tensor("episode_length_buf", age_after, (self.env.num_envs,), INTEGERS)
        self._form.stop_if_unsound()

        self._check_finite(obs, rewards, extras)
        time_outs, final_obs, log = extras.get("time_outs"), extras.get("final_obs"), extras.get("log")
        record = Record(
            rewards=rewards.clone(),
            dones=dones.bool().clone(),
            time_outs=None if time_outs is None else time_outs.clone(),
            skipped=extras["skipped"].clone() if "skipped" in extras else torch.zeros_like(dones, dtype=torch.bool),
            age_before=age_before,
            age_after=age_after.clone(),
            forced=torch.zeros_like(age_before, dtype=torch.bool) if forced is None else forced,
            final_equals_obs=None if final_obs is None else self._final_equals_obs(obs, final_obs),
            log=log,
            log_values=cloned(log or {}),
        )
        self._records.append(record)
        self._measure_motion(obs, record.dones)
        self._hold_result(obs, rewards, dones, extras)
        # Probing every step would hide an environment that computes something on the first call only.
        if len(self._records) % 2 or bool(record.dones.any()):
            self._probe_get_observations()
        return record

    def _check_finite(self, obs: TensorDictBase, rewards: torch.Tensor, extras: dict[str, Any]) -> None:
        named: list[tuple[str, Any]] = [("rewards", rewards)] + [(f"obs[{key!r}]", value) for key, value in obs.items()]
        if "final_obs" in extras:
            named += [(f"final_obs[{key!r}]", value) for key, value in extras["final_obs"].items()]
        for where, value in named:
            finite = torch.isfinite(value)
            if not bool(finite.all()):
                rows = (~finite).reshape(self.env.num_envs, -1).any(dim=-1).nonzero().flatten().tolist()
                self.findings.report(
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
        for key in obs.keys():
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
            if any(not same(entry.read(), entry.value) for entry in entries):
                entries.clear()
                self.findings.report(
                    "buffer-reused",
                    where,
                    "a later step wrote into a tensor that an earlier one had returned, so what the learner kept "
                    "of the rollout changes behind its back; return a new tensor each step (.clone())",
                )

    # get_observations.

    def _probe_get_observations(self) -> None:
        """Call ``get_observations`` twice and compare the simulation around it, the calls, and ``step``."""
        codes = AREAS["get_observations"]
        if self.findings.found(*codes):
            return
        state_before, age_before = cloned(self._state()), self.env.episode_length_buf.clone()
        obs = self._form.observations(self.env.get_observations())
        first = cloned(dict(obs.items()))
        if not same(age_before, self.env.episode_length_buf) or not same_tree(state_before, self._state()):
            self.findings.report(
                codes[0],
                "get_observations()",
                "a call changed the simulation (state_dict or episode_length_buf differ afterwards), so a runner that "
                "asks once more trains on something else; compute the observations in step(), keep them, and return "
                "a copy (drawing noise and pushing a history belong into step() too)",
            )
            return
        second = cloned(dict(self._form.observations(self.env.get_observations()).items()))
        if not same_tree(first, second):
            self.findings.report(
                codes[1],
                "get_observations()",
                "two calls in a row returned different values: either it advances something, or it draws new noise; "
                "compute the observations in step(), keep them, and return a copy",
            )
            return
        self._hold_obs(obs, "get_observations()")
        self._compare_with_step(first)

    def _compare_with_step(self, obs: dict[str, torch.Tensor]) -> None:
        assert self._last_obs is not None
        for key, value in obs.items():
            if same(value, self._last_obs[key]):
                continue
            difference = (value.float() - self._last_obs[key].float()).square().flatten(1).mean(dim=-1)
            motion = self._motion_squared.get(key, 0.0)
            # Noise smaller than half a step's motion is small enough not to hide it; more is another state.
            small = float(difference.max()) < 0.25 * motion
            self.findings.report(
                "get-observations-differs",
                f"get_observations()[{key!r}]",
                "differs from what step() had just returned, by up to "
                f"{float(difference.max()) ** 0.5:.3g} (root mean square over a row); both must be the observations "
                "that the next action is chosen from, after the reset of environments that ended"
                + ("; newly drawn noise would explain it: keep what step() computed" if small else ""),
                "warning" if small else "error",
            )

    def _measure_motion(self, obs: TensorDictBase, dones: torch.Tensor) -> None:
        current = cloned(dict(obs.items()))
        if self._last_obs is not None and not bool(dones.all()):
            for key, value in current.items():
                moved = (value.float() - self._last_obs[key].float())[~dones].square().mean()
                self._motion_squared[key] = float(moved)
        self._last_obs = current

    # Provoked time-outs.

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
                reason = "" if same(found, wanted) else "a read afterwards gives the old values"
            except Exception as error:
                reason = f"the assignment raises {type(error).__name__}: {error}"
            if reason:
                self.findings.report(
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

    def _step_for_commands(self, is_last: bool) -> None:
        if is_last:
            counters = self.env.episode_length_buf
            self.env.episode_length_buf = (self._limit() - 1).to(counters.dtype).clone()
        self.env.step(self._actions())

    def _limit(self) -> torch.Tensor:
        return torch.as_tensor(self.env.max_episode_length, device=self.env.device).expand(self.env.num_envs)

    # Resetting some.

    def _check_reset_envs(self) -> None:
        """Reset every second environment by hand, where that is offered."""
        reset_envs = getattr(self.env, "reset_envs", None)
        if reset_envs is None:
            return
        chosen = torch.arange(self.env.num_envs, device=self.env.device) % 2 == 0
        before = cloned(dict(self.env.get_observations().items()))
        age_before = self.env.episode_length_buf.clone()
        if not reset_envs(chosen.nonzero().squeeze(-1)):
            return
        obs = self._form.observations(self.env.get_observations())
        ages = self.env.episode_length_buf
        others_changed = [key for key, value in obs.items() if not same(value[~chosen], before[key][~chosen])]
        if others_changed or not same(ages[~chosen], age_before[~chosen]):
            self.findings.report(
                "reset-envs-others",
                "reset_envs()",
                f"environments that were not named changed ({', '.join(others_changed) or 'their ages'}); they are in "
                "the middle of an episode, and must go on from the observations that step() returned",
            )
        if bool(ages[chosen].any()):
            self.findings.report(
                "reset-envs-without-effect",
                "reset_envs()",
                "it returned true, and episode_length_buf is not 0 in the environments that were named; return false "
                "where single environments cannot be reset",
            )
        self._check_finite(obs, torch.zeros(1, device=self.env.device), {})
        self._last_obs = cloned(dict(obs.items()))

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
        if wrong := not_plain("state_dict()", state):
            self.findings.report(
                "state-not-plain",
                wrong,
                "expected tensors, numbers, strings, None, and dicts and lists of them, so that a checkpoint loads "
                "without running code",
            )
            return
        saved = cloned(state)
        actions = [self._actions() for _ in range(6)]
        with _global_random_state_kept():
            expected = self._replay(actions, settable)
        if not same_tree(state, saved):
            self.findings.report(
                "buffer-reused",
                "state_dict()",
                "a later step wrote into the state that was returned, so a checkpoint written in the background holds "
                "half of the next step; return copies",
            )
        try:
            self.env.load_state_dict(cloned(saved))
        except Exception as error:
            self.findings.report(
                "state-not-restored",
                "load_state_dict()",
                f"raises {type(error).__name__} ({error}) for a state that state_dict() had just returned",
            )
            return
        if not getattr(self.env, "restores_exactly", True):
            return
        found = self._replay(actions, settable)
        pairs = list(zip(expected, found, strict=True))
        different = [name for name in expected[0] if any(not same_tree(a[name], b[name]) for a, b in pairs)]
        if different:
            self.findings.report(
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
                cloned(
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
