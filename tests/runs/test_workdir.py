"""Folders of work that goes on where it was: whose they are, and lines that stay."""

import errno
import json
import multiprocessing
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


def test_a_folder_has_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "a", held, done))
    other.start()
    assert held.wait(60)
    with pytest.raises(ConfigError, match="another process is at work there; wait for it"), opened(tmp_path / "a"):
        pass
    done.set()
    other.join()
    with opened(tmp_path / "a"):
        pass


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file cannot be written"), opened(tmp_path / "file"):
        pass


def test_a_new_folder_is_named_and_the_same_one_is_found_again(tmp_path):
    (tmp_path / ".identity.json").write_text("half of one, left by a kill")
    check_identity(tmp_path, IDENTITY, what="study", answers=3)
    assert json.loads((tmp_path / "identity.json").read_text()) == {"answers": 3, "identity": IDENTITY}
    check_identity(tmp_path, IDENTITY, what="study", answers=4)
    assert json.loads((tmp_path / "identity.json").read_text())["answers"] == 3


def test_another_one_is_refused_with_what_differs(tmp_path):
    check_identity(tmp_path, IDENTITY, what="study")
    with pytest.raises(ConfigError, match=r"holds another study \(eval.top_p was 1.0, is 0.5\); name another folder"):
        check_identity(tmp_path, IDENTITY | {"eval": {"top_p": 0.5}}, what="study")


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="holds other files and no study"):
        check_identity(tmp_path, IDENTITY, what="study")


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"identity": 3}'])
def test_a_damaged_identity_is_one_line(tmp_path, content):
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(ConfigError, match=r"identity\.json is not what a study writes there"):
        check_identity(tmp_path, IDENTITY, what="study")


def test_lines_are_added_at_the_end(tmp_path):
    append(tmp_path / "rows.jsonl", [Row(1, "ü\n")])
    append(tmp_path / "rows.jsonl", [Row(2, ""), Row(3, "x")])
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"number": 1, "text": "ü\n"},
        {"number": 2, "text": ""},
        {"number": 3, "text": "x"},
    ]


def test_a_full_disk_is_one_line_with_the_way_on(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edge_grpo.runs.workdir.os.fsync", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*; make room, and the same command goes on"):
        append(tmp_path / "rows.jsonl", [Row(1, "")])
