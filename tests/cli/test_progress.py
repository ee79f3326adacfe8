"""Progress on stderr, and the check of output files."""

import os
import time
from pathlib import Path

import pytest

from edge_grpo.base.errors import ConfigError
from edge_grpo.cli.progress import ProgressBar, target, waiting


def test_without_a_terminal_progress_is_printed_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("rows", every_s=-1.0) as progress:
        progress(2, 9)
        progress(9, 9)
    assert capsys.readouterr().err == "2 of 9 rows\n9 of 9 rows\n"


def test_long_work_is_one_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("loading [bold]x", after_s=0.01):
        time.sleep(0.3)
    with waiting("quick", after_s=60):
        pass
    assert capsys.readouterr() == ("", "loading [bold]x ...\n")


def test_the_output_file_is_checked_in_advance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text("")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    assert target("") is None
    assert target("new.jsonl", source="in.jsonl") == tmp_path / "new.jsonl"
    assert target("link.jsonl") == tmp_path / "real.jsonl"
    os.mkfifo(tmp_path / "pipe")
    for out, message in (("in.jsonl", "is the input file"), ("pipe", "not a regular file"), ("no/x", "no such folder")):
        with pytest.raises(ConfigError, match=message):
            target(out, source="in.jsonl")


def test_of_several_ranks_only_the_first_shows_progress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with ProgressBar("rows", every_s=-1.0) as progress:
            progress(2, 9)
    assert capsys.readouterr().err == "2 of 9 rows\n"
