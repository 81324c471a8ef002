"""Runners: the training loop."""

from sim_rl_plugin.runners.distillation_runner import DistillationRunner
from sim_rl_plugin.runners.on_policy_runner import OnPolicyRunner

__all__ = ["DistillationRunner", "OnPolicyRunner"]
