"""The contract between a simulator and the learner, and the examination of it."""

from sim_rl_plugin.env.check import check_env, require_env
from sim_rl_plugin.env.commands import Command
from sim_rl_plugin.env.problems import Problem
from sim_rl_plugin.env.recognition import as_vec_env
from sim_rl_plugin.env.terms import Term
from sim_rl_plugin.env.vec_env import VecEnv

__all__ = ["Command", "Problem", "Term", "VecEnv", "as_vec_env", "check_env", "require_env"]
