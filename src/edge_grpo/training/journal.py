"""What a run records: metrics, rollouts, checkpoints and the final model, in its folder and trackers."""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from edge_grpo.base.errors import CheckpointError, EdgeGrpoError, EngineError, TrainingError
from edge_grpo.base.job import resume_command
from edge_grpo.base.text import counted
from edge_grpo.base.world import World
from edge_grpo.config.tree import config_hash, to_tree, to_yaml
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import ServerError
from edge_grpo.runs import starts
from edge_grpo.runs.durable import flush, flush_tree, remove_tree, saving
from edge_grpo.runs.folder import RunFolder
from edge_grpo.trackers.base import RolloutTracker, Tracker, sampled
from edge_grpo.trackers.console import Display
from edge_grpo.training import checkpoint
from edge_grpo.training.card import write_cards
from edge_grpo.training.checkpoint import RunState
from edge_grpo.training.collect import Collected
from edge_grpo.training.memory import NoMemoryLeftError
from edge_grpo.training.resumption import Resumption
from edge_grpo.training.rollout_rows import rollout_rows
from edge_grpo.training.session import Lesson, Session

__all__ = ["Journal", "finished"]


P = ParamSpec("P")
T = TypeVar("T")


def _by_first(method: Callable[Concatenate["Journal", P], T]) -> Callable[Concatenate["Journal", P], T]:
    """Let rank 0 do it, and give every rank the result."""

    @wraps(method)
    def shared(self: "Journal", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.world.first(lambda: method(self, *args, **kwargs))

    return shared


class Journal:
    """Records a run, and rewinds the record to a checkpoint.

    With several ranks, all of them call every method, and rank 0 writes; each writes its slices of a checkpoint.

    Args:
        folder: the run's, locked by rank 0.
        trackers: other receivers of the metrics.
        display: shows them to the user.
        world: the ranks.
        clock: the time in seconds since 1970, UTC.
    """

    def __init__(
        self,
        folder: RunFolder,
        trackers: Iterable[Tracker],
        display: Display,
        *,
        world: World = World(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.display, self.world, self.clock = folder, display, world, clock
        self.trackers: tuple[Tracker, ...] = (*trackers, display)

    def restore(self, session: Session) -> None:
        """Restore a session, and everything written, to the newest checkpoint, or to the start if there is none.

        Raises:
            CheckpointError: a file is damaged, or the disk is full or not writable.
        """
        newest = self.world.first(lambda: checkpoint.latest(self.folder.checkpoints))
        if newest is None:
            self._rewind(None)
            return
        state = checkpoint.load(newest, dict(session.policy.trained()), session.optimizer, self.world)
        session.take_over(state)
        if state.device != session.policy.device.type:
            self.display.say(
                f"the run began on {state.device} and continues on {session.policy.device.type}: not bit-exact"
            )
        if state.computes_in not in ("", session.policy.computes_in):
            self.display.say(
                f"the run began with passes in {state.computes_in} and continues in {session.policy.computes_in}: not "
                f"bit-exact; model.dtype={state.computes_in} keeps to the first"
            )
        if state.num_ranks != self.world.size:
            self.display.say(
                f"the checkpoint was written by {counted(state.num_ranks, 'process')} and is resumed by "
                f"{self.world.size}: results agree with an uninterrupted run up to rounding"
            )
        kept = session.config.train
        self._prune(kept.keep_checkpoints, best=kept.keep_best)
        if missing := self._rewind(state.step):
            self.display.say(f"metrics.jsonl has no rows for steps {', '.join(map(str, missing))}")
        self.display.say(f"resuming after step {state.step}")

    @_by_first
    def _prune(self, keep: int, *, best: bool) -> None:
        checkpoint.prune(self.folder.checkpoints, keep=keep, best=self._best() if best else None)

    @_by_first
    def _rewind(self, step: int | None) -> list[int]:
        missing = self.folder.cut_back(step)
        for tracker in self.trackers:
            with saving(f"{self.folder.path} ({type(tracker).__name__})", self.folder.path):
                tracker.rewind(step)
        return missing

    @_by_first
    def begin(self, session: Session, start: Mapping[str, Any], resumption: Resumption | None = None) -> None:
        """Add a start to the record of the run, with the settings that changed, and say what is different.

        Args:
            session: restored.
            start: the environment, the digests of the inputs, and which of them changed and were accepted.
            resumption: how the run is resumed; None = it is new.
        Raises:
            CheckpointError: the disk is full or not writable, or the run's lock was deleted.
        """
        changed = resumption.changed if resumption else {}
        before = starts.read(self.folder.path)
        self.folder.check_lock()
        if resumption and changed:
            with saving(self.folder.path / "config.yaml", self.folder.path):
                self.folder.write_config(to_yaml(resumption.tree), config_hash(resumption.tree))
        at = datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="seconds")
        named = {name: list(pair) for name, pair in changed.items()}
        starts.append(self.folder.path, {"at": at, "step": session.step, **start, "changed": named})
        if resumption:
            for line in (*_differences(session, before, start), *self._effects(session, resumption)):
                self.display.say(line)

    def _effects(self, session: Session, resumption: Resumption) -> list[str]:
        """What the settings changed on resume do to the run."""
        rates = [row.get("learning_rate") for row in self.folder.rows()] if resumption.changed else []
        last_rate = rates[-1] if rates else None
        return resumption.notes(step=session.step, tokens=session.tokens, last_rate=last_rate)

    @_by_first
    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Write the metrics of a step, with the time, to ``metrics.jsonl`` first, then to every tracker.

        Raises:
            CheckpointError: the disk is full or not writable, or the run's lock was deleted.
        """
        self._track(step, self.folder.write_metrics({"step": step, "time/at": round(self.clock(), 3), **row}))

    def _track(self, step: int, written: Mapping[str, float | None]) -> None:
        row = {name: value for name, value in written.items() if name != "step"}
        for tracker in self.trackers:
            with saving(f"{self.folder.path} ({type(tracker).__name__})", self.folder.path):
                tracker.log(step, row)

    @_by_first
    def is_empty(self) -> bool:
        """Whether nothing was logged yet."""
        return not any(self.folder.rows())

    @_by_first
    def lacks_last_evaluation(self, session: Session) -> bool:
        """Whether the last step is done but was not evaluated as one, because the run was to go on."""
        done = session.step > 0 and session.is_over and session.evaluation_is_due
        return done and not any(row["step"] == session.step and "eval/accuracy" in row for row in self.folder.rows())

    @_by_first
    def extend(self, step: int, row: Mapping[str, float]) -> None:
        """Add figures to the row of a step that is logged already.

        Raises:
            CheckpointError: the disk is full or not writable, or the run's lock was deleted.
        """
        self._track(step, self.folder.extend_metrics({"step": step, **row}))

    @_by_first
    def write_rollouts(self, session: Session, collected: Collected, lesson: Lesson | None) -> None:
        """Write every completion of the step just taken, those left out of training too, and show trackers some."""
        run = session.config.run
        shown = [each for each in self.trackers if isinstance(each, RolloutTracker)] if run.table_rows else []
        shown = shown if (session.step - 1) % run.table_every == 0 else []
        if not run.rollouts and not shown:
            return
        rows = rollout_rows(session, collected, lesson)
        if run.rollouts:
            self.folder.write_rollouts(session.step, rows, session.columns)
        for tracker in shown:
            with saving(f"{self.folder.path} ({type(tracker).__name__})", self.folder.path):
                tracker.log_rollouts(session.step, sampled(rows, run.table_rows))

    def save(self, session: Session) -> None:
        """Write a checkpoint.

        Raises:
            TrainingError: a weight is not finite.
            CheckpointError: the disk is full or not writable, or the run's lock was deleted.
        """
        state = session.state()
        kept = session.config.train

        def ready() -> int | None:
            self.folder.check_lock()
            return self._best(session.step) if kept.keep_best else None

        checkpoint.save(
            self.folder.checkpoints,
            state,
            dict(session.policy.trained()),
            session.optimizer,
            keep=kept.keep_checkpoints,
            best=self.world.first(ready),
            world=self.world,
        )

    @_by_first
    def is_best(self, session: Session, row: Mapping[str, float]) -> bool:
        """Whether ``train.keep_best`` wants a checkpoint: the row just logged has the best accuracy so far."""
        wanted = session.config.train.keep_best and "eval/accuracy" in row
        return wanted and self._best(session.step) == session.step

    @_by_first
    def best_note(self, session: Session) -> str:
        """Which checkpoint ``train.keep_best`` has kept, for the end of a run; empty if it is off or has kept none."""
        best = self._best() if session.config.train.keep_best else None
        if best is None:
            return ""
        accuracy = next(row["eval/accuracy"] for row in self.folder.rows() if row["step"] == best)
        found = f"best held-out accuracy: {accuracy:.1%} after step {best}"
        if best == session.step:
            return f"{found}, the last one: final/ is the best model"
        return (
            f"{found}; final/ is the model after step {session.step}. To get the best: edge-grpo export "
            f"{self.folder.path} --step {best} OUT"
        )

    def _best(self, *more: int) -> int | None:
        """Of the steps with a checkpoint and ``more``, the one with the best held-out accuracy; the first of equals."""
        steps = {*checkpoint.steps(self.folder.checkpoints), *more}
        scores = [
            (row["eval/accuracy"], -row["step"])
            for row in self.folder.rows()
            if row["step"] in steps and row.get("eval/accuracy") is not None
        ]
        return -max(scores)[1] if scores else None

    def rescued(self, session: Session, error: NoMemoryLeftError) -> TrainingError:
        """The error to end a run with after memory ran out; saves the steps since the last checkpoint if possible.

        Where it ran out on one of several ranks only, the others wait for it in vain, and nothing can be saved.
        """
        if error.intact and (self.world.size == 1 or error.shared):
            self._save_logged(session)
        if not error.value:
            return TrainingError(
                f"{error}, and {error.setting} cannot be lowered; start a new run with a lower rollout.max_new_tokens, "
                "with model.lora.rank, or with a smaller model"
            )
        lower = f"{error.setting}={error.value}"
        if not self.folder.has_begun:
            return TrainingError(f"{error}; start again with {lower}")
        return TrainingError(f"{error}; {self._resume_with(session)} {lower}")

    def parted(self, session: Session, error: ServerError) -> ServerError:
        """The error to end a run with after its rollout server failed; saves the steps since the last checkpoint."""
        self._save_logged(session)
        return ServerError(f"{error}; then {self._resume_with(session)}")

    def _save_logged(self, session: Session) -> None:
        """A checkpoint of the session, if its last step is whole and logged, and if it can be written."""
        if session.step and self._has(session.step):
            with suppress(EdgeGrpoError, RuntimeError, MemoryError):  # the last checkpoint then has to do
                self.save(session)

    @_by_first
    def _has(self, step: int) -> bool:
        """Whether a step is logged."""
        return any(row["step"] == step for row in self.folder.rows())

    def _resume_with(self, session: Session) -> str:
        saved = max(checkpoint.steps(self.folder.checkpoints), default=0)
        lost = f" (from step {saved}; {counted(session.step - saved, 'step')} will be redone)"
        again = lost if saved < session.step else ""
        return f"resume with{again}: {resume_command(self.folder.path)}"

    def finish(self, session: Session) -> None:
        """Write ``final/``: an ordinary Hugging Face folder, loaded again and checked, complete or absent.

        Raises:
            CheckpointError: the disk is full or not writable, the run's lock was deleted, or the folder would not hold
                the model that was trained.
        """
        policy = session.replica.refreshed()
        self._write_final(session, policy)

    @_by_first
    def _write_final(self, session: Session, policy: Policy) -> None:
        self.folder.check_lock()
        final, draft = self.folder.final, self.folder.path / ".final"
        with saving(final, self.folder.path):
            shutil.rmtree(draft, ignore_errors=True)
            try:
                policy.save(draft)
            except EngineError as error:
                raise CheckpointError(
                    f"{final}: not written, because {error}; the trained weights are in {self.folder.checkpoints}"
                ) from error
            write_cards(
                draft,
                to_tree(session.config),
                method=str(getattr(session.method, "kind", type(session.method).__name__)),
                step=session.step,
                tokens=session.tokens,
                rows=self.folder.rows(),
                versions=starts.versions(self.folder.path),
            )
            (draft / "progress.json").write_text(json.dumps({"step": session.step, "tokens": session.tokens}) + "\n")
            flush_tree(draft)
            remove_tree(final)  # from fewer steps, if a finished run was extended
            draft.rename(final)
            flush(final.parent)


def _differences(session: Session, before: Sequence[Mapping[str, Any]], start: Mapping[str, Any]) -> Iterator[str]:
    """What is different from the starts of the run before this one, a line each."""
    if start.get("accepted"):
        yield f"accepted: {' and '.join(start['accepted'])} changed since the last start"
    if session.step and not any("inputs" in each for each in before):
        yield (
            f"{starts.STARTS} has no digests of data, model and reward code, so they could not be checked; they are "
            "recorded now"
        )
    if before and (other := starts.other_environment(before[-1], start)):
        yield f"{other}: results may differ from an uninterrupted run by rounding"


def finished(folder: RunFolder) -> RunState | None:
    """The state in which a run ended; None if ``final/`` is missing or older than the newest checkpoint.

    Raises:
        CheckpointError: the newest checkpoint is damaged.
    """
    newest = checkpoint.latest(folder.checkpoints)
    if newest is None or not folder.final.exists():
        return None
    state = checkpoint.read_state(newest)
    try:
        found = json.loads((folder.final / "progress.json").read_text())
    except (OSError, ValueError):
        return None
    return state if found == {"step": state.step, "tokens": state.tokens} else None
