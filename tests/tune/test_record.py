"""Recorded trials: a cut-off line is dropped, a damaged one is reported, and nothing is lost."""

import json
from pathlib import Path

import pytest

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.tune.record import FILE, Trial, append, best_of, drop_partial_line, read

ONE = Trial(1, {"train.passes": 2, "method": "grpo"}, "finished", {"3": 0.5}, 0.25, 3.0, "", ((1, 0.5), (2, 0.75)))
TWO = Trial(2, {"train.passes": 3, "method": "grpo"}, "failed", reason="no such file: «x»")
THREE = Trial(3, {"train.passes": 4, "method": "grpo"}, "finished", {"3": 0.5}, 0.25)


def test_trials_are_read_back_by_number(tmp_path: Path) -> None:
    for trial in (TWO, THREE, ONE):
        append(tmp_path, trial)
    assert read(tmp_path) == [ONE, TWO, THREE]
    assert best_of(read(tmp_path)) == ONE  # ties go to the first
    assert best_of([TWO]) is None
    assert read(tmp_path / "none") == []


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_line_cut_off_by_a_kill_is_removed(tmp_path: Path, cut: int) -> None:
    append(tmp_path, ONE)
    before = (tmp_path / FILE).read_bytes()
    append(tmp_path, TWO)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-cut])
    cut_off = (tmp_path / FILE).read_bytes()
    assert read(tmp_path) == [ONE]
    assert (tmp_path / FILE).read_bytes() == cut_off  # reading does not write
    drop_partial_line(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    append(tmp_path, TWO)
    assert read(tmp_path) == [ONE, TWO]


def test_a_first_line_that_was_cut_off_leaves_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"number": 1, "sett')
    assert read(tmp_path) == []
    drop_partial_line(tmp_path)
    assert (tmp_path / FILE).read_bytes() == b""


@pytest.mark.parametrize(
    "change",
    [
        {"state": "done"},
        {"whole": None},
        {"parts": {}},
        {"parts": {"3": "x"}},
        {"number": "one"},
        {"curve": 3},
        {"state": "failed"},
        {"settings": []},
    ],
)
def test_a_damaged_line_is_reported(tmp_path: Path, change: dict[str, object]) -> None:
    append(tmp_path, TWO)
    append(tmp_path, ONE)
    first, second = (tmp_path / FILE).read_text().splitlines()
    (tmp_path / FILE).write_text(first + "\n" + json.dumps({**json.loads(second), **change}) + "\n")
    with pytest.raises(DataError, match=r"trials\.jsonl, line 2: not a trial .*; fix the line, or delete it"):
        read(tmp_path)


def test_garbage_and_duplicates_are_reported(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="line 1"):
        read(tmp_path)
    (tmp_path / FILE).write_bytes(b"\xff\ncut")
    with pytest.raises(DataError, match="not a text file"):
        drop_partial_line(tmp_path)
    (tmp_path / FILE).unlink()
    append(tmp_path, ONE)
    append(tmp_path, ONE)
    with pytest.raises(DataError, match="line 2: trial 1 is recorded twice"):
        read(tmp_path)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        append(tmp_path / "missing", ONE)
