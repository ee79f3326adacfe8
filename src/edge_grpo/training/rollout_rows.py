"""The rows of a step's rollout file: every completion, trained or not."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from edge_grpo.base.records import Group, Problem, Rollout, Row
from edge_grpo.runs.completions import data_values
from edge_grpo.training.batching import relations
from edge_grpo.training.collect import Collected
from edge_grpo.training.session import Lesson, Session

__all__ = ["rollout_rows"]

_UNSCORED: dict[str, Any] = dict.fromkeys(("entropy", "advantage_before_shaping", "advantage"))


def rollout_rows(session: Session, collected: Collected, lesson: Lesson | None) -> list[dict[str, Any]]:
    """One plain dict per completion of the step just taken: first the rows of the lesson, then those left out.

    Args:
        session: numbers the step, decodes completions and knows the data's columns.
        collected: what was sampled.
        lesson: what was trained on; None = nothing.
    """
    arranged = list(lesson.groups) if lesson else []
    left_out = _left_out(collected, arranged)
    groups = arranged + [group for group, _ in left_out]
    rows = [(group.problem, number, row) for number, group in enumerate(groups) for row in group.rows]
    told = _scores(lesson) if lesson else []
    told += [_UNSCORED | {"trained": False, "dropped": why} for group, why in left_out for _ in group.rows]
    drawn = _sampled_groups(collected, arranged)
    related = _relations(groups, lesson)
    texts = _texts([row for *_, row in rows], session.sampler.texts)
    return [
        {"step": session.step, "group": number, "sampled_group": drawn.get(id(row.rollout.spans), -1), **own}
        | {**text, **_graded(problem, row), **scores}
        | data_values(problem.meta, session.columns)
        for (problem, number, row), own, text, scores in zip(rows, related, texts, told, strict=True)
    ]


def _sampled_groups(collected: Collected, arranged: Sequence[Group]) -> dict[int, int]:
    """The number of the group that tokens were sampled in, by their spans, which copies of a row share.

    It is -1 for a correction that is trained beside the answer that it corrects.
    """
    present = {id(row.rollout.spans) for group in arranged for row in group.rows}
    found = {}
    for number, group in enumerate((*collected.groups, *collected.dropped)):
        for row in group.rows:
            first = id(row.first[0].spans) if row.first else None
            found[id(row.rollout.spans)] = -1 if first in present else number
            if first is not None and first in present:
                found[first] = number
    return found


def _left_out(collected: Collected, arranged: Sequence[Group]) -> list[tuple[Group, str]]:
    """The rows that are in no arranged group, by group, and what left them out."""
    kept = {id(row.rollout.spans) for group in arranged for row in group.rows}  # copies of a row share its spans
    cut = [
        (replace(group, rows=tuple(row for row in group.rows if id(row.rollout.spans) not in kept)), "method")
        for group in collected.groups
    ]
    return [pair for pair in (*cut, *((group, "dynamic_sampling") for group in collected.dropped)) if pair[0].rows]


def _scores(lesson: Lesson) -> list[dict[str, Any]]:
    """Entropy (nats per token), advantages, and whether the row is trained."""
    batch, signal = lesson.batch, lesson.signal
    entropy = (batch.entropy * batch.mask).sum(-1) / batch.mask.sum(-1).clamp(min=1)
    columns = (entropy, signal.raw_advantages, signal.row_advantages, signal.keep, batch.scorable)
    return [
        {
            "entropy": mean,
            "advantage_before_shaping": raw,
            "advantage": shaped,
            "trained": kept,
            "dropped": "" if kept else "method" if scorable else "ungraded",
        }
        for mean, raw, shaped, kept, scorable in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _relations(groups: Sequence[Group], lesson: Lesson | None) -> list[dict[str, int]]:
    """How rows are related; rows left out continue the lesson's numbers."""
    found = {name: column.tolist() for name, column in relations(groups).items()} if groups else {}
    if lesson:
        for name, column in found.items():
            own = getattr(lesson.batch, name).tolist()
            column[: len(own)] = own
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]


def _texts(rows: Sequence[Row], decode: Callable[[Sequence[Rollout]], list[str]]) -> list[dict[str, str]]:
    """The text of each completion, and before its correction (empty if there was none)."""
    texts = decode([row.rollout for row in rows])
    before = iter(decode([row.first[0] for row in rows if row.first]))
    return [
        {"completion": text, "completion_before": next(before) if row.first else ""}
        for text, row in zip(texts, rows, strict=True)
    ]


def _graded(problem: Problem, row: Row) -> dict[str, Any]:
    """The problem, the grades, and the tokens."""
    return {
        "problem": problem.id,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "strategy": str(row.strategy),
        "verdict": str(row.grade.verdict),
        "verdict_before": str(row.first_grade.verdict),
        "note": row.grade.note,
        "reward": row.grade.reward,
        "reward_before": row.first_grade.reward,
        "reward_parts": [{"name": name, "value": value} for name, value in row.grade.parts.items()],
        "images": [
            {"name": each.name, "digest": each.digest, "transform": each.transform, "seed": each.seed}
            for each in (row.rollout.scene.pictures if row.rollout.scene else ())
        ],
        "finished": row.rollout.finished,
        "prompt_ids": list(row.rollout.prompt_ids),
        "spans": [
            {
                "origin": span.segment.name.lower(),
                "token_ids": list(span.token_ids),
                "logprobs": list(span.logprobs),
                "entropies": list(span.entropies),
                "version": span.version,
            }
            for span in row.rollout.spans
        ],
    }
