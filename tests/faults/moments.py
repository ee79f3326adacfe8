"""The moments of a training run, observed from outside: audit events, PyTorch's hooks and the lines on stdout.

No part of the package is patched. A moment (``POINTS``) is one of these:

- a file of the run folder is opened, renamed or deleted (:func:`sys.addaudithook`). What was written just before can
  be cut in half at this moment, as a kill in the middle of the write would leave it;
- a forward pass, a backward pass or an optimizer step (PyTorch's global hooks);
- a line about a step on stdout, which follows its row in every file;
- grading and shaping, seen by a reward function (``graded.py``) and a method (:class:`Watched`) that the job hands in.
"""

import io
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import GenerationMixin

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import Scored, Signal
from edge_grpo.methods.edge_grpo import EdgeGrpo
from edge_grpo.models.dense import Dense
from edge_grpo.models.scoring import Scorer, TokenScores

__all__ = ["POINTS", "Lines", "Moments", "Watched"]

# An audit event, the mode of an "open" (None: opened by ``flush``, so that the file is complete), and a path in the run
# folder with N for each number. The event precedes the operation.
FILES = {
    ("open", None, ".config.yaml"): "config",
    ("open", "a+", "starts.jsonl"): "start",
    ("open", None, ".metrics.jsonl"): "cut back",
    ("os.mkdir", None, "rollouts"): "updated",
    ("open", None, "rollouts/.step_N.parquet"): "rollouts",
    ("open", "a", "metrics.jsonl"): "metrics",
    ("open", "w", "checkpoints/.draft_N/progress.json"): "checkpoint",
    ("open", "r", "checkpoints/.draft_N/weights.safetensors"): "checksums",
    ("os.rename", None, "checkpoints/.draft_N"): "whole draft",
    ("open", None, "checkpoints"): "renamed",
    ("os.rename", None, "checkpoints/step_N"): "old checkpoint",
    ("shutil.rmtree", None, "checkpoints/.old_step_N"): "deletion",
    ("shutil.rmtree", None, ".old_final"): "deletion",
    ("open", "w", ".final/progress.json"): "final",
    ("os.rename", None, "final"): "final draft",
    ("os.rename", None, ".final"): "final swap",
}
POINTS = (
    *("loading", "sampling", "grading", "scoring", "shaping", "backward", "optimizer", "evaluation"),
    *("events", "row written"),
    *dict.fromkeys(FILES.values()),
)
AMONG_RANKS_FILES = {
    ("open", "w", "checkpoints/.draft_N/shard-N-model-N-of-N.safetensors"): "slices",
    ("open", "r", "checkpoints/.draft_N/weights-N-of-N.safetensors"): "checksums",
}
AMONG_RANKS = ("slices",)
WITHIN = ("loading", "evaluation")  # a timer hits some moment soon after the start
PAUSE_S = 0.002

ON_SHAPING: list[Callable[[], None]] = []


@final
@settings
class Watched(EdgeGrpo):
    """EDGE-GRPO that reports when it is asked for the signal of a step."""

    kind: Literal["edge_grpo"] = "edge_grpo"

    def signal(self, batch: Scored) -> Signal:
        for tell in ON_SHAPING:
            tell()
        return EdgeGrpo.signal(self, batch)


class Lines(io.TextIOWrapper):
    """A stdout that reports each line about a step before it is printed."""

    on_step: Callable[[], None] = staticmethod(lambda: None)

    def write(self, text: str) -> int:
        if re.match(r"step \d+/", text):
            self.on_step()
        return super().write(text)


