"""Storage of rollouts."""

from sim_rl_plugin.storage.rollout_storage import RolloutStorage

__all__ = ["RolloutStorage"]
