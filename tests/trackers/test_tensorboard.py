"""Event files that TensorBoard reads, whatever the clock does and wherever they were cut off."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edge_grpo.trackers.tensorboard import EventFile


def read(folder, name):
    found = EventAccumulator(str(folder))
    found.Reload()
    return [(point.step, point.value) for point in found.Scalars(name)]


def test_tensorboard_reads_what_was_written_at_once(tmp_path):
    events = EventFile(tmp_path / "events")
    for step in range(3):
        events.write({"step": step, "loss": step / 2, "count": 3, "nothing": None})
    assert read(tmp_path / "events", "loss") == [(0, 0.0), (1, 0.5), (2, 1.0)]  # before it is closed
    events.close()
    assert read(tmp_path / "events", "count") == [(0, 3.0), (1, 3.0), (2, 3.0)]


def test_a_clock_that_goes_backwards_leaves_a_readable_file(tmp_path, monkeypatch):
    times = iter([1e9, 1e9, 5e8, 3.0, -7.0])
    monkeypatch.setattr("edge_grpo.trackers.tensorboard.time.time", lambda: next(times))
    events = EventFile(tmp_path)
    for step in range(1, 4):
        events.write({"step": step, "loss": 1.0})
    events.close()
    assert read(tmp_path, "loss") == [(1, 1.0), (2, 1.0), (3, 1.0)]


def test_a_file_cut_off_in_a_record_is_readable_up_to_there(tmp_path):
    events = EventFile(tmp_path)
    for step in range(1, 4):
        events.write({"step": step, "loss": 1.0})
    events.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert read(tmp_path, "loss") == [(1, 1.0), (2, 1.0)]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        EventFile(tmp_path / "file")
