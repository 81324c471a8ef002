"""What a training shows on the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PLAIN_INTERVAL_S = 10.0


class TrainingConsole:
    """A progress bar on a terminal; a line every ten seconds where output goes to a file."""

    def __init__(self, total_iterations: int, completed_iterations: int = 0) -> None:
        """Show the state before the first iteration."""
        self._console = Console(stderr=True)
        self._total = total_iterations
        self._last_line_s = float("-inf")
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[metrics]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task(
                "training", total=total_iterations, completed=completed_iterations, metrics=""
            )
            self._progress.start()

    def show(self, completed_iterations: int, metrics: Mapping[str, float], remaining_s: float) -> None:
        """Show the metrics of an iteration.

        Args:
            completed_iterations: Iterations done, this one included.
            metrics: The metrics under their tags.
            remaining_s: Expected time left, in seconds.
        """
        text = f"reward {metrics['Train/mean_reward']:.1f}  " if "Train/mean_reward" in metrics else ""
        text += f"{metrics['Perf/total_fps']:,.0f} steps/s"
        if self._progress is not None:
            self._progress.update(self._task, completed=completed_iterations, metrics=text)
            return
        now_s = time.monotonic()
        if now_s - self._last_line_s >= _PLAIN_INTERVAL_S or completed_iterations == self._total:
            self._last_line_s = now_s
            self._console.print(
                f"iteration {completed_iterations}/{self._total}  {text}  {remaining_s:.0f} s left", highlight=False
            )

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()


def show_line(line: str) -> None:
    """Print a line where the progress is shown."""
    Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)
