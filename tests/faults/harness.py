"""A process that imports everything once, then runs ``edge-grpo`` in forked children with faults at given moments.

Started as a script it reads jobs, a JSON object per line, and answers each with an object: how the child ended. A job:

- ``words``: the command line after ``edge-grpo``. A "grading" hit adds the reward function of ``graded.py`` to a new
  run, a "shaping" hit the method of ``moments.py``.
- ``hits``: moments and what happens there: ``{"point": one of ``moments.POINTS``, "n": its n-th time, "signals": [9]}``
  (with ``gap_s`` seconds between them, sent by a thread); with SIGKILL, the file under way is left half-written.
  Without ``signals`` the operation fails with the ``error`` number given (28 = disk full), or for want of ``memory``,
  or yields ``nan``.
- ``after_s``: instead, SIGKILL from outside after so many seconds.
- ``file_size``: bytes that a file may have (RLIMIT_FSIZE).  ``clock``: seconds by which each look at the clock is off.
- ``ranks``: the command runs in so many processes, which ``launch`` starts; a hit then has the ``rank`` that counts the
  moment, and may have ``to``, whose process gets the signals: another rank's, or "launcher". ``environment``: variables
  for them.

The answer: ``code`` (exit code, or minus the signal's number), ``out`` (stdout and stderr), ``reached`` (the hits that
happened), ``counts`` (how often each moment was passed), ``memory_mb`` (at most), ``seconds`` (from the start, and from
the last hit to the end).
"""

import contextlib
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

DEADLINE_S = 120
GRADED = [
    f"reward.function={Path(__file__).parent / 'graded.py'}:reward",
    "reward.function_parts=[format, accuracy]",
]


def words_of(job: dict[str, Any]) -> list[str]:
    """The command line of a job, with the reward function or method that its hits need."""
    words: list[str] = job["words"]
    points = {hit["point"] for hit in job.get("hits", [])}
    if words[0] != "train":
        return words
    folder = folder_of(words)
    own_method = folder is not None and (folder / "config.yaml").exists() and "class:" in text_of(folder)
    if "shaping" in points or own_method:
        words = ["train-watched", *words[1:]]
    return [*words, *GRADED] if "grading" in points and "--resume" not in words else words


def text_of(folder: Path) -> str:
    """The settings of a run."""
    return (folder / "config.yaml").read_text()


def folder_of(words: list[str]) -> Path | None:
    """The run folder that a command line names."""
    if "--resume" in words:
        return Path(words[words.index("--resume") + 1])
    return next((Path(word.removeprefix("run.dir=")) for word in words if word.startswith("run.dir=")), None)


def model_of(words: list[str], folder: Path | None) -> Path | None:
    """The model folder that a command line, or the run that it resumes, names."""
    import yaml

    named = next((word.removeprefix("model.path=") for word in words if word.startswith("model.path=")), None)
    if named is None and folder is not None and (folder / "config.yaml").exists():
        named = (yaml.safe_load(text_of(folder)) or {}).get("model", {}).get("path")
    return Path(named) if named else None


def add_watched_command() -> None:
    """``edge-grpo train-watched``: ``train`` with a method handed in."""
    import typer
    from moments import Watched
    from pydantic import TypeAdapter

    from edge_grpo.cli.main import app
    from edge_grpo.config.tree import load_config, split_words, to_tree
    from edge_grpo.runs.folder import RunFolder
    from edge_grpo.trackers.console import PlainDisplay
    from edge_grpo.training import loop

    @app.command("train-watched")
    def train_watched(settings: Annotated[list[str] | None, typer.Argument()] = None, resume: str = "") -> None:
        config = load_config(*split_words(settings))
        tree = RunFolder.read_config(Path(resume))[0] if resume else to_tree(config)
        tree["method"].pop("class", None)
        method = TypeAdapter(Watched).validate_python(tree["method"])
        if resume:
            result = loop.resume(resume, method=method, display=PlainDisplay())
        else:
            result = loop.train(config, method=method, display=PlainDisplay())
        if result.signal:
            raise typer.Exit(128 + result.signal)


def _clock_jumps(seconds: float) -> None:
    began, looks = time.time(), iter(range(10**9))
    time.time = lambda: began - seconds * next(looks)


class Forked:
    """A process of a job of several ranks: forked ahead, it waits until the launcher starts it."""

    def __init__(self, job: dict[str, Any], log_name: str) -> None:
        self.returncode: int | None = None
        receiving, self._sending = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._sending)
            os.setsid()
            environment = json.loads(os.fdopen(receiving).readline())
            os.environ.clear()
            os.environ.update(environment)
            command(job, log_name)
        os.close(receiving)

    def start(self, environment: Mapping[str, str]) -> "Forked":
        os.write(self._sending, json.dumps(dict(environment)).encode() + b"\n")
        return self

    def poll(self) -> int | None:
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode


