"""The command line in this process, in an empty folder."""

import sys

import pytest
from support import save_tiny

from edge_grpo import cli


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("commands") / "tiny"))


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs ``edge-grpo WORDS`` and returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["edge-grpo", *words])
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        else:
            code = 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
