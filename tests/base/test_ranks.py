"""Ranks: rank 0 speaks, and lines of the others carry their rank; what a job says about resuming it."""

import sys
from pathlib import Path

import pytest

from edge_grpo.base.job import Meeting, next_command
from edge_grpo.base.ranks import RENDEZVOUS, is_first_rank, own_rank, quiet_ranks


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")


def test_a_process_without_a_world_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")  # left over from something else
    assert own_rank() is None
    assert is_first_rank()


@pytest.mark.usefixtures("second")
def test_other_ranks_print_nothing_and_their_lines_on_stderr_carry_their_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "stderr").open("w") as stderr, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", stderr)
        write_as_a_rank()
    print("after")  # noqa: T201
    assert capsys.readouterr() == ("after\n", "")
    assert (tmp_path / "stderr").read_text() == "rank 1: one line\nrank 1: and another\n"


def write_as_a_rank() -> None:
    with quiet_ranks():
        print("step 1/4")  # noqa: T201
        sys.stderr.write("one ")
        sys.stderr.write("line\nand another\n")
        assert not sys.stderr.isatty()


def test_rank_0_prints_as_always(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with quiet_ranks():
        print("step 1/4")  # noqa: T201
        sys.stderr.write("slow\n")
    assert capsys.readouterr() == ("step 1/4\n", "slow\n")


def test_a_run_is_resumed_if_there_is_one_and_started_again_otherwise(tmp_path: Path) -> None:
    assert next_command(None, {}) == next_command(tmp_path, {}) == "nothing was saved yet; start it again"
    (tmp_path / "config.yaml").touch()
    assert next_command(tmp_path, {}) == f"resume with: edge-grpo train --resume {tmp_path}"


def test_a_launcher_learns_which_run_it_started(tmp_path: Path) -> None:
    place = Meeting.of({RENDEZVOUS: str(tmp_path / "rendezvous")})
    assert place is not None
    assert place.run is None
    place.name_run(Path("runs/a"))
    assert place.run == Path("runs/a")
    Meeting(tmp_path / "gone").name_run(Path("runs/a"))  # the launcher is gone: nothing to tell
    assert Meeting.of({}) is None
