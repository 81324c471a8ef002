"""Repeating the steps of a dump of the NaN quarantine, to see a fault happen again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sim_rl_plugin.env import as_vec_env
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.runners.fault_dump import read_dump


@dataclass(frozen=True)
class ReplayedFault:
    """What became of one fault of a dump.

    Attributes:
        env: The environment.
        steps: Control steps from the start of the rollout to the fault.
        part: What was wrong, as the dump says.
        by_policy: Whether the fault was an action or its probability, which a replay takes as it was.
        came_back: Whether the same part was NaN or infinite in the same step again.
        first_difference: Control steps after which an observation of this environment first differed from the
            recorded one in any bit; None if none did.
    """

    env: int
    steps: int
    part: str
    by_policy: bool
    came_back: bool
    first_difference: int | None


def replay_fault(env: Any, dump: str | Path | dict[str, Any]) -> list[ReplayedFault]:
    """Put the simulation where a rollout began, and repeat its actions up to the faults.

    The environment is left right behind the last fault, to be looked at.

    Args:
        env: An environment of the same task and number of environments.
        dump: A file of the quarantine's, or what ``read_dump`` returned.

    Raises:
        UserError: The dump holds no simulation state, or one of another task or number of environments.
    """
    contents = dump if isinstance(dump, dict) else read_dump(dump)
    env = as_vec_env(env)
    if contents["state"] is None:
        raise UserError(
            "the dump holds no simulation state to replay from: this simulator gives none at next to no cost, or "
            "it was too large; nan_quarantine.keep_state=true and nan_quarantine.max_dump_mb keep it"
        )
    if contents["num_envs"] != env.num_envs:
        raise UserError(f"num_envs: the dump is of {contents['num_envs']} environments, this one has {env.num_envs}")
    env.load_state_dict(contents["state"])
    replays = [_Replay(fault) for fault in contents["faults"]]
    obs, rewards, extras = env.get_observations(), None, {}
    for steps in range(len(contents["actions"]) + 1):
        if steps:
            obs, rewards, _, extras = env.step(contents["actions"][steps - 1].to(env.device))
        for replay in replays:
            replay.look(steps, obs, rewards, extras)
    return [replay.result() for replay in replays]


class _Replay:
    """One fault while its rollout is repeated."""

    def __init__(self, fault: dict[str, Any]) -> None:
        self._fault = fault
        self._first_difference: int | None = None
        self._came_back = False

    def look(self, steps: int, obs: Any, rewards: torch.Tensor | None, extras: dict[str, Any]) -> None:
        """Compare what the simulator returned after a number of steps with what is recorded."""
        fault = self._fault
        env, group = fault["env"], fault["group"]
        if steps > fault["steps"]:
            return
        recorded = fault.get("observations", {})
        same = all(_same_bits(obs[name][env].cpu(), rows[steps]) for name, rows in recorded.items())
        if not same and self._first_difference is None:
            self._first_difference = steps
        if steps < fault["steps"]:
            return
        if group is None:
            found = None if rewards is None or fault["of_policy"] else rewards[env]
        else:
            found = (obs if fault["element"] is not None else extras.get("final_obs", obs))[group][env]
        self._came_back = found is not None and not bool(torch.isfinite(found).all())

    def result(self) -> ReplayedFault:
        fault = self._fault
        return ReplayedFault(
            fault["env"],
            fault["steps"],
            fault["part"] if fault["term"] is None else f"{fault['part']} ({fault['term']})",
            fault["of_policy"],
            self._came_back,
            self._first_difference,
        )


def _same_bits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.equal(found.nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0)) and torch.equal(
        found.isnan(), expected.isnan()
    )
