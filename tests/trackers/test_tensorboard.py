"""TensorBoard reads the event file whatever the clock does, wherever a crash cut it off, and after a rewind."""

import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edge_grpo.config.sections import RunSettings
from edge_grpo.trackers.base import sampled
from edge_grpo.trackers.open import open_trackers
from edge_grpo.trackers.tensorboard import TensorBoard


def read(folder: Path, name: str = "loss") -> list[tuple[int, float]]:
    found = EventAccumulator(str(folder))
    found.Reload()
    return [(point.step, point.value) for point in found.Scalars(name)]


def log(tracker: TensorBoard, *steps: int) -> None:
    for step in steps:
        tracker.log(step, {"loss": step / 2, "count": 3, "nothing": None})


def test_tensorboard_reads_rows_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path / "events")
    log(tracker, 0, 1, 2)
    assert read(tmp_path / "events") == [(0, 0.0), (1, 0.5), (2, 1.0)]  # before it is closed
    tracker.close()
    assert read(tmp_path / "events", "count") == [(0, 3.0), (1, 3.0), (2, 3.0)]


def test_a_file_cut_off_inside_a_record_is_readable_up_to_there(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path)
    log(tracker, 1, 2, 3)
    tracker.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert read(tmp_path) == [(1, 0.5), (2, 1.0)]
    resumed = TensorBoard(tmp_path)
    resumed.rewind(2)
    log(resumed, 3)
    resumed.close()
    assert read(tmp_path) == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_a_row_is_shown_at_the_time_it_was_written(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path)
    tracker.log(1, {"time/at": 1234.5, "loss": 0.5})
    tracker.close()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [point.wall_time for point in found.Scalars("loss")] == [1234.5]
    assert found.Tags()["scalars"] == ["loss"]


@pytest.mark.parametrize(("step", "left"), [(2, [(1, 0.5), (2, 1.0)]), (0, []), (None, [])])
def test_a_rewind_forgets_later_steps_and_logging_continues_in_the_same_file(
    tmp_path: Path, step: int | None, left: list[tuple[int, float]]
) -> None:
    before = TensorBoard(tmp_path)
    log(before, 1, 2, 3)
    before.close()
    tracker = TensorBoard(tmp_path)
    tracker.rewind(step)
    log(tracker, 7)
    tracker.close()
    assert read(tmp_path) == [*left, (7, 3.5)]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_clock_that_runs_backwards_leaves_a_readable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1e9, 1e9, 5e8, 3.0, -7.0, -9.0])
    monkeypatch.setattr(time, "time", lambda: next(times))
    tracker = TensorBoard(tmp_path)
    log(tracker, 1, 2, 3)
    tracker.close()
    monkeypatch.undo()
    assert read(tmp_path) == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_a_run_that_wants_none_has_none(tmp_path: Path) -> None:
    (wanted,) = open_trackers(RunSettings(), tmp_path)
    assert isinstance(wanted, TensorBoard)
    assert list(open_trackers(RunSettings(trackers=()), tmp_path)) == []


def test_rewinding_nothing_makes_nothing(tmp_path: Path) -> None:
    TensorBoard(tmp_path / "events").rewind(None)
    assert not (tmp_path / "events").exists()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        TensorBoard(tmp_path / "file" / "events").log(1, {"loss": 1.0})


def test_rollouts_are_text_in_which_nothing_is_markup(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path)
    nasty = "```\n<script>x</script>\n# heading"
    tracker.log_rollouts(3, sampled([{"prompt": "1+1?", "completion": nasty, "reward": 2.0}], 1))
    tracker.rewind(3)
    tracker.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (event,) = events.Tensors("rollouts")
    text = event.tensor_proto.string_val[0].decode()
    assert event.step == 3
    assert events.SummaryMetadata("rollouts").plugin_data.plugin_name == "text"
    assert "    ```\n    <script>x</script>\n    # heading" in text
    own = {"prompt:", "completion:", ""}
    assert [line for line in text.splitlines() if line not in own and not line.startswith("    ")] == []
