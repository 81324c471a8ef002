"""TensorBoard."""

from __future__ import annotations

from functools import partial

from sim_rl_plugin.logging.log_writer import LogWriter


class TensorboardLogWriter(LogWriter):
    """Write TensorBoard event files into the run folder."""

    has_time_axis = True

    def __init__(self, log_dir: str, flush_interval_s: int = 10) -> None:
        """Open an event file.

        Args:
            log_dir: Folder of the run.
            flush_interval_s: Longest time that values stay in memory, in seconds.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._open = partial(SummaryWriter, log_dir=log_dir, flush_secs=flush_interval_s)
        self._writer = self._open()

    def resume_at(self, iteration: int) -> None:
        """Hide the points from ``iteration`` on."""
        self._writer.close()
        self._writer = self._open(purge_step=iteration)

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record one value."""
        self._writer.add_scalar(tag, scalar_value, global_step)

    def stop(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
