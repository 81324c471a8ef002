"""A log writer that keeps one number."""

from pathlib import Path

from sim_rl_plugin.logging import LogWriter


class BestLogWriter(LogWriter):
    """Write the best mean reward so far, and its iteration, to ``best.txt``."""

    def __init__(self, log_dir: str) -> None:
        """Start in the run folder."""
        self._path = Path(log_dir) / "best.txt"
        self._best = float("-inf")

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Look at the reward, and at nothing else."""
        if tag == "Train/mean_reward" and scalar_value > self._best:
            self._best = scalar_value
            self._path.write_text(f"{scalar_value:.3f} in iteration {global_step}\n")
