"""TensorBoard."""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.logging.log_writer import LogWriter

_FILE_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\..*")
_TIME_AXIS = "/time"


class TensorboardLogWriter(LogWriter):
    """Write TensorBoard event files into the run folder, one per process that trains.

    Written here and not by torch's ``SummaryWriter``, whose queue and names of files are its own: values must
    be on disk before the checkpoint is that comes after them, and readers take files by their names, in
    which a clock that was put back would turn the order round.
    """

    has_time_axis = True

    def __init__(self, log_dir: str, flush_interval_s: float = 10) -> None:
        """Prepare an event file; the first value opens it.

        Args:
            log_dir: Folder of the run.
            flush_interval_s: Longest time that values stay in memory, in seconds.

        Raises:
            ValueError: TensorBoard is not installed.
        """
        try:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
        except ImportError as error:
            raise UserError('logging to TensorBoard needs tensorboard: pip install "tensorboard"') from error
        self._event_class: Any = event_pb2.Event
        self._checksum: Any = masked_crc32c
        self._folder = Path(log_dir)
        self._flush_interval_s = flush_interval_s
        self._last_flush_s = time.monotonic()
        self._file: IO[bytes] | None = None

    def resume_at(self, iteration: int) -> None:
        """Cut off the points from ``iteration`` on, and what a killed process left half-written."""
        for path in _event_files(self._folder):
            with path.open("r+b") as file:
                file.truncate(self._end_before(file, iteration))

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record one value."""
        event = self._event_class(wall_time=time.time(), step=global_step)
        event.summary.value.add(tag=tag, simple_value=scalar_value)
        self._write(event)

    def end_iteration(self) -> None:
        """Write out what is in memory, if it has been there for long enough."""
        if self._file is not None and time.monotonic() - self._last_flush_s >= self._flush_interval_s:
            self._file.flush()
            self._last_flush_s = time.monotonic()

    def flush(self) -> None:
        """Make the values survive a power cut."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        if not os.path.exists(self._file.name):  # the folder was removed: what comes belongs into a new one
            self.stop()

    def stop(self) -> None:
        """Close the event file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, event: Any) -> None:
        if self._file is None:
            self._file = self._open()
            self._write(self._event_class(wall_time=time.time(), file_version="brain.Event:2"))
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        parts = (length, self._checksum(length), data, self._checksum(data))
        self._file.write(b"".join(part if isinstance(part, bytes) else struct.pack("<I", part) for part in parts))

    def _open(self) -> IO[bytes]:
        """Create a file whose name comes after those that are there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        last = max((_number(path) for path in _event_files(self._folder)), default=0)
        number = max(int(time.time()), last + 1)
        name = f"events.out.tfevents.{number:010d}.{socket.gethostname()}.{os.getpid()}.0"
        return (self._folder / name).open("xb")

    def _end_before(self, file: IO[bytes], iteration: int) -> int:
        """Return the offset of the first event of ``iteration`` or a later one, or of the first broken one."""
        end = 0
        for event in self._events(file):
            # The step of the time axis is in seconds; such a value follows that of its iteration.
            tags = [value.tag for value in event.summary.value]
            if event.step >= iteration and any(not tag.endswith(_TIME_AXIS) for tag in tags):
                break
            end = file.tell()
        return end

    def _events(self, file: IO[bytes]) -> Iterator[Any]:
        """Yield the events of a file up to its end, or to where it is damaged."""
        while len(header := file.read(12)) == 12:
            length, checksum = struct.unpack("<QI", header)
            if checksum != self._checksum(header[:8]):
                return
            data = file.read(length)
            if len(data) < length or len(file.read(4)) < 4:
                return
            try:
                yield self._event_class.FromString(data)
            except Exception:  # protobuf's own classes of errors, which differ between its implementations
                return


def _event_files(folder: Path) -> list[Path]:
    """Return the event files of a folder in the order in which they were written."""
    return sorted(
        (path for path in folder.glob("events.out.tfevents.*") if _FILE_NAME.fullmatch(path.name)), key=_number
    )


def _number(path: Path) -> int:
    match = _FILE_NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])
