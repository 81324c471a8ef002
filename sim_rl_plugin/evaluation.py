"""How good a policy is: returns of whole episodes, without favouring short ones."""

from __future__ import annotations

import copy
import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from sim_rl_plugin.checkpoint import kept_random_state
from sim_rl_plugin.env import VecEnv, as_vec_env
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


def evaluate(policy: Policy, env: VecEnv, num_episodes: int, *, in_progress: bool = False) -> EvaluationResult:
    """Run whole episodes and return how they went.

    Which episodes count is settled beforehand: each environment contributes its first
    ``num_episodes / num_envs``. Taking the first episodes to end instead would favour short ones.

    Args:
        policy: Deterministic policy, observations to actions ``(num_envs, num_actions)``. If it is
            recurrent, its ``reset(dones)`` is called after every step.
        env: An environment that was just opened.
        num_episodes: Number of episodes.
        in_progress: Whether the environments were stepped before; the episodes that they are in are then
            played to their end and do not count.

    Raises:
        UserError: ``num_episodes`` is not positive, or an episode does not end.
    """
    if num_episodes < 1:
        raise UserError(f"expected one episode at least, found {num_episodes}")
    share, rest = divmod(num_episodes, env.num_envs)
    quotas = torch.tensor([share + (index < rest) for index in range(env.num_envs)])
    begun = torch.full((env.num_envs,), not in_progress)
    episodes: list[list[tuple[float, int]]] = [[] for _ in range(env.num_envs)]
    returns = torch.zeros(env.num_envs, dtype=torch.float64)
    lengths = torch.zeros(env.num_envs, dtype=torch.int64)
    limit = _step_limit(env, int(quotas.max()) + in_progress)
    obs = env.get_observations()
    with own_memory(policy):
        for _ in range(limit):
            obs, rewards, dones, skipped = _step(policy, env, obs)
            returns += rewards.to("cpu", torch.float64)
            lengths += ~skipped
            dones = dones.cpu() * ~skipped
            for index in dones.nonzero().flatten().tolist():
                if begun[index] and len(episodes[index]) < quotas[index]:
                    episodes[index].append((returns[index].item(), int(lengths[index])))
                returns[index] = 0.0
                lengths[index] = 0
                begun[index] = True
            if sum(map(len, episodes)) == num_episodes:
                break
        else:
            raise UserError(f"the evaluation was given up: episodes do not end within {limit} steps")
    done = [episode for of_env in episodes for episode in of_env]
    return EvaluationResult(tuple(item[0] for item in done), tuple(item[1] for item in done))


class RepeatedEvaluation:
    """Evaluates a policy again and again while it is trained, and leaves no trace in the training.

    Where the environments can restore their state, every evaluation starts from the same one, and so does the
    chance in it: two policies meet the same episodes. Elsewhere it goes on with the next episodes.
    """

    def __init__(self, env: VecEnv, num_episodes: int, seed: int) -> None:
        """Take environments over.

        Args:
            env: Environments for evaluation alone, just opened.
            num_episodes: Episodes of each evaluation.
            seed: Seed of whatever draws from the process's generators during an evaluation.
        """
        self.env = as_vec_env(env)
        self.num_episodes = num_episodes
        self._seed = seed
        restores = hasattr(self.env, "state_dict") and getattr(self.env, "restores_exactly", True)
        self._start = copy.deepcopy(self.env.state_dict()) if restores else None
        self._in_progress = False

    def __call__(self, policy: Policy) -> EvaluationResult:
        """Return how a policy does; see ``evaluate``."""
        with own_random_numbers(self._seed):
            if self._start is not None:
                self.env.load_state_dict(copy.deepcopy(self._start))
            in_progress = self._in_progress and self._start is None
            self._in_progress = True
            return evaluate(policy, self.env, self.num_episodes, in_progress=in_progress)


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Seed the process's generators, and give them back the states that they had."""
    with kept_random_state():
        seed_everything(seed)
        yield


def seed_everything(seed: int) -> None:
    """Seed torch on every device, NumPy and Python."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


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
    return _step(policy, env, obs)[:3]


def _step(policy: Policy, env: VecEnv, obs: TensorDict) -> tuple[TensorDict, torch.Tensor, torch.Tensor, torch.Tensor]:
    """As ``step_policy``, and which environments did nothing in this step but reset themselves, on the CPU."""
    with torch.inference_mode():
        obs, rewards, dones, extras = env.step(policy(obs).to(env.device))
        if getattr(policy, "is_recurrent", False):
            policy.reset(dones)  # type: ignore[attr-defined]
    skipped = extras.get("skipped")
    return obs, rewards, dones, torch.zeros(env.num_envs, dtype=torch.bool) if skipped is None else skipped.cpu()


def _step_limit(env: VecEnv, episodes: int) -> int:
    longest = env.max_episode_length
    steps = int(longest.max()) if isinstance(longest, torch.Tensor) else int(longest)
    # Simulators differ by a step or two in what they count.
    return (steps + 2) * episodes