def child(job: dict[str, Any], log_name: str, out: int) -> None:
    """Run the command as a separate process would, or as the launcher of several."""
    os.setsid()
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(job.get("environment", {}))
    if "ranks" not in job:
        command(job, log_name)

    from edge_grpo.cli.launch import launch

    waiting = iter([Forked(job, log_name) for _ in range(job["ranks"])])

    def start(words: Sequence[str], environment: Mapping[str, str]) -> Forked:
        return next(waiting).start(environment)

    note(log_name, {"pid": os.getpid(), "who": "launcher"})
    sys.exit(launch(job["ranks"], job["words"], start=start))


def note(log_name: str, what: dict[str, Any]) -> None:
    """Add a line to the log, which several processes share."""
    with open(log_name, "a") as log:
        log.write(json.dumps(what) + "\n")


def command(job: dict[str, Any], log_name: str) -> None:
    """Run the command in this process, with the faults of the job, and exit."""
    from moments import Lines, Moments

    rank = int(os.environ.get("RANK", "0"))
    note(log_name, {"pid": os.getpid(), "who": rank})
    log = os.open(log_name, os.O_WRONLY | os.O_APPEND)  # a worker adds its notes too
    words = words_of(job)
    folder = folder_of(words)
    hits = [hit for hit in job.get("hits", []) if hit.get("rank", 0) == rank]
    os.environ["FAULT_GRADING"] = json.dumps({"pid": os.getpid(), "log": log_name, "hits": hits})
    stdout = Lines(os.fdopen(1, "wb", closefd=False), line_buffering=True)
    sys.stdout = stdout
    moments = Moments(hits, log, folder, model_of(words, folder), rank=rank)
    moments.observe(stdout)
    if job.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], resource.RLIM_INFINITY))
    if job.get("clock"):
        _clock_jumps(job["clock"])
    sys.argv = ["edge-grpo", *words]
    code: Any = 1
    try:
        from edge_grpo.cli import main as cli

        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    note(log_name, {"counts": moments.counts, "memory_mb": memory_mb, "rank": rank})
    from edge_grpo.base.world import leave

    leave(code)  # as a rank does
    sys.exit(code)  # with everything that a process does at its exit


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Fork a child for a job and report how it ended."""
    with tempfile.TemporaryFile() as out:
        descriptor, log = tempfile.mkstemp(prefix="edge-grpo-faults-")
        os.close(descriptor)
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            child(job, log, out.fileno())
        code, hung = _wait(pid, job.get("after_s"))
        if "ranks" in job and code == -signal.SIGKILL:  # the launcher alone was killed
            _until_gone(Path(log))
        ended = time.monotonic()
        notes = [json.loads(line) for line in Path(log).read_text().splitlines()]
        left = [note["pid"] for note in notes if "pid" in note and _lives(note["pid"])]
        for leader in {pid, *left}:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, signal.SIGKILL)  # what the child has left behind
        out.seek(0)
        answer = {"code": code, "hung": hung, "out": out.read().decode(), "left": left, **_noted(notes, began, ended)}
        os.unlink(log)
        return answer


def _until_gone(log: Path) -> None:
    """Wait until the processes of a killed launcher have ended, but not for ever."""
    deadline = time.monotonic() + DEADLINE_S / 4
    while time.monotonic() < deadline and any(
        _lives(note["pid"]) for note in map(json.loads, log.read_text().splitlines()) if "pid" in note
    ):
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _noted(notes: list[dict[str, Any]], began: float, ended: float) -> dict[str, Any]:
    """What the child and its worker noted."""
    reached = [note for note in notes if "reached" in note]
    counted: dict[str, Any] = next((note for note in notes if note.get("rank") == 0), {"counts": {}})
    counted["counts"]["grading"] = max((note["graded"] for note in notes if "graded" in note), default=0)
    return {
        "reached": [note["reached"] for note in reached],
        **counted,
        "rank_counts": {note["rank"]: note["counts"] for note in notes if "rank" in note},
        "seconds": [ended - began, ended - reached[-1]["at"] if reached else None],
    }


def _wait(pid: int, kill_after_s: float | None) -> tuple[int, bool]:
    end = time.monotonic() + (kill_after_s or DEADLINE_S)
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), False
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), not kill_after_s


def main() -> None:
    """Answer jobs until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    import torch

    torch.set_num_threads(1)
    import moments  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import tensorboard.compat.proto.event_pb2  # noqa: F401

    add_watched_command()
    gc.freeze()  # otherwise each child, on exit, walks over and copies everything imported
    for line in sys.stdin:
        answers.write(json.dumps(run(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
