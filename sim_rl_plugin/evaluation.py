"""How good a policy is: returns of whole episodes, without favouring short ones."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError

Policy = Callable[[TensorDict], torch.Tensor]

EVALUATION_SEED_OFFSET = 1_000_003
"""Added to a training's seed for its evaluation, whose episodes shall be others."""


@dataclass(frozen=True)
class EvaluationResult:
    """Returns and lengths of evaluated episodes, in the order of environments.

    Attributes:
        returns: Undiscounted sum of rewards of each episode.
        lengths: Control steps of each episode.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean return."""
        return statistics.fmean(self.returns)

    @property
    def std(self) -> float:
        """Standard deviation of the returns over these episodes (divided by their number)."""
        return statistics.pstdev(self.returns)

    @property
    def mean_length(self) -> float:
        """Mean episode length, control steps."""
        return statistics.fmean(self.lengths)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, for JSON."""
        return {
            "episodes": len(self.returns),
            "mean": self.mean,
            "std": self.std,
            "min": min(self.returns),
            "max": max(self.returns),
            "mean_episode_length": self.mean_length,
            "returns": list(self.returns),
            "episode_lengths": list(self.lengths),
        }


def evaluate(policy: Policy, env: VecEnv, num_episodes: int) -> EvaluationResult:
    """Run whole episodes and return how they went.

    Which episodes count is settled beforehand: each environment contributes its first
    ``num_episodes / num_envs``. Taking the first episodes to end instead would favour short ones.

    Args:
        policy: Deterministic policy, observations to actions ``(num_envs, num_actions)``. If it is
            recurrent, its ``reset(dones)`` is called after every step.
        env: An environment that was just opened.
        num_episodes: Number of episodes.

    Raises:
        UserError: ``num_episodes`` is not positive, or an episode does not end.
    """
    if num_episodes < 1:
        raise UserError(f"expected one episode at least, found {num_episodes}")
    share, rest = divmod(num_episodes, env.num_envs)
    quotas = torch.tensor([share + (index < rest) for index in range(env.num_envs)])
    episodes: list[list[tuple[float, int]]] = [[] for _ in range(env.num_envs)]
    returns = torch.zeros(env.num_envs, dtype=torch.float64)
    lengths = torch.zeros(env.num_envs, dtype=torch.int64)
    limit = _step_limit(env, int(quotas.max()))
    obs = env.get_observations()
    with own_memory(policy):
        for _ in range(limit):
            obs, rewards, dones = step_policy(policy, env, obs)
            returns += rewards.to("cpu", torch.float64)
            lengths += 1
            for index in dones.cpu().nonzero().flatten().tolist():
                if len(episodes[index]) < quotas[index]:
                    episodes[index].append((returns[index].item(), int(lengths[index])))
                returns[index] = 0.0
                lengths[index] = 0
            if sum(map(len, episodes)) == num_episodes:
                break
        else:
            raise UserError(f"the evaluation was given up: episodes do not end within {limit} steps")
    done = [episode for of_env in episodes for episode in of_env]
    return EvaluationResult(tuple(item[0] for item in done), tuple(item[1] for item in done))


@contextmanager
def own_memory(policy: Any) -> Iterator[None]:
    """Let a recurrent policy begin with an empty memory, and give it back the one that it had of other environments."""
    # A policy of somebody else's may have no more than `reset(dones)`.
    if not getattr(policy, "is_recurrent", False) or not hasattr(policy, "get_hidden_state"):
        yield
        return
    memory = policy.get_hidden_state()
    policy.reset()
    try:
        yield
    finally:
        policy.reset(hidden_state=memory)


def step_policy(policy: Policy, env: VecEnv, obs: TensorDict) -> tuple[TensorDict, torch.Tensor, torch.Tensor]:
    """Take one step with a policy, without gradients.

    Returns:
        ``(obs, rewards, dones)`` as from ``env.step``.
    """
    with torch.inference_mode():
        obs, rewards, dones, _ = env.step(policy(obs).to(env.device))
        if getattr(policy, "is_recurrent", False):
            policy.reset(dones)  # type: ignore[attr-defined]
    return obs, rewards, dones


def _step_limit(env: VecEnv, episodes: int) -> int:
    longest = env.max_episode_length
    steps = int(longest.max()) if isinstance(longest, torch.Tensor) else int(longest)
    # Simulators differ by a step or two in what they count.
    return (steps + 2) * episodes
