"""Resumable work folders: their lock, their identity, and appended records."""

import errno
import json
import multiprocessing
import os
from dataclasses import dataclass

import pytest

from edge_grpo.base.errors import ConfigError
from edge_grpo.runs.workdir import append, check_identity, opened

IDENTITY = {"weights": "abc", "eval": {"top_p": 1.0}}


@dataclass
class Row:
    number: int
    text: str


def hold(folder, held, done):
    with opened(folder):
        held.set()
        done.wait(60)


def test_only_one_process_can_hold_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "a", held, done))
    other.start()
    assert held.wait(60)
    with pytest.raises(ConfigError, match="another process is using it; wait for it to finish"), opened(tmp_path / "a"):
        pass
    done.set()
    other.join()
    with opened(tmp_path / "a"):
        pass


def test_a_file_cannot_be_a_work_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file cannot be written"), opened(tmp_path / "file"):
        pass


def test_a_new_folder_records_its_identity_and_is_recognised_later(tmp_path):
    (tmp_path / ".identity.json").write_text("half of one, left behind by a kill")
    check_identity(tmp_path, IDENTITY, what="study", answers=3)
    assert json.loads((tmp_path / "identity.json").read_text()) == {"answers": 3, "identity": IDENTITY}
    check_identity(tmp_path, IDENTITY, what="study", answers=4)
    assert json.loads((tmp_path / "identity.json").read_text())["answers"] == 3


def test_a_folder_with_another_identity_is_rejected_with_the_difference(tmp_path):
    check_identity(tmp_path, IDENTITY, what="study")
    with pytest.raises(ConfigError, match=r"holds another study \(eval.top_p was 1.0, is 0.5\); choose another folder"):
        check_identity(tmp_path, IDENTITY | {"eval": {"top_p": 0.5}}, what="study")


def test_a_folder_with_other_files_is_rejected(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="holds other files but no study"):
        check_identity(tmp_path, IDENTITY, what="study")


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"identity": 3}'])
def test_a_damaged_identity_is_reported_in_one_line(tmp_path, content):
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(ConfigError, match=r"identity\.json was not written by a study"):
        check_identity(tmp_path, IDENTITY, what="study")


def test_records_are_appended(tmp_path):
    append(tmp_path / "rows.jsonl", [Row(1, "ü\n")])
    append(tmp_path / "rows.jsonl", [Row(2, ""), Row(3, "x")])
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"number": 1, "text": "ü\n"},
        {"number": 2, "text": ""},
        {"number": 3, "text": "x"},
    ]


def test_a_full_disk_is_one_line_that_says_how_to_resume(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*; free some space, then rerun the same command"):
        append(tmp_path / "rows.jsonl", [Row(1, "")])
