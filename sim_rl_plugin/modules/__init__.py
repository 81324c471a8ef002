"""Building blocks of models."""

from sim_rl_plugin.modules.cnn import CNN
from sim_rl_plugin.modules.distribution import (
    BetaDistribution,
    Distribution,
    GaussianDistribution,
    HeteroscedasticGaussianDistribution,
)
from sim_rl_plugin.modules.mlp import MLP
from sim_rl_plugin.modules.normalization import EmpiricalDiscountedVariationNormalization, EmpiricalNormalization
from sim_rl_plugin.modules.rnn import RNN, HiddenState

__all__ = [
    "CNN",
    "MLP",
    "RNN",
    "BetaDistribution",
    "Distribution",
    "EmpiricalDiscountedVariationNormalization",
    "EmpiricalNormalization",
    "GaussianDistribution",
    "HeteroscedasticGaussianDistribution",
    "HiddenState",
]
