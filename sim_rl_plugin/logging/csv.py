"""A table of all metrics, one row per iteration."""

from __future__ import annotations

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
    file is then written anew. A resumed run drops the rows after its checkpoint and continues. A table that
    was removed meanwhile is begun again.
    """

    def __init__(self, log_dir: str) -> None:
        """Continue the table in ``log_dir``, or start one."""
        self._path = Path(log_dir) / "metrics.csv"
        self._row: dict[str, Any] = {}
        self._columns, rows, is_whole = _read(self._path)
        if not is_whole:
            self._rewrite(self._columns, rows)

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
            self._rewrite(self._columns + new_columns, _read(self._path)[1])
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(self._row)
        self._row = {}

    def resume_at(self, iteration: int) -> None:
        """Drop the rows that a resumed run will write again."""
        if self._path.exists():
            rows = [row for row in _read(self._path)[1] if int(row["iteration"]) < iteration]
            self._rewrite(self._columns, rows)

    def flush(self) -> None:
        """Make the rows survive a power cut."""
        if self._path.exists():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def stop(self) -> None:
        """Append a row that is still pending."""
        self.end_iteration()

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text_whole(self._path, text.getvalue())
        self._columns = columns


def _read(path: Path) -> tuple[list[str], list[dict[str, str]], bool]:
    """Return columns and rows of a table, and whether that is all there is in the file.

    What a process left half-written when it was killed, or the system when its power was cut, is no row: the
    beginning of a number is a number, too, but another one.
    """
    if not path.exists():
        return ["iteration"], [], True
    text = path.read_bytes().decode("utf-8", "replace")
    whole = text.partition("\0")[0]
    whole = whole[: whole.rfind("\n") + 1]
    columns, *lines = list(csv.reader(io.StringIO(whole, newline=""))) or [["iteration"]]
    rows = [dict(zip(columns, line, strict=True)) for line in lines if _is_row(line, columns)]
    return columns, rows, len(whole) == len(text) and len(rows) == len(lines)


def _is_row(line: list[str], columns: list[str]) -> bool:
    return len(line) == len(columns) and line[columns.index("iteration")].isdigit()
