"""How the processes of a training come into being: see the hook ``sim_rl_launchers`` and docs/distributed.md."""

from sim_rl_plugin.launchers.request import LaunchRequest, choose_launcher

__all__ = ["LaunchRequest", "choose_launcher"]
