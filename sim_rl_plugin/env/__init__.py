"""The contract between a simulator and the learner."""

from sim_rl_plugin.env.vec_env import VecEnv

__all__ = ["VecEnv"]
