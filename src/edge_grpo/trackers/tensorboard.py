"""TensorBoard events, written at once and in this thread, so that a full disk is an error where it happens."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["EventFile"]


class EventFile:
    """One TensorBoard file of scalars in a folder, which is made.

    Raises:
        OSError: the folder cannot be written, here or in any call.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415 - slow imports, needed here only
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

        self._event: Any = Event
        self._summary: Any = Summary
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time():010.0f}").open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row at its ``step``; None is left out."""
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if name != "step" and value is not None
        ]
        self._write(step=row["step"], summary=self._summary(value=values))

    def close(self) -> None:
        """Close the file; everything is written already."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        try:
            self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
            self._file.flush()
        except OSError:
            with suppress(OSError):  # what is left in its buffer cannot be written either
                self._file.close()
            raise
