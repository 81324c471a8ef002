"""A table of all metrics, one row per iteration."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from pathlib import Path
from typing import Any

from sim_rl_plugin.logging.log_writer import LogWriter
from sim_rl_plugin.whole_file import write_text_whole


class CsvLogWriter(LogWriter):
    """Write ``metrics.csv`` into the run folder: ``iteration``, then one column per tag.

    A tag that appears later (the first finished episode brings the mean reward) adds a column; the
    file is then written anew. A resumed run drops the rows after its checkpoint and continues.
    """

    def __init__(self, log_dir: str) -> None:
        """Continue the table in ``log_dir``, or start one."""
        self._path = Path(log_dir) / "metrics.csv"
        self._columns = ["iteration"]
        self._row: dict[str, Any] = {}
        if self._path.exists():
            with self._path.open(newline="") as file:
                self._columns = next(csv.reader(file), self._columns)

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record one value in the row of its iteration."""
        self._row["iteration"] = global_step
        self._row[tag] = scalar_value

    def end_iteration(self) -> None:
        """Append the row."""
        if not self._row:
            return
        new_columns = [tag for tag in self._row if tag not in self._columns]
        if new_columns or not self._path.exists():
            self._rewrite(self._columns + new_columns, keep_below=None)
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerow(self._row)
        size = self._path.stat().st_size
        try:
            with self._path.open("a", newline="") as file:
                file.write(text.getvalue())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self._path, size)  # part of a row would be read as one
            raise
        self._row = {}

    def resume_at(self, iteration: int) -> None:
        """Drop the rows that a resumed run will write again."""
        if self._path.exists():
            self._rewrite(self._columns, keep_below=iteration)

    def stop(self) -> None:
        """Append a row that is still pending."""
        self.end_iteration()

    def _rewrite(self, columns: list[str], keep_below: int | None) -> None:
        rows: list[dict[str, str]] = []
        if self._path.exists():
            with self._path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        if keep_below is not None:
            rows = [row for row in rows if int(row["iteration"]) < keep_below]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text_whole(self._path, text.getvalue())
        self._columns = columns
