"""Models: from observation groups to actions or values."""

from sim_rl_plugin.models.mlp_model import MLPModel

__all__ = ["MLPModel"]
