"""Problems -> groups: sample, grade, correct, top up. The only stage of a step that goes back and forth."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from edge_grpo.data.templates import Tokenizer, encode_text
from edge_grpo.errors import DataError
from edge_grpo.methods.base import Method, Repair
from edge_grpo.metrics import Metrics, mean_of, share
from edge_grpo.records import Grade, Group, Problem, Rollout, Row, Segment, Strategy, Verdict
from edge_grpo.rng import derive_seed, python_random
from edge_grpo.rollout.engine import Continuation, Engine, Request, Sampling, inject

__all__ = ["Collected", "Collector", "Grader", "Prompted", "describe", "stream"]

Grader = Callable[[Sequence[Problem], Sequence[Rollout]], list[Grade]]
"""Grades one completion a problem; the text is made from the tokens inside."""


@dataclass(frozen=True)
class Prompted:
    """A problem and the tokens of its prompt."""

    problem: Problem
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True)
class Collected:
    """The groups of a step, how many prompts were used up for them, and the figures of the collection."""

    groups: tuple[Group, ...]
    num_prompts: int
    metrics: Metrics = field(default_factory=dict)


def stream(problems: Sequence[Prompted], *, seed: int, start: int) -> Iterator[Prompted]:
    """Problems from position ``start`` on: epoch after epoch, each in an order of its own that ``seed`` decides."""
    position = start
    while True:
        epoch, offset = divmod(position, len(problems))
        order = list(range(len(problems)))
        python_random(seed, "order", epoch).shuffle(order)
        for index in order[offset:]:
            yield problems[index]
            position += 1


class Collector:
    """Makes the groups of a step as the method wishes; holds nothing that changes between steps.

    Args:
        engine: samples and continues.
        grader: grades completions.
        method: asked for corrections (``plan``) and whether groups are useful (``dynamic_sampling``).
        tokenizer: for injected text alone.
        sampling: how to draw.
        group_size: completions a problem.
        stop_id: the token that closes injected text.
        seed: the run's.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        grader: Grader,
        method: Method,
        tokenizer: Tokenizer,
        sampling: Sampling,
        group_size: int,
        stop_id: int,
        seed: int,
    ) -> None:
        self.engine = engine
        self.grader = grader
        self.method = method
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.group_size = group_size
        self.stop_id = stop_id
        self.seed = seed

    def collect(self, problems: Iterator[Prompted], *, step: int, num_groups: int) -> Collected:
        """The groups of one step.

        Args:
            problems: where prompts come from; only as many are taken as are used.
            step: the step's number; with the run's seed it decides all draws.
            num_groups: how many groups are wanted.
        Returns:
            ``num_groups`` groups, or fewer if dynamic sampling ends without enough useful ones and must not fill up.
        """
        top_up = self.method.dynamic_sampling
        groups, skipped = self._round(_take(problems, num_groups), step, 0)
        asked = num_groups
        if top_up is None or top_up.max_rounds == 0:
            return Collected(tuple(groups), asked, describe(groups, groups) | {"correction/skipped": (skipped, 1.0)})
        for number in range(1, top_up.max_rounds + 1):
            useful = sum(self.method.useful(group) for group in groups)
            missing = num_groups - useful
            if useful >= top_up.min_share * num_groups:
                break
            more, more_skipped = self._round(_take(problems, missing), step, number)
            groups, skipped, asked = groups + more, skipped + more_skipped, asked + missing
        ranked = sorted(groups, key=lambda group: not self.method.useful(group))  # stable: useful ones first
        kept = [group for group in ranked[:num_groups] if top_up.fill or self.method.useful(group)]
        extra: Metrics = {
            "correction/skipped": (skipped, 1.0),
            "dynamic/prompts": (asked, 1.0),
            "dynamic/extra_completions": ((asked - num_groups) * self.group_size, 1.0),
            "dynamic/useful": share(self.method.useful(group) for group in groups),
        }
        return Collected(tuple(kept), asked, describe(groups, kept) | extra)

    def _round(self, prompted: list[Prompted], step: int, number: int) -> tuple[list[Group], int]:
        """Sample and grade a group a prompt, then correct while the method wants to; counts skipped repairs."""
        seeds = [
            tuple(derive_seed(self.seed, "sample", step, number, i, j) for j in range(self.group_size))
            for i in range(len(prompted))
        ]
        requests = [Request(item.prompt_ids, own) for item, own in zip(prompted, seeds, strict=True)]
        sampled = self.engine.sample(requests, self.sampling)
        problems = [item.problem for item in prompted]
        grades = iter(
            self.grader(
                [problem for problem, group in zip(problems, sampled, strict=True) for _ in group],
                [rollout for group in sampled for rollout in group],
            )
        )
        groups = [
            Group(problem, tuple(Row(rollout, next(grades)) for rollout in rollouts))
            for problem, rollouts in zip(problems, sampled, strict=True)
        ]
        rng = python_random(self.seed, "correct", step, number)
        total_skipped = done = 0
        while wishes := self.method.plan(groups, rng):
            groups, skipped = self._correct(groups, wishes, (step, number, done))
            total_skipped += skipped
            done += 1
            if skipped == len(wishes):
                break
        return groups, total_skipped

    def _correct(
        self, groups: list[Group], wishes: Sequence[Repair], path: tuple[int, int, int]
    ) -> tuple[list[Group], int]:
        """Carry out repairs and grade their results. A repair that does not fit its budget is skipped."""
        edited: dict[tuple[int, int], Rollout] = {}
        to_continue: list[tuple[Repair, Continuation]] = []
        for wish in wishes:
            rollout = groups[wish.group].rows[wish.row].rollout
            ids = encode_text(self.tokenizer, wish.text)
            if wish.strategy is Strategy.REFLECT:
                if len(ids) < wish.budget:
                    seed = derive_seed(self.seed, "continue", *path, wish.group, wish.row)
                    to_continue.append((wish, Continuation(rollout, ids, wish.budget, seed)))
            elif wish.strategy is Strategy.ANSWER:
                if len(ids) + 1 <= wish.budget:
                    edited[wish.group, wish.row] = inject(rollout, (*ids, self.stop_id), finished=True)
            elif ids and len(ids) + 1 <= self.sampling.max_new_tokens + wish.budget:
                empty = Rollout(rollout.prompt_ids, (), finished=False)
                edited[wish.group, wish.row] = inject(empty, (*ids, self.stop_id), finished=True)
        if to_continue:
            continued = self.engine.resume([item for _, item in to_continue], self.sampling)
            edited |= {(w.group, w.row): rollout for (w, _), rollout in zip(to_continue, continued, strict=True)}
        if not edited:
            return groups, len(wishes)
        grades = self.grader([groups[g].problem for g, _ in edited], list(edited.values()))
        strategy = {(wish.group, wish.row): wish.strategy for wish in wishes}
        rows = [list(group.rows) for group in groups]
        for (g, i), grade in zip(edited, grades, strict=True):
            old = rows[g][i]
            rows[g][i] = Row(edited[g, i], grade, strategy[g, i], first=(old.rollout, old.grade))
        corrected = [replace(group, rows=tuple(own)) for group, own in zip(groups, rows, strict=True)]
        return corrected, len(wishes) - len(edited)


