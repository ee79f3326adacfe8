"""A process that imports everything once, then runs the real command in forked children with faults at given moments.

Started as a script it reads jobs, a JSON object a line, and answers each with an object: how the child ended. A job:

- ``words``: the command line behind ``edge-grpo``.
- ``hits``: moments and what comes to pass there: ``{"point": a name of POINTS, "n": its n-th call, "signals": [9]}``
  (with ``gap_s`` seconds between them, sent by a thread);
  without ``signals`` the call fails with the ``error`` number given (28 = disk full).
- ``after_s``: instead, SIGKILL from outside after so many seconds.
- ``file_size``: bytes that a file may have (RLIMIT_FSIZE).  ``clock``: the clock jumps back by so many seconds a call.

The answer: ``code`` (exit code, or minus the signal's number), ``out`` (stdout and stderr), ``reached`` (the hits that
came to pass), ``counts`` (calls of every point), ``memory_mb`` (at most), ``seconds``
(from the start, and from the last hit to the end).
"""

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

DEADLINE_S = 120


def before(original, *args, **more):
    """The moment just before the call."""


def after(original, *args, **more):
    """The moment just after the call."""
    original(*args, **more)


def within(original, *args, **more):
    """Some moment within the call, or soon after it."""
    raise NotImplementedError  # the hit comes from a timer


def half_saved(original, tensors, path, *args, **more):
    """A file of tensors that is written to its half."""
    original(tensors, path, *args, **more)
    _halve(Path(path))


def half_table(original, table, path, *args, **more):
    """A parquet file that is written to its half."""
    original(table, path, *args, **more)
    _halve(Path(path))


def half_text(original, path, text):
    """A text file whose draft is written to its half."""
    path.with_name(f".{path.name}").write_text(text[: len(text) // 2])


def half_line(original, folder, row):
    """A line of metrics that is written to its half."""
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row)[:40])


def half_model(original, policy, folder):
    """A model whose weights are written to their half."""
    original(policy, folder)
    _halve(folder / "model.safetensors")


def one_file(original, path, *args, **more):
    """A folder that is being deleted and has lost one file."""
    for file in sorted(path.rglob("*"))[-1:]:
        if file.is_file():
            file.unlink()


def _halve(path):
    os.truncate(path, path.stat().st_size // 2)


POINTS = {
    "config": ("edge_grpo.runs.folder:write_whole", half_text),
    "loading": ("edge_grpo.training.loop:load_policy", within),
    "sampling": ("edge_grpo.rollout.hf:draw", before),
    "grading": ("edge_grpo.rewards.builtin:Rewards.grade", within),
    "scoring": ("edge_grpo.training.update:Updater.score", after),
    "shaping": ("edge_grpo.training.update:Updater.signal", before),
    "backward": ("torch:Tensor.backward", before),
    "optimizer": ("edge_grpo.training.update:AdamW.step", after),
    "updated": ("edge_grpo.training.update:Updater.step", after),
    "evaluation": ("edge_grpo.training.session:Session.evaluate", within),
    "rollouts": ("pyarrow.parquet:write_table", half_table),
    "metrics": ("edge_grpo.runs.folder:RunFolder.write_metrics", half_line),
    "events": ("edge_grpo.trackers.tensorboard:TensorBoard.log", before),
    "row written": ("edge_grpo.training.journal:Journal.log", after),
    "checkpoint": ("edge_grpo.training.checkpoint:save_file", half_saved),
    "checksums": ("edge_grpo.training.checkpoint:_sums", before),
    "whole draft": ("edge_grpo.training.checkpoint:flush_tree", after),
    "renamed": ("edge_grpo.training.checkpoint:flush", before),
    "old checkpoint": ("edge_grpo.training.checkpoint:remove_tree", before),
    "deletion": ("edge_grpo.runs.durable:shutil.rmtree", one_file),
    "final": ("edge_grpo.models.policy:Policy.save", half_model),
    "final draft": ("edge_grpo.training.journal:flush_tree", after),
    "final swap": ("edge_grpo.training.journal:remove_tree", after),
}


def _owner(path):
    module, _, names = path.partition(":")
    *parents, name = names.split(".")
    owner = importlib.import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


class Hits:
    """Counts the calls of every point and lets come to pass what a job wants."""

    def __init__(self, wanted, log):
        self.wanted, self.log = wanted, log
        self.counts = dict.fromkeys(POINTS, 0)
        for point, (path, moment) in POINTS.items():
            owner, name = _owner(path)
            setattr(owner, name, self.watched(point, getattr(owner, name), moment))

    def watched(self, point, original, moment):
        def call(*args, **more):
            self.counts[point] += 1
            for hit in self.wanted:
                if (hit["point"], hit["n"]) == (point, self.counts[point]):
                    if "error" in hit:
                        self.note(hit)
                        raise OSError(hit["error"], os.strerror(hit["error"]))
                    if moment is within or "gap_s" in hit:
                        threading.Timer(0.002, self.strike, [hit]).start()
                    elif signal.SIGKILL in hit["signals"]:
                        moment(original, *args, **more)
                        self.strike(hit)
                    elif moment is after:
                        value = original(*args, **more)
                        self.strike(hit)
                        return value
                    else:
                        self.strike(hit)
            return original(*args, **more)

        return call

    def note(self, hit):
        os.write(self.log, json.dumps({"reached": hit["point"], "at": time.monotonic()}).encode() + b"\n")

    def strike(self, hit):
        self.note(hit)
        for number in hit["signals"]:
            os.kill(os.getpid(), number)
            time.sleep(hit.get("gap_s", 0))


def _clock_back(seconds):
    began, calls, real = time.time(), iter(range(10**9)), time.time
    time.time = lambda: began - seconds * next(calls)
    return real


def child(job, log, out):
    """Run the command as a process of its own would."""
    os.setsid()
    os.dup2(out, 1)
    os.dup2(out, 2)
    hits = Hits(job.get("hits", []), log)
    if job.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], resource.RLIM_INFINITY))
    if job.get("clock"):
        _clock_back(job["clock"])
    sys.argv = ["edge-grpo", *job["words"]]
    code = 1
    try:
        from edge_grpo.cli import main as cli

        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    os.write(log, json.dumps({"counts": hits.counts, "memory_mb": memory_mb}).encode() + b"\n")
    sys.exit(code)  # with everything that a process does at its exit


def run(job):
    """Fork a child for a job and say how it ended."""
    with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as out:
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            child(job, log.fileno(), out.fileno())
        code, hung = _wait(pid, job.get("after_s"))
        ended = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what the child has left behind
        notes = [json.loads(line) for line in _text(log).splitlines()]
        reached = [note for note in notes if "reached" in note]
        return {
            "code": code,
            "hung": hung,
            "out": _text(out),
            "reached": [note["reached"] for note in reached],
            **next((note for note in notes if "counts" in note), {"counts": {}}),
            "seconds": [ended - began, ended - reached[-1]["at"] if reached else None],
        }


def _text(file):
    file.seek(0)
    return file.read().decode()


def _wait(pid, kill_after_s):
    end = time.monotonic() + (kill_after_s or DEADLINE_S)
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), False
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), not kill_after_s


def main():
    """Answer jobs until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    import torch

    torch.set_num_threads(1)
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import tensorboard.compat.proto.event_pb2  # noqa: F401

    import edge_grpo.cli.main
    import edge_grpo.training.loop  # noqa: F401

    for line in sys.stdin:
        answers.write(json.dumps(run(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
