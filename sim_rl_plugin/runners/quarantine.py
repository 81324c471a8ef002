"""The NaN quarantine: a training goes on without the environments, or the iteration, that went wrong.

Nothing is done step by step but to note final observations. When a rollout is complete, one number tells whether
all of it is finite. Only if it is not, the slow path finds the environments concerned, takes them out of the
rollout as if they had never been in it, resets them, and writes down what happened. The whole rollout of such
an environment goes, not only what follows the first NaN: a simulation that diverges is wrong for some steps
before it shows. An update that goes wrong is undone from a copy of the state before the iteration.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin import distributed
from sim_rl_plugin.algorithms.algorithm import Algorithm, DivergedUpdate
from sim_rl_plugin.checkpoint import plain_settings
from sim_rl_plugin.config.nan_quarantine import QuarantineSettings
from sim_rl_plugin.config.signature import check_value
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.env.terms import observation_terms
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.logging.logger import Logger
from sim_rl_plugin.runners.fault_dump import FOLDER, describe_faults, write_dump
from sim_rl_plugin.runners.faults import Fault, RolloutWatch, with_finite_rows
from sim_rl_plugin.runners.guard import Guard, StoppingGuard
from sim_rl_plugin.runners.last_good_state import LastGoodState
from sim_rl_plugin.storage import RolloutStorage

_log = logging.getLogger("sim_rl_plugin")
_ALWAYS_TOLD = 5
"""Warnings that are all written; later only every one whose number is a power of two."""


def guard_of(runner: Any) -> Guard:
    """Return what looks for NaN and infinity in a runner's training, as its settings say and its algorithm can."""
    if not runner.cfg.get("check_for_nan", True):
        return Guard(runner.alg)
    if not hasattr(runner.alg, "restricted_to"):
        return StoppingGuard(runner.alg)
    return Quarantine(
        runner.alg,
        runner.env,
        runner.logger,
        QuarantineSettings(**runner.cfg.get("nan_quarantine", {})),
        plain_settings(runner.cfg),
        runner.gpu_global_rank,
        runner.is_distributed,
    )


