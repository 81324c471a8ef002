"""What ``adapters.py`` measures, a module per simulator; each runs in that simulator's environment.

A module offers

- ``TASKS``: task to number of environments;
- ``PEER``: the name of the contender that ours are compared with;
- ``PACKAGES``: whose versions are written with the results;
- ``open_contenders(task, num_envs, frozen)``: a context manager that yields the contenders by name. ``frozen``
  asks for a simulator that repeats itself instead of simulating.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.env.finite import FiniteWatch

Result = tuple[Any, Any, Any, dict[str, Any]]


def nothing(result: Any) -> None:
    """Hand over the result of a bare simulator: nobody learns from it."""


@dataclass(frozen=True)
class Contender:
    """One way to step a simulator.

    Attributes:
        step: Takes one step with the same actions each time, and returns what a runner would get.
        let_end: Makes so many environments reach their time limit in the next step, and the others not.
        hand_over: What the runner does with the result until the learner has it.
    """

    step: Callable[[], Any]
    let_end: Callable[[int], None]
    hand_over: Callable[[Any], None] = nothing


class RslRlHandOver:
    """What rsl_rl 5.5.1's runner does between its wrapper and its learner: NaN looked for, and three moves."""

    def __call__(self, result: Result) -> None:
        obs, rewards, dones, _ = result
        for value in (*obs.values(), rewards, dones):
            if torch.isnan(value).any():
                raise ValueError("NaN")
        obs.to("cpu"), rewards.to("cpu"), dones.to("cpu")


class OurHandOver:
    """What our runner does there: sums watched for NaN and infinity, looked at once in 24 steps, and moves."""

    def __init__(self) -> None:
        self._watch = FiniteWatch()
        self._steps = 0

    def __call__(self, result: Result) -> None:
        obs, rewards, dones, extras = result
        obs = obs if obs.device == torch.device("cpu") else obs.to("cpu")
        self._watch.add(obs, rewards.to("cpu"), dones.to("cpu"))
        if "final_obs" in extras:
            self._watch.add_observations(extras["final_obs"], "final observation group")
        self._steps += 1
        if self._steps % 24 == 0:
            self._watch.check()


def as_batch(groups: dict[str, torch.Tensor], num_envs: int) -> TensorDict:
    """Return observation groups as rsl_rl's learner takes them."""
    return TensorDict(groups, batch_size=[num_envs])
