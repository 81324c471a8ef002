"""The training loop of Distillation."""

from __future__ import annotations

from typing import Any

from sim_rl_plugin.algorithms import Distillation
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.models.exported_policy import is_exported_policy
from sim_rl_plugin.runners.on_policy_runner import OnPolicyRunner


class DistillationRunner(OnPolicyRunner):
    """Trains a student; the teacher must have been loaded before, or come with ``init_from``."""

    alg: Distillation  # type: ignore[assignment]
    """The algorithm."""

    def __init__(self, env: VecEnv, train_cfg: dict[str, Any], log_dir: str | None = None, device: str = "cpu") -> None:
        """Build the algorithm, see ``OnPolicyRunner``; where ``init_from`` is an exported policy, that is the teacher.

        Raises:
            ValueError: The training dict has a missing, unknown or ill-typed key.
        """
        source = train_cfg.get("init_from")
        if isinstance(source, str) and is_exported_policy(source):
            train_cfg = {**train_cfg, "teacher": {"class_name": "ExportedPolicy", "path": source}, "init_from": None}
        super().__init__(env, train_cfg, log_dir, device)

    def learn(self, num_learning_iterations: int, init_at_random_ep_len: bool = False) -> None:
        """Train for a number of iterations, see ``OnPolicyRunner.learn``.

        Raises:
            ValueError: There is no teacher.
        """
        if not self._has_loaded:
            self.initialize()
        if not self.alg.teacher_loaded:
            raise UserError(
                "the teacher has no parameters to imitate: set init_from to a run folder or checkpoint of the teacher, "
                "or to a policy exported as TorchScript or ONNX, or call runner.load"
            )
        super().learn(num_learning_iterations, init_at_random_ep_len)
