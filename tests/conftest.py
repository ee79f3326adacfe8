"""Run-time shape checks for the whole package, one torch thread, and the option that points at golden vectors."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest

jaxtyping.install_import_hook("edge_grpo", "typecheck.check")  # before anything imports edge_grpo

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402
from rank_pool import Pool  # noqa: E402

if TYPE_CHECKING:
    from support import Command

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite started in the background inherits it as ignored
settings.register_profile("house", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("house")

VECTORS = Path(__file__).parent / "golden" / "vectors"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=VECTORS, metavar="DIR", help="folder of golden vectors to run")


@pytest.fixture(scope="session")
def pool() -> "Iterator[Callable[[int], Pool]]":
    """``pool(N)``: N ranks, started once; ``pool(1)``: an ordinary process."""
    pools = {size: Pool(size) for size in (1, 2, 3)}
    yield pools.__getitem__
    for each in pools.values():
        each.close()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> "Command":
    """``edge-grpo WORDS`` in this process and an empty folder; returns exit code, output and errors.

    Lines that say what is waited for, which end in dots, are left out: they depend on how fast the machine is.
    """
    from edge_grpo.cli import main as cli

    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["edge-grpo", *words])
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        else:
            code = 0
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a stopped command leaves that to the system
        captured = capsys.readouterr()
        told = (line for line in captured.err.splitlines(keepends=True) if not line.endswith(" ...\n"))
        return code, captured.out, "".join(told)

    return run