class Moments:
    """Counts the moments of this process and injects the faults of a job.

    Args:
        wanted: the hits of a job.
        log: descriptor of the file in which reached hits are noted.
        run: the run folder; None for a command without one.
        model: the model folder.
        rank: this process of several; those after the first write slices of checkpoints alone, and do not tell sampling
            from evaluation.
    """

    def __init__(
        self,
        wanted: Sequence[Mapping[str, Any]],
        log: int,
        run: Path | None,
        model: Path | None,
        *,
        rank: int = 0,
    ) -> None:
        self.wanted, self.log, self.run, self.rank = wanted, log, run, rank
        self.counts = dict.fromkeys((*POINTS, *AMONG_RANKS), 0)
        self.phase = "sampling" if run is None else "loading"
        self._model = None if model is None else str(model / "config.json")
        self._busy = False  # while a fault is injected, which opens files itself

    def observe(self, stdout: Lines) -> None:
        """Install the hooks, for as long as the process lives."""
        sys.addaudithook(self._audit)
        register_module_forward_pre_hook(self._before_forward)
        register_module_forward_hook(self._after_forward)
        register_optimizer_step_post_hook(self._after_optimizer)
        ON_SHAPING.append(lambda: self.passed("shaping"))
        stdout.on_step = self._before_line

    # --- what is observed ---------------------------------------------------------------------------------------------

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.mkdir", "shutil.rmtree") or self._busy:
            return
        if not isinstance(args[0], (str, os.PathLike)):
            return
        path, mode = os.fspath(args[0]), args[1] if event == "open" else None
        if not isinstance(path, str):
            return
        if path == self._model:
            self.passed("loading")
            if self.rank:
                self.phase = "sampling"
        if self.run is None or not path.startswith(f"{self.run}/"):
            return
        name = path.removeprefix(f"{self.run}/")
        key = (event, mode, re.sub(r"\d+", "N", name))
        point = FILES.get(key) or AMONG_RANKS_FILES.get(key)
        if point is None or (point == "deletion" and not os.path.exists(path)):
            return
        if point == "cut back":
            self.phase = "sampling" if os.path.getsize(path) else "evaluating"
        elif point == "metrics":
            self.phase = "sampling"
            self._fill_events()
        self.passed(point, lambda: self._damage(point, Path(path)))

    def _before_forward(self, module: torch.nn.Module, args: object) -> None:
        """In inference mode the model samples: held-out after an update or before the first row, else a step."""
        if not _samples(module):
            return
        if self.phase == "sampling":
            self.passed("sampling")
        elif self.phase in ("evaluating", "updated"):
            self.phase = "evaluated"
            self.passed("evaluation")

    def _after_forward(self, module: torch.nn.Module, args: object, scores: object) -> None:
        if _samples(module) and self._breaks("sampling"):
            getattr(scores, "logits", scores).fill_(float("nan"))
        if isinstance(module, Scorer) and isinstance(scores, TokenScores):
            if scores.logprobs.requires_grad:
                scores.logprobs.register_hook(self._backward)
            elif self.phase != "loading":  # a model is tried on a few tokens while it is loaded
                self.passed("scoring")

    def _backward(self, gradient: torch.Tensor) -> torch.Tensor:
        self.passed("backward")
        return gradient * float("nan") if self._breaks("backward") else gradient

    def _breaks(self, point: str) -> bool:
        """Whether a job wants NaN at this moment."""
        found = any(hit.get("nan") and (hit["point"], hit["n"]) == (point, self.counts[point]) for hit in self.wanted)
        if found:
            self._note(point)
        return found

    def _after_optimizer(self, optimizer: object, args: object, more: object) -> None:
        self.phase = "sampling" if self.rank else "updated"
        self.passed("optimizer")

    def _before_line(self) -> None:
        self.passed("events", self._halve_last_event)
        self.passed("row written")

    # --- what happens there -------------------------------------------------------------------------------------------

    def passed(self, point: str, damage: Callable[[], None] = lambda: None) -> None:
        """Count a moment, and inject the faults that a job wants there."""
        self.counts[point] += 1
        for hit in self.wanted:
            if (hit["point"], hit["n"]) != (point, self.counts[point]) or hit.get("nan"):
                continue
            if hit.get("memory"):
                self._note(point)
                raise MemoryError
            if "error" in hit:
                if point != "events":  # its disk is full already
                    self._note(point)
                    raise OSError(hit["error"], os.strerror(hit["error"]))
            elif point in WITHIN or "gap_s" in hit:
                threading.Timer(PAUSE_S, self.strike, [hit]).start()
            else:
                if signal.SIGKILL in hit["signals"]:
                    self._busy = True
                    damage()
                self.strike(hit)

    def strike(self, hit: Mapping[str, Any]) -> None:
        """Send the signals of a hit."""
        time.sleep(hit.get("pause_s", 0))
        pid = self._process(hit["to"]) if "to" in hit else os.getpid()
        self._note(hit["point"])
        for number in hit["signals"]:
            os.kill(pid, number)
            time.sleep(hit.get("gap_s", 0))

    def _process(self, who: int | str) -> int:
        """The process of another rank, or the launcher."""
        with open(f"/proc/self/fd/{self.log}") as log:
            notes = [json.loads(line) for line in log]
        pid: int = next(note["pid"] for note in notes if note.get("who") == who)
        return pid

    def _note(self, point: str) -> None:
        os.write(self.log, json.dumps({"reached": point, "at": time.monotonic()}).encode() + b"\n")

    def _damage(self, point: str, path: Path) -> None:
        """Leave the files as a kill in the middle of the last write would."""
        if point in ("config", "cut back", "rollouts"):
            _halve(path)
        elif point == "start":
            path.write_text('{"at": "2026')
        elif point == "metrics":
            with path.open("a") as file:
                file.write('{"step": 3, "accuracy": 0.')
        elif point == "checkpoint":
            _halve(min(path.parent.glob("weights*.safetensors")))
            min(path.parent.glob("optimizer*.safetensors")).unlink()
        elif point == "final":
            _halve(path.parent / "model.safetensors")
        elif point == "deletion":
            next(file for file in sorted(path.rglob("*"), reverse=True) if file.is_file()).unlink()

    def _events(self) -> Path:
        assert self.run is not None
        (file,) = (self.run / "events").iterdir()
        return file

    def _halve_last_event(self) -> None:
        file = self._events()
        os.truncate(file, file.stat().st_size - 5)

    def _fill_events(self) -> None:
        """At the row that a job names, put the open event file on a full disk: /dev/full."""
        if not any(
            hit["point"] == "events" and "error" in hit and hit["n"] == self.counts["metrics"] + 1
            for hit in self.wanted
        ):
            return
        file = str(self._events())
        for descriptor in os.listdir("/proc/self/fd"):
            if os.path.realpath(f"/proc/self/fd/{descriptor}") == file:
                os.dup2(os.open("/dev/full", os.O_WRONLY), int(descriptor))
                self._note("events")


def _samples(module: torch.nn.Module) -> bool:
    return isinstance(module, Dense | GenerationMixin) and torch.is_inference_mode_enabled()


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)
