"""What a run records: metrics, rollouts, checkpoints and the final model, in its folder and trackers."""

import json
import shutil
from collections.abc import Iterable, Mapping

from edge_grpo.runs.durable import flush, flush_tree, remove_tree, saving
from edge_grpo.runs.folder import RunFolder
from edge_grpo.trackers.base import Tracker
from edge_grpo.trackers.console import Display
from edge_grpo.training import checkpoint
from edge_grpo.training.checkpoint import RunState
from edge_grpo.training.collect import Collected
from edge_grpo.training.rollout_rows import rollout_rows
from edge_grpo.training.session import Lesson, Session

__all__ = ["Journal", "finished"]


class Journal:
    """Records a run, and rewinds the record to a checkpoint.

    Args:
        folder: the run's, locked.
        trackers: other receivers of the metrics.
        display: shows them to the user.
    """

    def __init__(self, folder: RunFolder, trackers: Iterable[Tracker], display: Display) -> None:
        self.folder, self.display = folder, display
        self.trackers: tuple[Tracker, ...] = (*trackers, display)

    def restore(self, session: Session) -> None:
        """Restore a session, and everything written, to the newest checkpoint, or to the start if there is none.

        Raises:
            CheckpointError: a file is damaged, or the disk is full or not writable.
        """
        newest = checkpoint.latest(self.folder.checkpoints)
        if newest is None:
            self._rewind(None)
            return
        state = checkpoint.load(newest, dict(session.policy.trained()), session.optimizer)
        session.take_over(state)
        if state.device != session.policy.device.type:
            self.display.say(
                f"the run began on {state.device} and continues on {session.policy.device.type}: not bit-exact"
            )
        checkpoint.prune(self.folder.checkpoints, keep=session.config.train.keep_checkpoints)
        if missing := self._rewind(state.step):
            self.display.say(f"metrics.jsonl has no rows for steps {', '.join(map(str, missing))}")
        self.display.say(f"resuming after step {state.step}")

    def _rewind(self, step: int | None) -> list[int]:
        missing = self.folder.cut_back(step)
        for tracker in self.trackers:
            with saving(f"{self.folder.path} ({type(tracker).__name__})", self.folder.path):
                tracker.rewind(step)
        return missing

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Write the metrics of a step to ``metrics.jsonl`` first, then to every tracker.

        Raises:
            CheckpointError: the disk is full or not writable, or the run's lock was deleted.
        """
        written = self.folder.write_metrics({"step": step, **row})
        del written["step"]
        for tracker in self.trackers:
            with saving(f"{self.folder.path} ({type(tracker).__name__})", self.folder.path):
                tracker.log(step, written)

    def write_rollouts(self, session: Session, collected: Collected, lesson: Lesson | None) -> None:
        """Write every completion of the step just taken, those left out of training too."""
        rows = rollout_rows(session, collected, lesson)
        self.folder.write_rollouts(session.step, rows, session.columns)

    def save(self, session: Session) -> None:
        """Write a checkpoint.

        Raises:
            TrainingError: a weight is not finite.
            CheckpointError: the disk is full or not writable, or the run's lock was deleted.
        """
        state = session.state()
        self.folder.check_lock()
        keep = session.config.train.keep_checkpoints
        checkpoint.save(self.folder.checkpoints, state, dict(session.policy.trained()), session.optimizer, keep=keep)

    def finish(self, session: Session) -> None:
        """Write ``final/``: an ordinary Hugging Face folder, complete or absent.

        Raises:
            CheckpointError: the disk is full or not writable, or the run's lock was deleted.
        """
        self.folder.check_lock()
        final, draft = self.folder.final, self.folder.path / ".final"
        with saving(final, self.folder.path):
            shutil.rmtree(draft, ignore_errors=True)
            session.policy.save(draft)
            (draft / "progress.json").write_text(json.dumps({"step": session.step, "tokens": session.tokens}) + "\n")
            flush_tree(draft)
            remove_tree(final)  # from fewer steps, if a finished run was extended
            draft.rename(final)
            flush(final.parent)


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
