"""Commands run at the same time, on one thread each; an interrupted call stops them all."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["run_side_by_side"]


def run_side_by_side(commands: Sequence[Sequence[str]], clock: Path) -> None:
    """Run commands to their end, then append the wall-clock seconds to a file, one line per call.

    However the call ends, no command outlives it, and its seconds count.

    Args:
        commands: a program and its arguments each; output is discarded.
        clock: the file of seconds.

    Raises:
        SystemExit: a command failed; names it and all exit codes.
    """
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment) for words in commands]
    try:
        codes = [each.wait() for each in running]
    finally:
        with clock.open("a", encoding="utf-8") as file:  # first, since a second signal may follow
            file.write(f"{time.monotonic() - began:.3f}\n")
        for each in running:
            if each.poll() is None:
                each.terminate()
        for each in running:
            each.wait()
    if any(codes):
        program, *words = commands[codes.index(next(filter(None, codes)))]
        sys.exit(f"{Path(program).name} {' '.join(words)}: exit codes {codes}")
