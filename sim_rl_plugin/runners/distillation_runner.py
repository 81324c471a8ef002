"""The training loop of Distillation, under rsl_rl's name."""

from __future__ import annotations

from sim_rl_plugin.algorithms import Distillation
from sim_rl_plugin.runners.on_policy_runner import OnPolicyRunner


class DistillationRunner(OnPolicyRunner):
    """Trains a student. Any runner of ours refuses to do so without a teacher."""

    alg: Distillation  # type: ignore[assignment]
    """The algorithm."""