class Quarantine(Guard):
    """Leaves out environments and iterations that went wrong; for our algorithms and what derives from them."""

    def __init__(
        self,
        algorithm: Algorithm,
        env: VecEnv,
        logger: Logger,
        settings: QuarantineSettings,
        config: dict[str, Any],
        rank: int = 0,
        is_distributed: bool = False,
    ) -> None:
        """Note what to guard.

        Args:
            algorithm: The algorithm.
            env: The environment.
            logger: Gets to know which episodes not to count; its folder is that of the dumps.
            settings: What the user chose.
            config: The training's settings in plain data, for dumps.
            rank: Which process of a distributed run this is.
            is_distributed: Whether there are others, which must drop an iteration together.
        """
        super().__init__(algorithm)
        self._env = env
        self._logger = logger
        self._settings = settings
        self._config = config
        self._rank = rank
        self._is_distributed = is_distributed
        self._device = torch.device(algorithm.device)
        keeps = settings.keep_state
        self._keeps_state = getattr(env, "state_is_cheap", False) if keeps is None else keeps
        self._sees_each_step = algorithm.learns_each_step
        self._last_good = LastGoodState(algorithm)
        self._watch = RolloutWatch()
        self._state: dict[str, Any] | None = None
        self._recovering = torch.zeros(env.num_envs, dtype=torch.bool, device=self._device)
        self._any_recovering = False
        self._kept: torch.Tensor | None = None
        """Environments that are left of the rollout, ``(R,)``; None for all."""
        self._dropped = False
        """Whether nothing is learnt from this iteration."""
        self._failed = False
        """Whether this iteration counts as one that went wrong."""
        self._failures = 0
        self._events = 0
        self._iteration = 0
        self._last_trouble = ""
        self._counts: dict[str, float] = {}

    def first(self, obs: TensorDict) -> TensorDict:
        """Return the observations ``[n]`` that a call of ``learn`` starts with.

        Those of environments whose next step ends a broken episode may still be what broke it.
        """
        return _finite_where(self._recovering, obs) if self._any_recovering else obs

    # One iteration

    def begin(self) -> None:
        """Copy what the iteration may spoil."""
        self._last_good.keep()
        self._watch.begin()
        self._kept, self._dropped, self._failed, self.failure = None, False, False, None
        self._counts = dict.fromkeys(self._counts, 0.0)
        if self._keeps_state and hasattr(self._env, "state_dict"):
            self._state = self._env.state_dict()

    def add_step(
        self, step: int, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]
    ) -> TensorDict:
        """Note what will not be stored; return observations ``[n]`` that the algorithm may learn from at once."""
        self._watch.add(step, extras)
        return with_finite_rows(obs) if self._sees_each_step else obs

    def inspect(self, obs: TensorDict, iteration: int) -> TensorDict:
        """Look at a complete rollout, and take out what is wrong.

        Args:
            obs: The observations after its last step.
            iteration: The iteration.

        Returns:
            The observations to go on from, all finite.
        """
        storage = self._algorithm.storage
        self._iteration = iteration
        if self._any_recovering or not self._watch.is_finite(storage, obs):
            with torch.inference_mode():
                obs = self._take_out(storage, obs)
        self._agree()
        return obs

    def learn(self, obs: TensorDict) -> dict[str, float] | None:
        """Compute returns and update, with what is left of the rollout.

        Args:
            obs: What ``inspect`` returned.

        Returns:
            The losses, or None if the iteration was dropped.
        """
        if self._dropped:
            self._last_good.restore()
            self._count()
            return None
        algorithm = self._algorithm
        memories = [model.get_hidden_state() for model in algorithm.models()]
        losses: dict[str, float] | None = None
        try:
            with nullcontext() if self._kept is None else algorithm.restricted_to(self._kept):
                losses = super().learn(obs if self._kept is None else obs[self._kept])
        except DivergedUpdate as error:
            self._dropped = self._failed = True
            self._last_trouble = f"iteration {self._iteration}: {error}"
            self._tell(f"iteration {self._iteration} was dropped: {error}")
        self._agree()
        if self._dropped:
            losses = None
            self._last_good.restore()
            for model, memory in zip(algorithm.models(), memories, strict=True):
                model.reset(hidden_state=memory)
        self._count()
        return losses

    def metrics(self) -> dict[str, float]:
        """Return counts of this iteration under their tags; nothing as long as nothing has ever happened."""
        return {f"Quarantine/{name}": number for name, number in self._counts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what the next iteration depends on."""
        return {"recovering": self._recovering.cpu(), "failures": self._failures, "events": self._events}

    def load_state_dict(self, state: dict[str, Any], same_episodes: bool) -> None:
        """Continue from ``state_dict``; ``same_episodes`` as for ``PPO.load_training_state``."""
        for key in ("failures", "events"):
            check_value(int, state.get(key), f"quarantine.{key}")
        self._failures, self._events = state["failures"], state["events"]
        if state["recovering"].dtype != torch.bool:
            raise UserError(f"quarantine.recovering: expected flags, found {state['recovering'].dtype}")
        if same_episodes and state["recovering"].shape == self._recovering.shape:
            self._recovering = state["recovering"].to(self._device)
            self._any_recovering = bool(self._recovering.any())

    # The slow path

    def _take_out(self, storage: RolloutStorage, obs: TensorDict) -> TensorDict:
        """Find the faults, decide what is left of the rollout, and put the environments right."""
        recovering = self._recovering
        faults = self._watch.faults(storage, obs, recovering)
        if not faults and not self._any_recovering:
            return obs  # only a sum was too large
        faults = [self._with_term(fault) for fault in faults]
        faulty = torch.zeros_like(recovering)
        faulty[[fault.env for fault in faults]] = True
        self._logger.leave_out(faulty, recovering)
        self._algorithm.forget(faulty)
        self._kept = (~(faulty | recovering)).nonzero().squeeze(-1)
        num_out = storage.num_envs - len(self._kept)
        self._counts = {
            "environments": float(len(faults)),
            "steps": float(num_out * storage.num_transitions_per_env),
            "dropped": 0.0,
        }
        self._dropped = not self._is_enough(len(self._kept), storage)
        if not faults:
            return self._reset(faulty, obs)[0]
        dump = self._dump(faults, storage, obs)
        obs, is_healed = self._reset(faulty, obs)
        # Those whose very first step did not end their broken episode are as broken as before.
        is_healed &= not any(bool(recovering[fault.env]) and fault.steps <= 1 for fault in faults)
        self._decide(faults, storage.num_envs, is_healed, dump)
        return obs

    def _decide(self, faults: list[Fault], num_envs: int, is_healed: bool, dump: Path | None) -> None:
        """Choose between learning from the rest and dropping the iteration, and tell the user."""
        what = f"iteration {self._iteration}: NaN or infinity in {_described(faults)}"
        share = len(faults) / num_envs
        self._dropped |= share > self._settings.max_share
        self._failed = self._dropped or not is_healed
        outcome = "left out of the batch and reset"
        if self._dropped:
            outcome = f"the iteration was dropped, for that is {share:.0%} of the environments"
        if not is_healed:
            outcome += "; a reset did not help"
        self._last_trouble = f"{what}; {outcome}"
        self._tell(self._last_trouble + (f" (look with: sim-rl replay {dump})" if dump is not None else ""))

    def _is_enough(self, num_envs: int, storage: RolloutStorage) -> bool:
        """Return whether so many environments make up the mini-batches that the algorithm wants."""
        samples = num_envs * storage.num_transitions_per_env
        is_recurrent = any(model.is_recurrent for model in self._algorithm.models())
        return samples >= 2 and (num_envs if is_recurrent else samples) >= getattr(
            self._algorithm, "num_mini_batches", 1
        )

    def _reset(self, faulty: torch.Tensor, obs: TensorDict) -> tuple[TensorDict, bool]:
        """Begin new episodes where ``faulty`` ``(n,)``.

        Where the simulator cannot reset single environments, their age is set to the limit, so that their next
        step ends the episode. They stay out of that rollout, too, and so do those that a reset did not heal.

        Returns:
            Observations ``[n]`` that are finite everywhere, and whether no reset was in vain.
        """
        self._recovering = torch.zeros_like(faulty)
        self._any_recovering = is_healed = False
        if not bool(faulty.any()):
            return obs, True
        env_ids = faulty.nonzero().squeeze(-1).to(self._env.device)
        reset_envs = getattr(self._env, "reset_envs", None)
        if reset_envs is not None and reset_envs(env_ids):
            obs = _merged(faulty, self._env.get_observations().to(self._device), obs)
            broken = faulty & ~_finite_envs(obs)
            is_healed = not bool(broken.any())
        else:
            limits = torch.as_tensor(self._env.max_episode_length, device=self._env.device).expand(self._env.num_envs)
            ages = self._env.episode_length_buf.clone()
            ages[env_ids] = limits[env_ids].to(ages.dtype)
            self._env.episode_length_buf = ages
            broken, is_healed = faulty, True
        self._recovering = broken
        self._any_recovering = bool(broken.any())
        return _finite_where(broken, obs), is_healed

    def _with_term(self, fault: Fault) -> Fault:
        """Return the fault with the name of its term, if the simulator tells the terms of its groups."""
        if fault.group is None or fault.element is None:
            return fault
        end = 0
        for term in observation_terms(self._env).get(fault.group, ()):
            end += term.size
            if fault.element < end:
                return replace(fault, term=term.name)
        return fault

    def _dump(self, faults: list[Fault], storage: RolloutStorage, obs: TensorDict) -> Path | None:
        """Write what happened into the run folder, unless there are dumps enough; return the file."""
        if self._logger.log_dir is None:
            return None
        folder = Path(self._logger.log_dir) / FOLDER
        if len(list(folder.glob("*.pt"))) >= self._settings.max_dumps:
            return None
        name = f"iteration_{self._iteration}" + (f"_rank_{self._rank}" if self._rank else "")
        path = folder / f"{name}.pt"
        contents = describe_faults(
            faults, storage, obs, iteration=self._iteration, config=self._config, state=self._state,
            max_mb=self._settings.max_dump_mb,
        )  # fmt: skip
        try:
            write_dump(path, contents)
        except OSError as error:
            # The training is worth more than its diary.
            _log.warning("the dump %s cannot be written: %s", path, error.strerror or error)
            return None
        return path

    # Failures

    def _agree(self) -> None:
        """Drop the iteration if any process does, for the updates of all are one."""
        if self._is_distributed:
            was_dropped = self._dropped
            self._dropped, self._failed = distributed.any_rank_each(
                [self._dropped, self._failed], self._algorithm.device
            )
            if self._dropped and not was_dropped:
                self._last_trouble = f"iteration {self._iteration}: another process dropped the iteration"

    def _count(self) -> None:
        """Count failures in a row, at the end of an iteration."""
        if self._failed:
            self._failures += 1
        elif not self._dropped:
            self._failures = 0
        if self._failures > self._settings.max_failures:
            folder = self._logger.log_dir
            saved = "" if folder is None else f"; the last good state is {folder}/model_{self._iteration}.pt"
            self.failure = UserError(
                f"{self._failures} iterations in a row went wrong: {self._last_trouble}{saved} "
                "(nan_quarantine.max_failures, docs/reliability.md)"
            )
        if self._dropped:
            self._counts = {"environments": 0.0, "steps": 0.0, **self._counts, "dropped": 1.0}

    def _tell(self, message: str) -> None:
        """Write a warning, unless there have been many."""
        self._events += 1
        if self._events <= _ALWAYS_TOLD or self._events & (self._events - 1) == 0:
            _log.warning("%s", message)
            if self._events == _ALWAYS_TOLD:
                _log.warning("from here on only some of these lines are written; Quarantine/... counts all of them")


def _described(faults: Sequence[Fault]) -> str:
    """Return what was first, and in which environments, in words."""
    first = min(faults, key=lambda fault: (fault.steps, fault.env))
    envs = [str(fault.env) for fault in faults]
    shown = ", ".join(envs[:8]) + (f" and {len(envs) - 8} more" if len(envs) > 8 else "")
    return f"{first} of environment {first.env} after {first.steps} steps (in all: environments {shown})"


def _finite_envs(obs: TensorDict) -> torch.Tensor:
    """Return which rows of observations are finite in every group, bool ``(n,)``."""
    finite = [torch.isfinite(value).flatten(1).all(dim=1) for value in obs.values()]
    return torch.stack(finite).all(dim=0)


def _finite_where(rows: torch.Tensor, obs: TensorDict) -> TensorDict:
    """Return observations ``[n]`` with zeros where ``rows`` ``(n,)`` are not finite."""
    zeros = TensorDict({key: torch.zeros_like(value) for key, value in obs.items()}, batch_size=obs.batch_size)
    return _merged(rows & ~_finite_envs(obs), zeros, obs)


def _merged(rows: torch.Tensor, chosen: TensorDict, other: TensorDict) -> TensorDict:
    """Return observations ``[n]``: ``chosen`` in ``rows`` ``(n,)``, ``other`` elsewhere."""
    merged = {
        key: torch.where(rows.view(-1, *[1] * (value.dim() - 1)), chosen[key], value) for key, value in other.items()
    }
    return TensorDict(merged, batch_size=other.batch_size, device=other.device)
