"""The moments of a training run, observed from outside: audit events, PyTorch's hooks and the lines on stdout.

Nothing of the package is replaced. A moment is one of these (``POINTS``):

- opening, renaming or deleting a file of the run folder (:func:`sys.addaudithook`). At this moment whatever was
  written before can be cut in half, which is what a kill in the middle of the write leaves behind;
- a forward pass of the model, a backward pass, a step of the optimizer (PyTorch's global hooks);
- a line about a step on stdout, which comes when its row has been written everywhere;
- grading (``graded.py``, a reward function) and shaping (:class:`Watched`, a method), both handed in by the job.
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
from edge_grpo.models.scoring import Scorer, TokenScores

__all__ = ["POINTS", "Lines", "Moments", "Watched"]

# An audit event, the mode of an "open" (None = a file descriptor that is about to be flushed), and a path in the run
# folder with N for every number: the event comes just before the operation.
FILES = {
    ("open", None, ".config.yaml"): "config",
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
WITHIN = ("loading", "evaluation")  # a timer hits some moment soon after the start
PAUSE_S = 0.002

ON_SHAPING: list[Callable[[], None]] = []


@final
@settings
class Watched(EdgeGrpo):
    """EDGE-GRPO, which tells when it is asked for the signal of a step."""

    kind: Literal["edge_grpo"] = "edge_grpo"

    def signal(self, batch: Scored) -> Signal:
        for tell in ON_SHAPING:
            tell()
        return EdgeGrpo.signal(self, batch)


class Lines(io.TextIOWrapper):
    """A stdout that tells of every line about a step before it is shown."""

    on_step: Callable[[], None] = staticmethod(lambda: None)

    def write(self, text: str) -> int:
        if text.startswith("step "):
            self.on_step()
        return super().write(text)


class Moments:
    """Counts the moments of this process and lets the wanted faults happen at theirs.

    Args:
        wanted: the hits of a job.
        log: descriptor of the file that notes what was reached.
        run: the run folder; None for a command without one.
        model: the model folder.
    """

    def __init__(self, wanted: Sequence[Mapping[str, Any]], log: int, run: Path | None, model: Path | None) -> None:
        self.wanted, self.log, self.run = wanted, log, run
        self.counts = dict.fromkeys(POINTS, 0)
        self.phase = "sampling" if run is None else "loading"
        self._model = None if model is None else str(model / "config.json")
        self._busy = False  # while a fault is being made, which opens files of its own

    def observe(self, stdout: Lines) -> None:
        """Begin; there is no end, because the process ends."""
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
        if path == self._model:
            self.passed("loading")
        if self.run is None or not path.startswith(f"{self.run}/"):
            return
        name = path.removeprefix(f"{self.run}/")
        point = FILES.get((event, mode, re.sub(r"\d+", "N", name)))
        if point is None or (point == "deletion" and not os.path.exists(path)):
            return
        if point == "cut back":
            self.phase = "sampling" if os.path.getsize(path) else "evaluating"
        elif point == "metrics":
            self.phase = "sampling"
            self._fill_events()
        self.passed(point, lambda: self._damage(point, Path(path)))

    def _before_forward(self, module: torch.nn.Module, args: object) -> None:
        """In inference mode a model samples: in a step, or behind an update (and before the first row) held-out."""
        if not (isinstance(module, GenerationMixin) and torch.is_inference_mode_enabled()):
            return
        if self.phase == "sampling":
            self.passed("sampling")
        elif self.phase in ("evaluating", "updated"):
            self.phase = "evaluated"
            self.passed("evaluation")

    def _after_forward(self, module: torch.nn.Module, args: object, scores: object) -> None:
        if isinstance(module, Scorer) and isinstance(scores, TokenScores):
            if scores.logprobs.requires_grad:
                scores.logprobs.register_hook(lambda _: self.passed("backward"))
            else:
                self.passed("scoring")

    def _after_optimizer(self, optimizer: object, args: object, more: object) -> None:
        self.phase = "updated"
        self.passed("optimizer")

    def _before_line(self) -> None:
        self.passed("events", self._halve_last_event)
        self.passed("row written")

    # --- what happens there -------------------------------------------------------------------------------------------

    def passed(self, point: str, damage: Callable[[], None] = lambda: None) -> None:
        """Count a moment, and hit it where a job wants that."""
        self.counts[point] += 1
        for hit in self.wanted:
            if (hit["point"], hit["n"]) != (point, self.counts[point]):
                continue
            if "error" in hit:
                if point != "events":  # which has met its full disk already
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
        self._note(hit["point"])
        for number in hit["signals"]:
            os.kill(os.getpid(), number)
            time.sleep(hit.get("gap_s", 0))

    def _note(self, point: str) -> None:
        os.write(self.log, json.dumps({"reached": point, "at": time.monotonic()}).encode() + b"\n")

    def _damage(self, point: str, path: Path) -> None:
        """Leave behind what a kill in the middle of the last write would have."""
        if point in ("config", "cut back", "rollouts"):
            _halve(path)
        elif point == "metrics":
            with path.open("a") as file:
                file.write('{"step": 3, "accuracy": 0.')
        elif point == "checkpoint":
            _halve(path.parent / "weights.safetensors")
            (path.parent / "optimizer.safetensors").unlink()
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
        """From the row on that a job names, the open file of events is on a full disk: /dev/full."""
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


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)
