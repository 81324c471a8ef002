"""Extensions of PPO."""

from sim_rl_plugin.extensions.rnd import RandomNetworkDistillation, resolve_rnd_config
from sim_rl_plugin.extensions.symmetry import Symmetry, resolve_symmetry_config

__all__ = ["RandomNetworkDistillation", "Symmetry", "resolve_rnd_config", "resolve_symmetry_config"]
