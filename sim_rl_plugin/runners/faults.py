"""Finding NaN and infinity in a rollout: whether there is any, at next to no cost, and then where.

Legend of shapes: ``t`` steps of the rollout, ``n`` environments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.storage import RolloutStorage

# What can be wrong after an environment's step and before its next, in the order in which one thing leads to another.
_OBSERVATION, _FINAL_OBSERVATION, _REWARD, _ACTION, _LOG_PROB = range(5)
_KINDS = 5


@dataclass(frozen=True)
class Fault:
    """Where an environment's rollout first was not finite.

    Attributes:
        env: The environment.
        steps: Control steps from the start of the rollout to what was wrong: 3 for the observation, the final
            observation or the reward that the third step returned, and for the action that came next.
        part: What was wrong, in words: ``"observation group 'policy'"``.
        group: Name of the observation group, if it is one.
        element: Index of the first number in it that was wrong, flattened.
        term: Name of the term that this number belongs to, if the simulator tells.
        of_policy: Whether it is a model's doing, not the simulator's.
    """

    env: int
    steps: int
    part: str
    group: str | None = None
    element: int | None = None
    term: str | None = None
    of_policy: bool = False

    def __str__(self) -> str:
        return self.part if self.term is None else f"{self.part} ({self.term})"


@dataclass
class _Part:
    """One kind of value of a rollout."""

    name: str
    kind: int
    values: torch.Tensor
    """``(t, n, ...)``."""
    group: str | None = None


class RolloutWatch:
    """Looks at a rollout once it is complete, in the storage; only final observations are looked at step by step.

    A sum is not finite as soon as one of its terms is not, so one sum per buffer is enough to know that nothing
    is wrong, and one number is brought to the host.
    """

    def __init__(self) -> None:
        self._final_sums: list[tuple[int, str, torch.Tensor]] = []

    def begin(self) -> None:
        """Forget the last rollout."""
        self._final_sums.clear()

    def add(self, step: int, extras: dict[str, Any]) -> None:
        """Note the final observations of a step, of those that timed out: nobody reads the others."""
        if "final_obs" not in extras or "time_outs" not in extras:
            return
        time_outs_n = extras["time_outs"].bool()
        for group, values in extras["final_obs"].items():
            if values.dtype.is_floating_point:
                sums_n = values.flatten(1).sum(dim=1, dtype=torch.float32)
                self._final_sums.append((step, str(group), torch.where(time_outs_n, sums_n, 0.0)))

    def is_finite(self, storage: RolloutStorage, last_obs: TensorDict) -> bool:
        """Return whether everything that a rollout has gathered is finite; waits for the device.

        Sums may overflow, so False means that ``faults`` must decide.

        Args:
            storage: The rollout.
            last_obs: The observations after its last step.
        """
        tensors = [part.values for part in _parts(storage)]
        tensors += [values for values in last_obs.values() if values.dtype.is_floating_point]
        sums = [tensor.sum(dtype=torch.float32) for tensor in tensors]
        if self._final_sums:
            sums.append(torch.stack([sums_n for _, _, sums_n in self._final_sums]).sum().to(sums[0].device))
        return math.isfinite(torch.stack(sums).sum().item())

    def faults(self, storage: RolloutStorage, last_obs: TensorDict, recovering: torch.Tensor) -> list[Fault]:
        """Return the first fault of every environment that has one, by environment.

        Args:
            storage: The rollout.
            last_obs: The observations after its last step.
            recovering: Bool ``(n,)``: whose first step ended a broken episode, so that its reward and final
                observation say nothing.
        """
        parts = [*_parts(storage), *self._final_parts(storage)]
        never = (storage.num_transitions_per_env + 2) * _KINDS
        firsts = []
        for part in parts:
            bad_tn = ~_finite_rows(part.values, 2)
            if part.kind == _OBSERVATION:
                assert part.group is not None
                bad_tn = torch.cat((bad_tn, ~_finite_rows(last_obs[part.group], 1).unsqueeze(0)))
            elif part.kind in (_REWARD, _FINAL_OBSERVATION):
                bad_tn[0] &= ~recovering
            happened_after = 1 if part.kind in (_REWARD, _FINAL_OBSERVATION) else 0
            codes_t = (torch.arange(len(bad_tn), device=bad_tn.device) + happened_after) * _KINDS + part.kind
            firsts.append(torch.where(bad_tn, codes_t.unsqueeze(1), never).amin(dim=0))
        codes_n, indices_n = (found.tolist() for found in torch.stack(firsts).min(dim=0))
        return [
            self._describe(env, code // _KINDS, parts[index], storage, last_obs)
            for env, (code, index) in enumerate(zip(codes_n, indices_n, strict=True))
            if code < never
        ]

    def _describe(self, env: int, steps: int, part: _Part, storage: RolloutStorage, last_obs: TensorDict) -> Fault:
        if part.kind != _OBSERVATION:
            return Fault(env, steps, part.name, part.group, of_policy=part.kind in (_ACTION, _LOG_PROB))
        assert part.group is not None
        row = part.values[steps, env] if steps < storage.num_transitions_per_env else last_obs[part.group][env]
        element = int((~torch.isfinite(row.flatten())).nonzero()[0])
        return Fault(env, steps, part.name, part.group, element)

    def _final_parts(self, storage: RolloutStorage) -> Iterator[_Part]:
        """Yield the sums of final observations as if they were stored like the rest."""
        for group in dict.fromkeys(name for _, name, _ in self._final_sums):
            values_tn = torch.zeros_like(storage.rewards[..., 0])
            for step, name, sums_n in self._final_sums:
                if name == group:
                    values_tn[step] = sums_n.to(values_tn.device)
            yield _Part(f"final observation group {group!r}", _FINAL_OBSERVATION, values_tn, group)


def with_finite_rows(obs: TensorDict) -> TensorDict:
    """Return observations ``[n]`` in which rows that are not finite are copies of the first row that is.

    For algorithms that learn from observations step by step. Nothing is read back from the device. If no row
    is finite, nothing changes.
    """
    floats = [values for values in obs.values() if values.dtype.is_floating_point]
    if not floats:
        return obs
    sums_gn = torch.stack([values.flatten(1).sum(dim=1, dtype=torch.float32) for values in floats])
    finite_n = torch.isfinite(sums_gn.sum(dim=0))
    first = finite_n.to(torch.uint8).argmax().view(1)
    seen = {
        key: torch.where(finite_n.view(-1, *[1] * (values.dim() - 1)), values, values.index_select(0, first))
        for key, values in obs.items()
    }
    return TensorDict(seen, batch_size=obs.batch_size, device=obs.device)


def _parts(storage: RolloutStorage) -> list[_Part]:
    """Return what is stored of a rollout and can be NaN."""
    parts = [
        _Part(f"observation group {group!r}", _OBSERVATION, values, group)
        for group, values in storage._observation_buffers.items()
        if values.dtype.is_floating_point
    ]
    parts += [_Part("rewards", _REWARD, storage.rewards), _Part("the policy's actions", _ACTION, storage.actions)]
    if storage.training_type == "distillation":
        parts.append(_Part("the teacher's actions", _LOG_PROB, storage.privileged_actions))
    else:
        parts.append(_Part("the actions' log-probabilities", _LOG_PROB, storage.actions_log_prob))
    return parts


def _finite_rows(values: torch.Tensor, num_dims: int) -> torch.Tensor:
    """Return where everything behind the first ``num_dims`` dimensions is finite."""
    finite = torch.isfinite(values)
    return finite.flatten(num_dims).all(dim=-1) if finite.dim() > num_dims else finite
