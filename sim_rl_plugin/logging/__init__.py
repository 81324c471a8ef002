"""Where metrics go: the console and log writers."""

from sim_rl_plugin.logging.log_writer import LogWriter

__all__ = ["LogWriter"]
