"""Progress, and where files go."""

import os

import pytest

from edge_grpo.base.errors import ConfigError
from edge_grpo.cli.progress import Shown, target


def test_progress_is_a_line_now_and_then_where_no_terminal_is(capsys, monkeypatch):
    monkeypatch.setattr("edge_grpo.cli.progress._EVERY_S", -1.0)
    with Shown("rows") as shown:
        shown(2, 9)
        shown(9, 9)
    assert capsys.readouterr().err == "2 of 9 rows\n9 of 9 rows\n"


def test_a_file_to_be_written_is_checked_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text("")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    assert target("") is None
    assert target("new.jsonl", source="in.jsonl") == tmp_path / "new.jsonl"
    assert target("link.jsonl") == tmp_path / "real.jsonl"
    os.mkfifo(tmp_path / "pipe")
    for out, said in (("in.jsonl", "is the file that is read"), ("pipe", "no ordinary file"), ("no/x", "no folder")):
        with pytest.raises(ConfigError, match=said):
            target(out, source="in.jsonl")
