"""Learning algorithms."""

from sim_rl_plugin.algorithms.distillation import Distillation
from sim_rl_plugin.algorithms.ppo import PPO

__all__ = ["PPO", "Distillation"]
