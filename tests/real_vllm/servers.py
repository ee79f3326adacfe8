"""A vLLM server on the CPU, started through ``edge-grpo serve``."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_grpo.rollout.vllm.engine import VllmEngine

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
KEY = "a key"
Make = Callable[..., VllmEngine]


@dataclass
class Server:
    """A running server, and the words that started it."""

    words: tuple[str, ...]
    folder: Path
    model: str = "bundled"
    port: int = 0
    process: "subprocess.Popen[str] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on the same port as before, and wait until it is ready."""
        words = [sys.executable, "-m", "edge_grpo", "serve", self.model, "--python", str(PYTHON), *self.words]
        environment = {**os.environ, "EDGE_GRPO_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*words, "--port", str(self.port)], cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"rollout\.engine\.kind=vllm '?rollout\.engine\.urls=\[\S+:(\d+)\]", line):
                self.port = int(found[1])
                self.process.stdout.close()  # it says no more
                return
        raise AssertionError("the server did not start; its one line is above")

    def stop(self) -> None:
        """Ctrl-C."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            assert self.process.wait(20) == 130
        self.process = None

    def kill(self) -> None:
        """Kill vLLM, as a machine that runs out of memory does: ``serve`` reports it and ends."""
        assert self.process is not None
        listed = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        for pid in map(int, listed.stdout.split()):
            os.killpg(pid, signal.SIGKILL)
        assert self.process.wait(20) == 2
        self.process = None
