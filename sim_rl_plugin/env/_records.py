"""Do resets, time-outs, counters and log make sense over many steps?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sim_rl_plugin.env._trees import same_tree
from sim_rl_plugin.env.problems import Findings


@dataclass(frozen=True)
class Record:
    """What one step returned, copied at once, with the counters around it; rows are environments."""

    rewards: torch.Tensor
    dones: torch.Tensor
    time_outs: torch.Tensor | None
    skipped: torch.Tensor
    """Rows that did nothing but reset themselves; none where the environment does not say so."""
    age_before: torch.Tensor
    age_after: torch.Tensor
    forced: torch.Tensor
    """Rows whose counter was set to one step before the limit."""
    final_equals_obs: torch.Tensor | None
    """Rows whose ``final_obs`` equals ``obs`` in every group, or None without ``final_obs``."""
    log: object
    """The very object, kept alive so that its identity means something."""
    log_values: dict[str, Any]


class RecordCheck:
    """The rules that take more than one step to judge.

    Args:
        records: Every step, in order.
        num_natural: How many of them were taken before ``episode_length_buf`` was assigned.
        limit: ``max_episode_length`` of each environment.
        findings: Where problems are reported.
    """

    def __init__(self, records: list[Record], num_natural: int, limit: torch.Tensor, findings: Findings) -> None:
        self._records = records
        self._natural = records[:num_natural]
        self._limit = limit
        self._report, self._found = findings.report, findings.found

    def counters(self) -> None:
        """Does ``episode_length_buf`` count steps and start again at 0?"""
        for record in self._records:
            if bool((record.dones & (record.age_after != 0)).any()):
                self._report(
                    "episode-length-not-reset",
                    "episode_length_buf",
                    "found a value other than 0 right after a step in which the environment ended; set it to 0 in "
                    "the reset that belongs to that step",
                )
            if bool((~record.dones & (record.age_after != record.age_before + 1)).any()):
                self._report(
                    "episode-length-not-counted",
                    "episode_length_buf",
                    "a step in which an environment did not end must add exactly 1 to it; it counts control steps, "
                    "not physics steps",
                )

    def limit(self) -> None:
        """Do episodes end when the counter reaches ``max_episode_length``?"""
        natural = self._natural
        if any(bool((~record.dones & (record.age_after >= self._limit)).any()) for record in natural):
            self._report(
                "limit-passed",
                "max_episode_length",
                "an environment was not done although episode_length_buf had reached max_episode_length; end it in "
                "the step in which the counter reaches the limit, or correct the limit",
            )
        elif any(bool((record.forced & ~record.dones).any()) for record in self._records):
            self._report(
                "episode-length-ignored",
                "episode_length_buf",
                "set to max_episode_length - 1, it must lead to a time-out in the next step, but the environment went "
                "on; let the time limit look at this very tensor (a simulator's own limit, such as Gymnasium's "
                "TimeLimit, has to be switched off)",
            )

    def time_outs(self) -> None:
        """Does ``time_outs`` mark the ends at the limit, and nothing else?"""
        at_limit = time_outs_at_limit = early_dones = early_time_outs = 0
        # Counters that the simulator does not look at say nothing about the limit once they were assigned.
        ignored = self._found("episode-length-ignored")
        for record in self._natural if ignored else self._records:
            time_outs = torch.zeros_like(record.dones) if record.time_outs is None else record.time_outs
            if bool((time_outs & ~record.dones).any()):
                self._report(
                    "time-out-without-done",
                    "time_outs",
                    "true for an environment that is not done; time_outs says why an episode ended, so it must be a "
                    "subset of dones (not a mere counter test after the reset, nor the flag of the step before)",
                )
            at_limit_row = record.dones & (record.age_before + 1 >= self._limit)
            # One step of grace: some simulators test the counter before they add to it.
            early_row = record.dones & ~record.skipped & (record.age_before + 1 < self._limit - 1)
            at_limit += int(at_limit_row.sum())
            time_outs_at_limit += int((at_limit_row & time_outs).sum())
            early_dones += int(early_row.sum())
            early_time_outs += int((early_row & time_outs).sum())
        if at_limit and not time_outs_at_limit:
            self._report(
                "time-outs-missing",
                "time_outs",
                f"{at_limit} episodes ended at max_episode_length and none was marked in extras['time_outs']; without "
                "it the learner takes the limit for a failure, and values near it for zero",
            )
        if early_time_outs >= 2 and early_time_outs == early_dones:
            self._report(
                "time-outs-are-dones",
                "time_outs",
                f"all {early_dones} episodes that ended before max_episode_length were marked as time-outs; "
                "terminations (a fall, a collision) must not be, or the learner bootstraps from a state that has "
                "no future: time_outs = truncated & ~terminated (right as it is only if the task itself truncates "
                "and never terminates)",
            )
        elif early_time_outs:
            self._report(
                "time-outs-early",
                "time_outs",
                f"{early_time_outs} of {early_dones} episodes that ended before max_episode_length were marked as "
                "time-outs; right for a truncation by the task itself, wrong for a termination",
                "warning",
            )

    def resets(self) -> None:
        """Is an environment that ended reset in the same step?"""
        if not any(bool(record.dones.any()) for record in self._records):
            self._report(
                "no-reset-seen",
                "dones",
                f"no environment ended in {len(self._records)} steps, so resets, time_outs and final_obs were not "
                "examined; use more steps or a shorter max_episode_length",
                "warning",
            )
            return
        if self._resets_late():
            return
        # Where the reset comes one step late, and is said to, both are the end of the old episode.
        says_so = any(bool(record.skipped.any()) for record in self._records)
        kept = [] if says_so else self._records
        compared = [r.final_equals_obs[r.dones] for r in kept if r.final_equals_obs is not None]
        rows = torch.cat(compared) if compared else torch.zeros(0, dtype=torch.bool)
        if len(rows) and bool(rows.all()):
            self._report(
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
            just_ended = record.dones & ~ended_before & ~following.forced & ~following.skipped
            no_reward = following.rewards == 0.0
            pairs += int(just_ended.sum())
            again += int((just_ended & following.dones).sum())
            zero += int((just_ended & no_reward).sum())
            elsewhere += int((~record.dones).sum())
            zero_elsewhere += int((~record.dones & no_reward).sum())
            ended_before = record.dones
        always_again = pairs >= 2 and again == pairs and bool((self._limit > 1).all())
        # Exactly zero after each end, and hardly ever otherwise: a step that the simulator did not take.
        fake = pairs >= 2 and zero == pairs and elsewhere > 0 and zero_elsewhere < 0.1 * elsewhere
        if always_again or fake:
            sign = "was done again in the next step" if always_again else "earned exactly 0 in the next step"
            self._report(
                "reset-late",
                "obs",
                f"every environment that ended {sign} ({pairs} times): the reset happens one step late, which puts a "
                "transition that never took place into every episode; reset in the same step (Gymnasium: "
                "AutoresetMode.SAME_STEP or DISABLED) and return the new episode's observation",
            )
            return True
        return False

    def final_obs(self) -> None:
        """Is ``final_obs`` there in every step that needs it, or in none?"""
        ended = [record for record in self._records if bool((record.dones & ~record.skipped).any())]
        given = sum(record.final_equals_obs is not None for record in ended)
        if 0 < given < len(ended):
            self._report(
                "final-obs-missing",
                "final_obs",
                f"given in {given} of {len(ended)} steps in which an environment ended; the learner needs it in all of "
                "them, or in none (it then bootstraps from the observation before)",
            )

    def log(self) -> None:
        """Does ``log`` belong to its step?"""
        keys = {key for record in self._records for key in record.log_values}
        stale = {key for key in keys if self._log_key_stale(key)}
        for record, following in zip(self._records, self._records[1:], strict=False):
            quiet = not bool(following.dones.any())
            if quiet and following.log and following.log is record.log:
                stale |= {key for key in following.log_values if _same_log(record, following, key)}
        if stale:
            self._report(
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


def _same_log(record: Record, following: Record, key: str) -> bool:
    return same_tree(record.log_values.get(key), following.log_values.get(key))