def _take(problems: Iterator[Prompted], count: int) -> list[Prompted]:
    taken = [item for _, item in zip(range(count), problems, strict=False)]
    if len(taken) < count:
        raise DataError(f"only {len(taken)} of {count} problems are left")
    return taken


def describe(groups: Sequence[Group], kept: Sequence[Group]) -> Metrics:
    """What was sampled (``groups``), and what corrections and dynamic sampling made of it (``kept``).

    ``accuracy``, ``reward/before``, ``collapse/before*``, ``verdict/*``, lengths and entropy are about the policy's own
    samples; ``reward/after`` and ``collapse/after*`` about what will be trained. Collapse is the share of groups whose
    rewards are all equal, split into all right and all wrong (the rest: equal for another reason).
    """
    rows = [row for group in kept for row in group.rows]
    sampled = [row for group in groups for row in group.rows]
    first = [row.first or (row.rollout, row.grade) for row in sampled]
    corrected = [row for row in rows if row.strategy is not Strategy.NONE]
    spans = [span for rollout, _ in first for span in rollout.spans]
    trained = [segment for row in rows for segment in row.rollout.segments]
    metrics: Metrics = {
        "accuracy": share(grade.correct for _, grade in first if grade.scorable),
        "reward/before": mean_of(grade.reward for _, grade in first if grade.scorable),
        "reward/after": mean_of(row.grade.reward for row in rows if row.grade.scorable),
        "collapse/before": share(group.collapsed_before for group in groups),
        "collapse/after": share(group.collapsed for group in kept),
        "length/sampled": mean_of(len(rollout.completion_ids) for rollout, _ in first),
        "length/unfinished": share(not rollout.finished for rollout, _ in first),
        "entropy/sampling": mean_of(value for span in spans for value in span.entropies),
        "correction/rows": share(row.strategy is not Strategy.NONE for row in rows),
        "correction/injected_tokens": share(segment is Segment.INJECTED for segment in trained),
        "tokens": (
            sum(len(s.token_ids) for s in spans)
            + sum(len(s.token_ids) for row in sampled for s in row.rollout.spans if s.segment is Segment.CONTINUED),
            1.0,
        ),
    }
    for name, right in (("all_wrong", False), ("all_right", True)):
        metrics[f"collapse/before_{name}"] = share(
            group.collapsed_before and _all(group, right, before=True) for group in groups
        )
        metrics[f"collapse/after_{name}"] = share(
            group.collapsed and _all(group, right, before=False) for group in kept
        )
    for verdict in Verdict:
        metrics[f"verdict/{verdict}"] = share(grade.verdict is verdict for _, grade in first)
    for strategy in (Strategy.REFLECT, Strategy.ANSWER, Strategy.REFERENCE):
        chosen = [row for row in corrected if row.strategy is strategy]
        metrics[f"correction/{strategy}"] = (len(chosen), float(len(rows)))
        metrics[f"correction/{strategy}_right"] = share(row.grade.correct for row in chosen)
    return metrics


def _all(group: Group, right: bool, *, before: bool) -> bool:
    grades = [row.first_grade if before else row.grade for row in group.rows]
    return all(grade.correct is right for grade in grades if grade.scorable)
