"""The evaluations of a training: when they are due, how good they were, and which was the best."""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path
from typing import Any

from sim_rl_plugin.checkpoint_manifest import read_manifest
from sim_rl_plugin.config.schema import EvaluationSettings
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import EVALUATION_SEED_OFFSET, Policy, RepeatedEvaluation


class Evaluations:
    """Evaluates the policy of a training every so many iterations.

    Attributes:
        latest: The last evaluation in plain data, for checkpoints; None before the first.
    """

    def __init__(self, settings: EvaluationSettings, env: VecEnv, seed: int) -> None:
        """Take the environments for it.

        Args:
            settings: When, and how many episodes.
            env: Environments for evaluation alone, just opened.
            seed: The training's seed.
        """
        self.latest: dict[str, Any] | None = None
        self._settings = settings
        self._best_iteration: int | None = None
        self._best_return = -math.inf
        self._evaluate = RepeatedEvaluation(env, settings.episodes, seed + EVALUATION_SEED_OFFSET)

    def take_up(self, best_checkpoint: Path) -> None:
        """Continue a run folder's search for the best policy; a damaged file is told, and begins anew."""
        try:
            manifest = (read_manifest(best_checkpoint) or {}) if best_checkpoint.is_file() else {}
        except UserError as error:
            warnings.warn(f"the best policy so far is lost: {error}", stacklevel=2)
            return
        self._best_return = manifest.get("evaluation", {}).get("mean_return", -math.inf)

    def is_due(self, iteration: int) -> bool:
        """Return whether the policy is to be evaluated after this iteration, counted from 0."""
        return self._settings.every > 0 and (iteration + 1) % self._settings.every == 0

    def run(self, policy: Policy, iteration: int) -> dict[str, float]:
        """Evaluate the policy, and return the metrics of it; a training does not end because that fails."""
        start_s = time.perf_counter()
        try:
            result = self._evaluate(policy)
        except UserError as error:
            warnings.warn(f"iteration {iteration} was not evaluated: {error}", stacklevel=2)
            return {}
        self.latest = {
            "iteration": iteration,
            "episodes": len(result.returns),
            "mean_return": result.mean,
            "std_return": result.std,
            "mean_episode_length": result.mean_length,
        }
        if result.mean > self._best_return:
            self._best_return, self._best_iteration = result.mean, iteration
        return {
            "Eval/mean_return": result.mean,
            "Eval/std_return": result.std,
            "Eval/mean_episode_length": result.mean_length,
            "Perf/evaluation_time": time.perf_counter() - start_s,
        }

    def of(self, iteration: int) -> dict[str, Any] | None:
        """Return the evaluation of the policy after this iteration, or None if there was none."""
        return self.latest if self.latest is not None and self.latest["iteration"] == iteration else None

    def is_best_of(self, iteration: int) -> bool:
        """Return whether the policy after this iteration has the highest mean return so far."""
        return self._best_iteration == iteration

    def reached_return(self, iteration: int) -> float | None:
        """Return the mean return with which the training is complete after this iteration, or None."""
        found, target = self.of(iteration), self._settings.stop_at_return
        if found is None or target is None or found["mean_return"] < target:
            return None
        return found["mean_return"]
