"""Dumps of rollouts in which something was not finite: written during a training, replayed afterwards.

A dump is a file of ``torch.save`` that loads without running code::

    {"format": 1, "version": ..., "iteration": ..., "num_envs": ..., "num_faults": ...,
     "config": the training's settings,
     "state": the environment's ``state_dict`` at the start of the rollout, or None,
     "actions": (steps, n, a), what was played from there to the last fault of the dump, or None,
     "faults": [{"env", "steps", "part", "group", "element", "term",
                 "observations": {group: (steps + 1, ...)}, "actions": (steps, a), "rewards": (steps,),
                 "last_finite": {"observation": {group: ...}, "action": ..., "reward": ...}}, ...]}

Rewards are those that the algorithm learned from: scaled, with intrinsic rewards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin import __version__
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.runners.faults import Fault
from sim_rl_plugin.storage import RolloutStorage
from sim_rl_plugin.whole_file import whole_file

FOLDER = "quarantine"
"""Folder of the dumps within a run folder."""

_FORMAT = 1
_MOST_FAULTS = 8


def describe_faults(
    faults: Sequence[Fault],
    storage: RolloutStorage,
    last_obs: TensorDict,
    *,
    iteration: int,
    config: dict[str, Any],
    state: dict[str, Any] | None,
    max_mb: float,
) -> dict[str, Any]:
    """Return the contents of a dump of the first few faults.

    Args:
        faults: What was found.
        storage: The rollout.
        last_obs: The observations after its last step.
        iteration: The iteration.
        config: The training's settings in plain data.
        state: The environment's state at the start of the rollout, if there is one.
        max_mb: Largest size; first the state and the actions are left out, then the environments' own records.
    """
    chosen = sorted(faults, key=lambda fault: (fault.steps, fault.env))[:_MOST_FAULTS]
    steps = max(fault.steps for fault in chosen)
    contents = {
        "format": _FORMAT,
        "version": __version__,
        "iteration": iteration,
        "num_envs": storage.num_envs,
        "num_faults": len(faults),
        "config": config,
        "faults": [{**asdict(fault), **_record(fault, storage, last_obs)} for fault in chosen],
        "state": state,
        "actions": None if state is None else storage.actions[:steps].cpu().clone(),
    }
    if _size_mb(contents) > max_mb:
        contents.update(state=None, actions=None)
    if _size_mb(contents) > max_mb:
        contents["faults"] = [asdict(fault) for fault in chosen]
    return contents


def write_dump(path: Path, contents: dict[str, Any]) -> None:
    """Write a dump, whole or not at all.

    Raises:
        OSError: The folder cannot be written to, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        torch.save(contents, file)


def read_dump(path: str | Path) -> dict[str, Any]:
    """Read a dump without running any code that it may hold.

    Raises:
        UserError: There is no such file, or it is no dump of this version.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no dump at {path}")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the file makes it stumble over
        raise UserError(f"{path} cannot be read as a dump of the NaN quarantine: {type(error).__name__}") from error
    if not isinstance(contents, dict) or not isinstance(contents.get("faults"), list):
        raise UserError(f"{path} is no dump of the NaN quarantine")
    if contents.get("format") != _FORMAT:
        raise UserError(f"{path}: expected a dump of format {_FORMAT}, found {contents.get('format')!r}")
    return contents


def _record(fault: Fault, storage: RolloutStorage, last_obs: TensorDict) -> dict[str, Any]:
    """Return what an environment went through up to its fault, on the host."""
    env, steps = fault.env, fault.steps
    observations = {}
    for group, buffer in storage._observation_buffers.items():
        rows = buffer[: steps + 1, env]
        if steps == storage.num_transitions_per_env:
            rows = torch.cat((rows, last_obs[group][env].unsqueeze(0)))
        observations[group] = rows.cpu().clone()
    actions = storage.actions[:steps, env].cpu().clone()
    rewards = storage.rewards[:steps, env, 0].cpu().clone()
    finite = torch.isfinite(rewards).nonzero()
    # What the simulator returned after a step comes of the observation before it; an action, of the one after it.
    before = steps if fault.of_policy else steps - 1
    return {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "last_finite": {
            "observation": None
            if before < 0
            else {group: rows[before].clone() for group, rows in observations.items()},
            "action": actions[-1].clone() if steps else None,
            "reward": float(rewards[finite[-1, 0]]) if len(finite) else None,
        },
    }


def _size_mb(value: Any) -> float:
    """Return the size of the tensors in plain data."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size() / 1e6
    if isinstance(value, dict):
        return math.fsum(_size_mb(item) for item in value.values())
    return math.fsum(_size_mb(item) for item in value) if isinstance(value, (list, tuple)) else 0.0
