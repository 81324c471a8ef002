"""The interface of log writers."""

from __future__ import annotations

import pathlib
from abc import ABC, abstractmethod
from typing import Any


class LogWriter(ABC):
    """A destination of metrics, built as ``writer_class(log_dir=..., **arguments)``.

    Only ``add_scalar`` must be written; everything else does nothing by default.
    """

    has_time_axis: bool = False
    """Whether rewards are also sent as ``<tag>/time``, with seconds of training as the step."""

    @abstractmethod
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record one value.

        Args:
            tag: Name such as ``Train/mean_reward``.
            scalar_value: The value.
            global_step: Iteration, or seconds for a tag that ends in ``/time``.
        """

    def end_iteration(self) -> None:
        """Be told that all values of an iteration have been added."""

    def resume_at(self, iteration: int) -> None:
        """Continue the log of the run folder: drop what it holds from ``iteration`` on, which comes again.

        Called before the first value. A process that was killed may have left its last value half-written.
        """

    def flush(self) -> None:
        """Bring what was recorded to where a crash cannot lose it; a checkpoint is about to be written."""

    def store_config(self, env_cfg: dict | object, train_cfg: dict[str, Any]) -> None:
        """Record the settings; called once, at the start."""

    def save_model(self, model_path: str, it: int) -> None:
        """Record a checkpoint file."""

    def save_file(self, path: str) -> None:
        """Record any other file."""

    def save_video(self, video: pathlib.Path, it: int) -> None:
        """Record a video file."""

    def stop(self) -> None:
        """Write out what is pending and close."""
