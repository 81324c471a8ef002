"""What a policy sees and does in one simulator, in numbers that can be compared with another one's.

Legend of shapes: ``n`` environments, ``d`` quantities, ``t`` control steps of an episode.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from sim_rl_plugin.env.terms import Term, action_terms, observation_terms
from sim_rl_plugin.evaluation import EvaluationResult, Policy, evaluate
from sim_rl_plugin.video import known_step_time_s

PROFILE_STEPS = 1000
"""Control steps of an episode that are compared one by one."""


@dataclass(frozen=True)
class Behaviour:
    """A policy's behaviour in one simulator.

    Attributes:
        place: Where, such as ``HalfCheetah on mujoco``.
        episodes: Returns and lengths.
        reward_terms: Name to mean per control step; empty if the simulator reports none.
        control_step_s: Seconds of a control step; None if the simulator does not tell.
        names: The ``d`` quantities: observation elements, then actions, then ``reward``.
        num_actions: How many of them are actions.
        mean: ``(d,)``, over all steps of the first episodes.
        std: ``(d,)``.
        smallest: ``(d,)``.
        largest: ``(d,)``.
        profile_mean: ``(t, d)``: over environments, at each step of their first episode.
        profile_var: ``(t, d)``.
        profile_count: ``(t,)``: environments whose first episode lasts that long.
    """

    place: str
    episodes: EvaluationResult
    reward_terms: dict[str, float]
    control_step_s: float | None
    names: tuple[str, ...]
    num_actions: int
    mean: torch.Tensor
    std: torch.Tensor
    smallest: torch.Tensor
    largest: torch.Tensor
    profile_mean: torch.Tensor
    profile_var: torch.Tensor
    profile_count: torch.Tensor


def behaviour_of(policy: Policy, env: Any, num_episodes: int, place: str, groups: Collection[str]) -> Behaviour:
    """Evaluate a policy, and note what happens meanwhile.

    Args:
        policy: Observations to actions.
        env: Just opened, in the policy's layout.
        num_episodes: How many episodes; the first one of each environment is looked at in detail.
        place: Where this is, for the report.
        groups: Observation groups that the policy reads; images among them are left out.

    Raises:
        UserError: An episode does not end.
    """
    recorder = _Recorder(env, groups)
    episodes = evaluate(policy, recorder, num_episodes)  # type: ignore[arg-type]
    count = recorder.count.clamp(min=1).unsqueeze(1)
    profile_mean = recorder.sums / count
    profile_var = (recorder.squares / count - profile_mean.square()).clamp(min=0.0)
    steps = recorder.count.sum()
    mean = recorder.sums.sum(dim=0) / steps
    return Behaviour(
        place,
        episodes,
        {name: total / number for name, (total, number) in recorder.reward_terms.items()},
        known_step_time_s(env),
        recorder.names,
        int(env.num_actions),
        mean,
        (recorder.squares.sum(dim=0) / steps - mean.square()).clamp(min=0.0).sqrt(),
        recorder.smallest,
        recorder.largest,
        profile_mean,
        profile_var,
        recorder.count,
    )


class _Recorder:
    """An environment that adds up what passes through; all else is the inner one's."""

    def __init__(self, env: Any, groups: Collection[str]) -> None:
        self._env = env
        self._obs = env.get_observations()
        self._groups = [name for name in groups if self._obs[name].dim() == 2]
        self.names = (*_observation_names(env, self._obs, self._groups), *_action_names(env), "reward")
        longest = env.max_episode_length
        steps = min(int(torch.as_tensor(longest).max()) + 1, PROFILE_STEPS)
        size = len(self.names)
        self.sums = torch.zeros(steps, size, dtype=torch.float64)
        self.squares = torch.zeros(steps, size, dtype=torch.float64)
        self.count = torch.zeros(steps, dtype=torch.float64)
        self.smallest = torch.full((size,), torch.inf, dtype=torch.float64)
        self.largest = torch.full((size,), -torch.inf, dtype=torch.float64)
        self.reward_terms: dict[str, tuple[float, int]] = {}
        self._is_first = torch.ones(env.num_envs, dtype=torch.bool)
        self._step = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, actions: torch.Tensor) -> Any:
        """Step, and count what the environments did whose first episode is not over."""
        seen = [self._obs[name] for name in self._groups]
        self._obs, rewards, dones, extras = result = self._env.step(actions)
        log = extras.get("log") or extras.get("episode") or {}
        for tag, value in log.items():
            if "rew" in tag:
                total, number = self.reward_terms.get(plain_name(tag), (0.0, 0))
                self.reward_terms[plain_name(tag)] = (total + float(torch.as_tensor(value).float().mean()), number + 1)
        if self._step < len(self.count) and bool(self._is_first.any()):
            rows = torch.cat([*seen, actions, rewards.unsqueeze(1)], dim=1).to("cpu", torch.float64)[self._is_first]
            self.sums[self._step] += rows.sum(dim=0)
            self.squares[self._step] += rows.square().sum(dim=0)
            self.count[self._step] += len(rows)
            self.smallest = torch.minimum(self.smallest, rows.min(dim=0).values)
            self.largest = torch.maximum(self.largest, rows.max(dim=0).values)
        self._is_first &= ~(dones.cpu() > 0)
        self._step += 1
        return result


def plain_name(tag: str) -> str:
    """Return the name of a reward term without where and how simulators log it: ``Step/reward_ctrl`` is ``ctrl``."""
    name = tag.rpartition("/")[2]
    for prefix in ("reward_", "rew_"):
        name = name.removeprefix(prefix)
    return name


def _observation_names(env: Any, obs: Any, groups: Collection[str]) -> list[str]:
    terms = observation_terms(env)
    names: list[str] = []
    for group in groups:
        size = obs[group].shape[1]
        described = _names(terms.get(group, ()))
        names += described if len(described) == size else [f"{group}[{index}]" for index in range(size)]
    return names


def _action_names(env: Any) -> list[str]:
    described = _names(action_terms(env))
    if len(described) != env.num_actions:
        described = [str(index) for index in range(env.num_actions)]
    return [f"action {name}" for name in described]


def _names(terms: Collection[Term]) -> list[str]:
    """Return a name for each number of some terms."""
    names: list[str] = []
    for term in terms:
        per_step = term.size // term.history
        elements = term.elements or tuple(map(str, range(per_step)))
        for age in range(term.history - 1, -1, -1):
            back = f" {age} ago" if term.history > 1 else ""
            names += [f"{term.name}.{element}{back}" if per_step > 1 else term.name + back for element in elements]
    return names
