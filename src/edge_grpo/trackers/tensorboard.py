"""TensorBoard events, written immediately and in this thread, so that a full disk raises where it happens."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from edge_grpo.trackers.base import as_code

__all__ = ["TensorBoard"]


class TensorBoard:
    """A tracker that keeps the scalars of a run in one event file, created on the first row.

    Every method raises OSError if the folder cannot be written.

    Args:
        folder: where the file goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        """Append the metrics of a step, at the time ``time/at`` if it is given; None is left out."""
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415 - slow imports, needed here only
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415

        scalars = {name: value for name, value in row.items() if value is not None}
        at = scalars.pop("time/at", None)
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(Event(wall_time=time.time() if at is None else at, step=step, summary=Summary(value=values)))

    def log_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rollouts as one text, which TensorBoard renders as Markdown: prompts and completions are code."""
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # noqa: PLC0415
        from tensorboard.compat.proto.tensor_pb2 import TensorProto  # noqa: PLC0415
        from tensorboard.compat.proto.types_pb2 import DT_STRING  # noqa: PLC0415

        text = TensorProto(dtype=DT_STRING, string_val=["\n\n---\n\n".join(map(_page, rows)).encode()])
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        value = Summary.Value(tag="rollouts", metadata=metadata, tensor=text)
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))

    def rewind(self, step: int | None) -> None:
        """Drop the events after ``step``, and a last record cut off by a crash; atomic."""
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # noqa: PLC0415
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

        self.close()
        for file in self._files():
            if step is None:
                file.unlink()
                continue
            draft = self.folder / ".draft"
            with draft.open("wb") as opened:
                records = RecordWriter(opened)
                for record in RawEventFileLoader(str(file)).Load():
                    if Event.FromString(record).step <= step:
                        records.write(record)
                records.flush()
            draft.replace(file)

    def close(self) -> None:
        """Close the file; everything is written already."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("events.out.tfevents.*"))

    def _opened(self) -> IO[bytes]:
        """The event file, opened for appending; a new one starts with the format version."""
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415

        if files := self._files():
            return files[-1].open("ab")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / f"events.out.tfevents.{time.time():010.0f}").open("wb")
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        return self._file

    def _write(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

        if self._file is None:
            self._file = self._opened()
        try:
            RecordWriter(self._file).write(event.SerializeToString())
            self._file.flush()
        except OSError:
            with suppress(OSError):  # what is left in its buffer cannot be written either
                self._file.close()
            self._file = None
            raise


def _page(row: Mapping[str, Any]) -> str:
    """One rollout as Markdown."""
    figures = (f"{name} {value}" for name, value in row.items() if name not in ("prompt", "completion"))
    texts = (f"{name}:\n\n{as_code(str(row.get(name)))}" for name in ("prompt", "completion"))
    return "\n\n".join([as_code("  ".join(figures)), *texts])
