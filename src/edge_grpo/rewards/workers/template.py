"""The template: a process of our own that has imported the grader once and forks a warm worker on request.

The parent starts it with `subprocess` and keeps one end of a control socket. Each request passes two connections
(``socket.send_fds``): one for the worker's calls, one on which the template reports the worker's exit code. When the
parent dies, the control socket closes, and the template kills its workers and exits.
"""

import atexit
import contextlib
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import traceback
import weakref
from multiprocessing.connection import Connection, wait
from typing import NoReturn

from edge_grpo.rewards.workers.calls import answer

__all__ = ["SHARED", "Setup", "Template", "main"]

BOOT = """\
import sys
sys.path[:] = sys.argv[2:]
from edge_grpo.rewards.workers.template import main
main(int(sys.argv[1]))"""
FLAGS = {"-B": "dont_write_bytecode", "-E": "ignore_environment", "-I": "isolated", "-O": "optimize"}

Setup = tuple[int, list[str], list[str]]  # a worker's first message: its address space in MiB, sys.path and sys.argv


class Template:
    """The parent's handle on a template process, which starts with the first fork; safe to share between threads.

    The next fork replaces a template that was killed; the workers it left behind keep running.

    Source:
        Own design. Like ``multiprocessing.forkserver``, but it never imports the main program, so scripts need no
        ``if __name__ == "__main__"`` guard.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        _TEMPLATES.add(self)

    @property
    def pid(self) -> int | None:
        """The process id, if the template has been started."""
        return self._running[0].pid if self._running else None

    def fork(self, calls: Connection, reports: Connection) -> None:
        """Request a worker. Nothing is confirmed: if it cannot start, the far ends of both connections close.

        Args:
            calls: the worker's end of its connection. The worker reads a `Setup`, replies with its process id, and then
                answers one call after another.
            reports: where the template writes the worker's exit code.

        Raises:
            OSError: the template could not be started, or died at that moment.
        """
        with self._lock:
            if self._running is None or wait([self._running[1]], 0):  # it never writes: readable means closed
                self._end()
                self._running = _started()
            socket.send_fds(self._running[1], [b"\0"], [calls.fileno(), reports.fileno()])

    def close(self) -> None:
        """Kill the process. The next fork starts a new one."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._running is not None:
            process, control = self._running
            self._running = None
            control.close()
            process.kill()
            process.wait()

    def forget(self) -> None:
        """In a forked child: leave the parent's process alone, with a lock that no vanished thread holds."""
        self._lock = threading.Lock()
        if self._running is not None:
            process, control = self._running
            self._running = None
            control.close()  # only the parent keeps the template alive
            process.poll()  # not our child: marks it as finished


def _started() -> tuple[subprocess.Popen[bytes], socket.socket]:
    flags = [flag for flag, name in FLAGS.items() if getattr(sys.flags, name)]
    flags += [f"-W{option}" for option in sys.warnoptions] + [f"-Xutf8={sys.flags.utf8_mode}"]
    control, theirs = socket.socketpair()
    command = [sys.executable, *flags, "-c", BOOT, str(theirs.fileno()), *sys.path]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is the parent's business
    try:
        with theirs:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])  # noqa: S603
    except BaseException:
        control.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return process, control


_TEMPLATES: weakref.WeakSet[Template] = weakref.WeakSet()
SHARED = Template()  # one warm process serves every pool of the program


@atexit.register
def _close_all() -> None:
    for template in list(_TEMPLATES):
        template.close()


def _after_fork() -> None:
    for template in _TEMPLATES:
        template.forget()


os.register_at_fork(after_in_child=_after_fork)


def main(control_fd: int) -> None:
    """The template process: forks workers and reports their deaths until the parent closes the control socket."""
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGINT})  # nothing else that the parent blocks
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends big-integer code at once, where a Python handler would wait
    logging.disable(logging.WARNING)
    import edge_grpo.rewards.workers.warm  # noqa: F401, PLC0415  (never in the parent)

    workers: dict[int, Connection] = {}
    deaths, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # with a handler, Python writes each death to `wake`
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    with socket.socket(fileno=control_fd) as control, deaths, wake:
        while True:
            ready = wait([control, deaths])
            if deaths in ready:
                deaths.recv(4096)
                _report(workers)
            if control in ready:
                _, fds, _, _ = socket.recv_fds(control, 1, 2)
                if not fds:
                    break
                _fork(fds, workers, [control, deaths, wake])
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


def _fork(fds: list[int], workers: dict[int, Connection], ours: list[socket.socket]) -> None:
    """Fork a worker that holds its own connection alone: another copy would keep open what its owner has closed."""
    for fd in fds:
        os.set_inheritable(fd, False)
    calls, reports = (Connection(fd) for fd in fds)
    pid = os.fork()
    if pid == 0:
        _work(calls, [*ours, reports, *workers.values()])
    calls.close()
    workers[pid] = reports


def _report(workers: dict[int, Connection]) -> None:
    """Reap the workers that have died and tell the parent how each ended."""
    for pid in list(workers):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with workers.pop(pid) as reports, contextlib.suppress(OSError):  # the parent may no longer listen
                reports.send_bytes(str(os.waitstatus_to_exitcode(status)).encode())


def _work(calls: Connection, others: list[socket.socket | Connection]) -> NoReturn:
    """The life of a worker, until the parent closes its end of the connection."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in others:
            one.close()
        with contextlib.suppress(EOFError, OSError):
            _set_up(*calls.recv())
            calls.send_bytes(str(os.getpid()).encode())
            while True:
                calls.send_bytes(answer(calls.recv_bytes()))
        code = 0
    except BaseException:  # noqa: BLE001  (nothing may return into the template's loop)
        traceback.print_exc()
    finally:
        os._exit(code)


def _set_up(memory_mb: int, path: list[str], argv: list[str]) -> None:
    sys.path[:], sys.argv[:] = path, argv
    limit = memory_mb * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
