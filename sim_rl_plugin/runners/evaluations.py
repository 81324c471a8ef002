"""The evaluations of a training: when they are due, how good they were, and which was the best."""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path
from typing import Any

from sim_rl_plugin.checkpoint import BEST_FILE
from sim_rl_plugin.checkpoint_manifest import read_manifest
from sim_rl_plugin.config.schema import EvaluationSettings
from sim_rl_plugin.config.signature import check_value
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import EVALUATION_SEED_OFFSET, RepeatedEvaluation


class Evaluations:
    """Evaluates the policy of a training every so many iterations, which changes nothing for the training."""

    def __init__(self, settings: EvaluationSettings, seed: int) -> None:
        """Wait for the environments.

        Args:
            settings: When, and how many episodes.
            seed: The training's seed.
        """
        self._settings = settings
        self._seed = seed + EVALUATION_SEED_OFFSET
        self._evaluate: RepeatedEvaluation | None = None
        self._latest: dict[str, Any] | None = None
        self._best_return = -math.inf
        self._best_iteration: int | None = None
        # What a plateau is measured from: the last return that surpassed the one before it by enough.
        self._reference_return = -math.inf
        self.waited = 0
        """Evaluations in a row without improvement."""

    def take(self, env: VecEnv) -> None:
        """Take the environments, just opened."""
        self._evaluate = RepeatedEvaluation(env, self._settings.episodes, self._seed)

    def prepare(self, is_distributed: bool, resumed_folder: str | None) -> None:
        """Get ready for a training.

        Args:
            is_distributed: Whether it runs in several processes.
            resumed_folder: The run folder that it continues, whose best policy is to be surpassed.

        Raises:
            UserError: Nobody can evaluate, though the settings ask for it.
        """
        if not self._settings.every:
            return
        if is_distributed:
            raise UserError("evaluation.every: a training in several processes is not evaluated meanwhile: set it to 0")
        if self._evaluate is None:
            raise UserError("evaluation.every: there are no environments to evaluate in: call runner.evaluate_in(env)")
        if resumed_folder is not None:
            self._take_up(Path(resumed_folder) / BEST_FILE)

    def _take_up(self, best: Path) -> None:
        """Note the return that is to be surpassed; a file that does not tell it is replaced by the next evaluation."""
        if not best.is_file():
            return
        try:
            manifest = read_manifest(best)
            found = ((manifest or {}).get("evaluation") or {}).get("mean_return")
            if found is None:
                raise UserError(f"{best} does not tell its return")
        except UserError as error:
            warnings.warn(f"the best policy so far is lost: {error}", stacklevel=3)
        else:
            self._best_return = found

    def after(self, iteration: int, algorithm: Any) -> dict[str, float]:
        """Evaluate the policy, if that is due after this iteration, counted from 0, and return metrics.

        A training does not end because its evaluation fails.
        """
        if self._evaluate is None or not self._settings.every or (iteration + 1) % self._settings.every:
            return {}
        start_s = time.perf_counter()
        algorithm.eval_mode()
        try:
            result = self._evaluate(algorithm.get_policy())
        except UserError as error:
            warnings.warn(f"iteration {iteration} was not evaluated: {error}", stacklevel=2)
            return {}
        finally:
            algorithm.train_mode()
        self._latest = {
            "iteration": iteration,
            "episodes": len(result.returns),
            "mean_return": result.mean,
            "std_return": result.std,
            "mean_episode_length": result.mean_length,
        }
        if result.mean > self._reference_return + self._settings.min_improvement:
            self._reference_return, self.waited = result.mean, 0
        else:
            self.waited += 1
        if result.mean > self._best_return:
            self._best_return, self._best_iteration = result.mean, iteration
        return {
            "Eval/mean_return": result.mean,
            "Eval/std_return": result.std,
            "Eval/mean_episode_length": result.mean_length,
            "Perf/evaluation_time": time.perf_counter() - start_s,
        }

    def of(self, iteration: int) -> dict[str, Any] | None:
        """Return the evaluation of the policy after this iteration in plain data, or None if there was none."""
        return self._latest if self._latest is not None and self._latest["iteration"] == iteration else None

    def is_best(self, iteration: int) -> bool:
        """Return whether the policy after this iteration has the highest mean return so far."""
        return self._best_iteration == iteration

    def reached_return(self, iteration: int) -> float | None:
        """Return the mean return with which the training is complete after this iteration, or None."""
        found, target = self.of(iteration), self._settings.stop_at_return
        if found is None or target is None or found["mean_return"] < target:
            return None
        return found["mean_return"]

    def is_on_plateau(self, iteration: int) -> bool:
        """Return whether the evaluation after this iteration was the last that was waited for."""
        patience = self._settings.patience
        return patience is not None and self.of(iteration) is not None and self.waited >= patience

    def state_dict(self) -> dict[str, Any]:
        """Return what the wait for an improvement depends on, in plain data."""
        return {"reference_return": self._reference_return, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Wait on from where ``state_dict`` was taken; None, of an older checkpoint, begins anew.

        Raises:
            UserError: The state is of another kind.
        """
        if state is None:
            return
        for key, kind in (("reference_return", float), ("waited", int)):
            check_value(kind, state.get(key), f"evaluations.{key}")
        self._reference_return, self.waited = state["reference_return"], state["waited"]
