"""What a runner does about NaN and infinity in an iteration: nothing, or stop; ``quarantine.py`` does more."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.env.finite import FiniteWatch
from sim_rl_plugin.errors import UserError


class Guard:
    """Lets every iteration pass (``check_for_nan: false``); the runner calls the methods in this order."""

    failure: UserError | None = None
    """Why the training must end, after a last checkpoint; None if it goes on."""

    def __init__(self, algorithm: Any) -> None:
        """Note the algorithm."""
        self._algorithm = algorithm

    def first(self, obs: TensorDict) -> TensorDict:
        """Return the observations ``[n]`` that a call of ``learn`` starts with."""
        return obs

    def begin(self) -> None:
        """Prepare for an iteration."""

    def add_step(
        self, step: int, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]
    ) -> TensorDict:
        """Look at what a step of the rollout returned; return the observations that the algorithm may see of it."""
        return obs

    def inspect(self, obs: TensorDict, iteration: int) -> TensorDict:
        """Look at a complete rollout, and take out what is wrong.

        Args:
            obs: The observations after its last step.
            iteration: The iteration.

        Returns:
            The observations to go on from.
        """
        return obs

    def learn(self, obs: TensorDict) -> dict[str, float] | None:
        """Compute returns and update, with what is left of the rollout.

        Args:
            obs: What ``inspect`` returned.

        Returns:
            The losses, or None if nothing was learnt from the iteration.
        """
        with torch.inference_mode():
            self._algorithm.compute_returns(obs)
        return self._algorithm.update()

    def metrics(self) -> dict[str, float]:
        """Return what to log of this iteration under its tags."""
        return {}

    def state_dict(self) -> dict[str, Any] | None:
        """Return what the next iteration depends on."""
        return None

    def load_state_dict(self, state: dict[str, Any], same_episodes: bool) -> None:
        """Continue from ``state_dict``; ``same_episodes`` as for ``PPO.load_training_state``."""


class StoppingGuard(Guard):
    """Ends the training before it learns from NaN or infinity.

    For algorithms of others, which cannot learn from some environments only.
    """

    def __init__(self, algorithm: Any) -> None:
        """Start to watch."""
        super().__init__(algorithm)
        self._watch = FiniteWatch()

    def add_step(
        self, step: int, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]
    ) -> TensorDict:
        """Add to the running sums."""
        self._watch.add(obs, rewards, dones)
        if "final_obs" in extras:
            self._watch.add_observations(extras["final_obs"], "final observation group")
        return obs

    def inspect(self, obs: TensorDict, iteration: int) -> TensorDict:
        """Raise if anything was not finite.

        Raises:
            ValueError: Names the parts.
        """
        self._watch.check()
        return obs
