"""A policy in its environment, live in a browser."""

from sim_rl_plugin.viewer.viewer import view

__all__ = ["view"]
