"""Building blocks of models."""

from sim_rl_plugin.modules.distribution import Distribution, GaussianDistribution
from sim_rl_plugin.modules.mlp import MLP
from sim_rl_plugin.modules.normalization import EmpiricalNormalization

__all__ = ["MLP", "Distribution", "EmpiricalNormalization", "GaussianDistribution"]
