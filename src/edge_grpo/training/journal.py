"""What a run records: metrics, rollouts, checkpoints and the final model, in its folder and trackers."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge_grpo.base.errors import CheckpointError, EngineError
from edge_grpo.base.records import Problem, Row
from edge_grpo.base.tensors import Scored, Signal
from edge_grpo.config.tree import to_tree
from edge_grpo.runs.durable import flush, flush_tree, remove_tree, saving
from edge_grpo.runs.folder import RunFolder
from edge_grpo.trackers.base import Tracker
from edge_grpo.trackers.console import Display
from edge_grpo.training import checkpoint
from edge_grpo.training.card import write_cards
from edge_grpo.training.checkpoint import RunState
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

    def write_rollouts(self, session: Session, lesson: Lesson) -> None:
        """Write every completion of the step just taken."""
        rows = [(group.problem, number, row) for number, group in enumerate(lesson.groups) for row in group.rows]
        texts = session.sampler.texts([row.rollout for *_, row in rows])
        corrected = iter(session.sampler.texts([row.first[0] for *_, row in rows if row.first]))
        pairs = [(text, next(corrected) if row.first else "") for text, (*_, row) in zip(texts, rows, strict=True)]
        self.folder.write_rollouts(session.step, _rollout_rows(session.step, rows, pairs, lesson.batch, lesson.signal))

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
        """Write ``final/``: an ordinary Hugging Face folder, loaded again and checked, complete or absent.

        Raises:
            CheckpointError: the disk is full or not writable, the run's lock was deleted, or the folder would not hold
                the model that was trained.
        """
        self.folder.check_lock()
        final, draft = self.folder.final, self.folder.path / ".final"
        with saving(final, self.folder.path):
            shutil.rmtree(draft, ignore_errors=True)
            try:
                session.policy.save(draft)
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
            )
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


def _rollout_rows(
    step: int,
    problem_rows: Sequence[tuple[Problem, int, Row]],
    texts: Sequence[tuple[str, str]],
    batch: Scored,
    signal: Signal,
) -> list[dict[str, Any]]:
    """One plain dict per completion, for the parquet file.

    Args:
        step: the step's number.
        problem_rows: (problem, group number, row) of every completion, in the batch's order.
        texts: the completion's text, and the text before its correction (empty if there was none).
        batch: entropies, nats per token.
        signal: advantages before and after the method reshaped them.
    """
    entropy = (batch.entropy * batch.mask).sum(-1) / batch.mask.sum(-1).clamp(min=1)
    names = ("family", "variant", "source", "layer", "parent")
    values = zip(*(getattr(batch, name).tolist() for name in names), strict=True)
    relations = [dict(zip(names, own, strict=True)) for own in values]
    columns = zip(
        problem_rows,
        texts,
        entropy.tolist(),
        signal.raw_advantages.tolist(),
        signal.row_advantages.tolist(),
        signal.keep.tolist(),
        relations,
        strict=True,
    )
    return [
        {
            "step": step,
            "problem": problem.id,
            "prompt": problem.prompt,
            "group": group,
            **related,
            "answer": problem.answer,
            "completion": text,
            "completion_before": before,
            "strategy": str(row.strategy),
            "verdict": str(row.grade.verdict),
            "verdict_before": str(row.first_grade.verdict),
            "note": row.grade.note,
            "reward": row.grade.reward,
            "reward_before": row.first_grade.reward,
            "reward_parts": [{"name": name, "value": value} for name, value in row.grade.parts.items()],
            "finished": row.rollout.finished,
            "entropy": mean_entropy,
            "advantage_before_shaping": raw,
            "advantage": shaped,
            "trained": kept,
            "prompt_ids": list(row.rollout.prompt_ids),
            "spans": [
                {
                    "origin": span.segment.name.lower(),
                    "token_ids": list(span.token_ids),
                    "logprobs": list(span.logprobs),
                    "entropies": list(span.entropies),
                }
                for span in row.rollout.spans
            ],
        }
        for (problem, group, row), (text, before), mean_entropy, raw, shaped, kept, related in columns
    ]
