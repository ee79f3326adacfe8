"""Problems -> groups: sample, grade, correct, top up. The only stage of a step that loops."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from edge_grpo.base.errors import DataError
from edge_grpo.base.metrics import Metrics, mean_of, share
from edge_grpo.base.records import Group, Problem, Prompt, Row, Segment, Strategy, Verdict
from edge_grpo.base.rng import derive_seed, python_random
from edge_grpo.data.pictures import with_sentence
from edge_grpo.data.prompts import draw_variants, phrasings
from edge_grpo.data.transforms import SENTENCES
from edge_grpo.methods.base import Ask, Method, Repair, Skip
from edge_grpo.rollout.engine import Sampling
from edge_grpo.rollout.sampler import Sampler
from edge_grpo.training.corrections import Corrector

__all__ = ["Collected", "Collector", "describe", "epoch", "stream", "take"]

T = TypeVar("T")


@dataclass(frozen=True)
class Collected:
    """The groups of a step, how many prompts they used up, the metrics, and the groups dynamic sampling dropped."""

    groups: tuple[Group, ...]
    num_prompts: int
    metrics: Metrics = field(default_factory=dict)
    dropped: tuple[Group, ...] = ()


def stream(items: Sequence[T], *, seed: int, start: int, weights: Sequence[float] = ()) -> Iterator[T]:
    """Problems or pairs from position ``start``, epoch after epoch, each in an order derived from ``seed``.

    Args:
        items: what to draw from.
        seed: the run's.
        start: how many items were drawn before.
        weights: how often each item is drawn per epoch (see :func:`epoch`); empty = once.
    """
    position = start
    weights = weights or [1.0] * len(items)
    size = len(epoch(weights, seed=seed, number=0))
    while True:
        number, offset = divmod(position, size)
        order = epoch(weights, seed=seed, number=number)
        python_random(seed, "order", number).shuffle(order)
        for index in order[offset:]:
            yield items[index]
            position += 1


def epoch(weights: Sequence[float], *, seed: int, number: int) -> list[int]:
    """The numbers of the items drawn in an epoch, before they are shuffled; every epoch has the same length.

    An item of weight w occurs floor(w) times. Of the items that share a weight, a part w - floor(w) occurs once more:
    the next ones of an order derived from ``seed``, so that all get their turn equally often.

    Example:
        >>> [sorted(epoch([1.0, 1.0, 0.5, 0.5, 2.0], seed=0, number=number)) for number in (0, 1)]
        [[0, 1, 3, 4, 4], [0, 1, 2, 4, 4]]
    """
    drawn = [item for item, weight in enumerate(weights) for _ in range(int(weight))]
    for weight in sorted({weight for weight in weights if weight % 1}):
        alike = [item for item, own in enumerate(weights) if own == weight]
        count = max(1, round(weight % 1 * len(alike)))
        drawn += islice(stream(alike, seed=derive_seed(seed, "extra", repr(weight)), start=number * count), count)
    return drawn


class Collector:
    """Collects the groups of a step as the method asks; keeps no state between steps.

    Args:
        sampler: encodes, samples, continues and grades.
        method: asked for corrections and revisions (``plan``), variants (``needs.variants``) and whether groups are
            useful (for ``needs.top_up``).
        sampling: how to draw.
        group_size: completions per prompt.
        seed: the run's.
    """

    def __init__(self, sampler: Sampler, method: Method, *, sampling: Sampling, group_size: int, seed: int) -> None:
        self.sampler, self.method = sampler, method
        self.sampling, self.group_size, self.seed = sampling, group_size, seed
        self.corrector = Corrector(sampler, sampling, seed)

    def collect(self, problems: Iterator[Prompt], *, step: int, num_groups: int) -> Collected:
        """The groups of one step.

        Args:
            problems: where prompts come from; only those used are consumed.
            step: the step's number; with the run's seed it determines every draw.
            num_groups: how many questions to collect, with one group each or a family of groups.
        Returns:
            groups of ``num_groups`` questions, or fewer if dynamic sampling ends without enough useful ones and does
            not fill up. A question is useful if all its answers together are, or the revisions of any one of them.
        """
        top_up = self.method.needs.top_up
        families, counts = self._round(take(problems, num_groups), step, 0, 0)
        asked, in_first = num_groups, _num_rows(families)
        for number in range(1, top_up.max_rounds + 1):
            useful = sum(map(self._useful, families))
            if useful >= top_up.min_share * num_groups:
                break
            missing = num_groups - useful
            more, more_counts = self._round(take(problems, missing), step, number, asked)
            families, asked = families + more, asked + missing
            counts.update(more_counts)
        sampled = [group for family in families for group in family]
        metrics: Metrics = {name: (counts[name], 1.0) for name in sorted({"correction/skipped", *counts})}
        if top_up.max_rounds == 0:
            return Collected(tuple(sampled), asked, self._described(sampled, sampled) | metrics)
        ranked = sorted(families, key=lambda family: not self._useful(family))  # stable: useful ones first
        chosen = [family for family in ranked[:num_groups] if top_up.fill or self._useful(family)]
        kept = [group for family in chosen for group in family]
        dropped = tuple(group for family in ranked[len(chosen) :] for group in family)
        metrics |= {
            "dynamic/prompts": (asked, 1.0),
            "dynamic/extra_completions": (_num_rows(families) - in_first, 1.0),
            "dynamic/useful": share(map(self._useful, families)),
        }
        return Collected(tuple(kept), asked, self._described(sampled, kept) | metrics, dropped)

    def _described(self, sampled: Sequence[Group], kept: Sequence[Group]) -> Metrics:
        return describe(sampled, kept, compared=self.method.compared)

    def _useful(self, family: Sequence[Group]) -> bool:
        answers = [row for group in family if group.layer == 1 for row in group.rows]
        revisions = [group for group in family if group.layer == 2]
        return any(map(self.method.useful, (replace(family[0], rows=tuple(answers)), *revisions)))

    def _round(
        self, prompted: list[Prompt], step: int, number: int, asked: int
    ) -> tuple[list[list[Group]], Counter[str]]:
        """Sample and grade one group per prompt, then carry out the method's plan; counts rows it could not correct.

        Families are numbered from ``asked``, the number of questions already asked in this step.
        """
        counts: Counter[str] = Counter()
        if self.method.needs.transform_share and any(item.problem.images for item in prompted):
            counts.update(dict.fromkeys(("variants/transformed", "variants/too_long"), 0))
        drawn = [
            (family, *each)
            for family, item in enumerate(prompted, asked)
            for each in enumerate(self._phrasings(item, (step, number, family), counts))
        ]
        seeds = [
            derive_seed(self.seed, "sample", step, number, family - asked, variant * self.group_size + j)
            for family, variant, _ in drawn
            for j in range(self.group_size)
        ]
        shares = [tuple(seeds[i * self.group_size :][: self.group_size]) for i in range(len(drawn))]
        sampled = self.sampler.sample([item for *_, item in drawn], shares, self.sampling)
        groups = [
            Group(item.problem, tuple(replace(row, source=variant) for row in rows), family=family, variant=variant)
            for (family, variant, item), rows in zip(drawn, sampled, strict=True)
        ]
        rng = python_random(self.seed, "correct", step, number)
        skipped: dict[tuple[int, int], str] = {}  # the last reason, by group and row
        done = 0
        while planned := self.method.plan(groups, rng):
            repairs = [each for each in planned if isinstance(each, Repair)]
            asks = [each for each in planned if isinstance(each, Ask)]
            path = (step, number, done)
            with self.sampler.watch.phase("correct"):
                corrected = self.corrector.correct(groups, repairs, path)
            revisions = self._revise(groups, asks, path)
            groups = corrected.groups + revisions
            skipped |= {(each.group, each.row): each.reason for each in planned if isinstance(each, Skip)}
            skipped |= corrected.skipped
            if corrected.num_fallbacks:
                counts["correction/fallback"] += corrected.num_fallbacks
            if asks:
                counts["revision/skipped"] += len(asks) - len(revisions)
            done += 1
            if corrected.num_rows + len(revisions) == 0:
                break
        left = [reason for (g, i), reason in skipped.items() if groups[g].rows[i].strategy is Strategy.NONE]
        counts.update(f"correction/skipped_{reason}" for reason in left)
        counts["correction/skipped"] = len(left)
        families: dict[int, list[Group]] = {}
        for group in groups:
            assert group.family is not None, "numbered above"
            families.setdefault(group.family, []).append(group)
        return list(families.values()), counts

    def _phrasings(self, item: Prompt, path: tuple[int, int, int], counts: Counter[str]) -> list[Prompt]:
        """The prompts to sample from: the question itself, or as many variants as the method wants, drawn at random."""
        problem, count = item.problem, self.method.needs.variants
        rng = python_random(self.seed, "variants", *path)
        if problem.images and (count > 1 or self.method.needs.transform_share):
            texts = draw_variants(problem, phrasings(problem), count, rng) if count > 1 else [problem.prompt]
            return [self._shown(replace(problem, prompt=text), rng, counts) for text in texts]
        if count == 1:
            return [item]
        forms = zip(phrasings(problem), (item.prompt_ids, *item.variant_ids), strict=True)
        drawn = draw_variants(problem, list(forms), count, rng)
        return [Prompt(replace(problem, prompt=text), ids) for text, ids in drawn]

    def _shown(self, problem: Problem, rng: random.Random, counts: Counter[str]) -> Prompt:
        """A variant of a problem with images, which it may show by a transform; one that gets too long does not."""
        needs = self.method.needs
        if rng.random() < needs.transform_share:
            name, seed = rng.choice(needs.transforms), rng.getrandbits(48)
            images = tuple(replace(each, transform=name, seed=seed + i) for i, each in enumerate(problem.images))
            asked = with_sentence(problem.prompt, SENTENCES[name])
            prompt = self.sampler.encode_one(replace(problem, prompt=asked, images=images))
            if self.sampler.fits(prompt, self.sampling.max_new_tokens):
                counts["variants/transformed"] += 1
                return prompt
            counts["variants/too_long"] += 1
        return self.sampler.encode_one(problem)

    def _revise(self, groups: Sequence[Group], asks: Sequence[Ask], path: tuple[int, int, int]) -> list[Group]:
        """Sample the requested revisions, one layer-2 group per answer; over-long prompts are skipped."""
        fitting: list[tuple[Ask, Prompt]] = []
        for ask in asks:
            group = groups[ask.group]
            rollout = group.rows[ask.row].rollout
            ids = (*rollout.prompt_ids, *rollout.answer_ids, *self.sampler.encode_follow_up(ask.phrase))
            if self.sampler.context is None or len(ids) + self.sampling.max_new_tokens <= self.sampler.context:
                fitting.append((ask, Prompt(group.problem, ids, scene=rollout.scene)))
        if not fitting:
            return []
        seeds = [
            tuple(derive_seed(self.seed, "revise", *path, ask.group, ask.row, j) for j in range(ask.count))
            for ask, _ in fitting
        ]
        sampled = self.sampler.sample([item for _, item in fitting], seeds, self.sampling)
        return [
            replace(groups[ask.group], rows=rows, layer=2, parent=ask.row)
            for (ask, _), rows in zip(fitting, sampled, strict=True)
        ]


def _num_rows(families: Sequence[Sequence[Group]]) -> int:
    return sum(len(group.rows) for family in families for group in family)


def take(items: Iterator[T], count: int) -> list[T]:
    """The next ``count`` items.

    Raises:
        DataError: there are fewer.
    """
    taken = [item for _, item in zip(range(count), items, strict=False)]
    if len(taken) < count:
        raise DataError(f"only {len(taken)} of {count} problems are left")
    return taken


def describe(
    groups: Sequence[Group], kept: Sequence[Group], *, compared: Callable[[Group], Group] = lambda group: group
) -> Metrics:
    """Metrics of what was sampled (``groups``) and of what corrections and dynamic sampling left (``kept``).

    ``accuracy``, ``reward/before``, ``reward/part/*``, ``collapse/before*``, ``verdict/*``, lengths and entropy
    describe the policy's own samples; ``reward/after`` and ``collapse/after*`` describe the result of corrections and
    dynamic sampling, before the method arranges it for training, the latter by the rewards that the method compares
    (``compared``). Revisions (layer 2) only count in ``tokens``. Collapse is the share of groups whose rewards are all
    equal, split into all right and all wrong (the rest: equal for another reason).
    """
    everything = [row for group in groups for row in group.rows]
    groups, kept = ([group for group in some if group.layer == 1] for some in (groups, kept))
    rows = [row for group in kept for row in group.rows]
    sampled = [row for group in groups for row in group.rows]
    first = [row.first or (row.rollout, row.grade) for row in sampled]
    corrected = [row for row in rows if row.strategy is not Strategy.NONE]
    spans = [span for rollout, _ in first for span in rollout.spans]
    trained = [segment for row in rows for segment in row.rollout.segments]
    seen = [compared(group) for group in kept]
    parts = [grade.parts for _, grade in first if grade.scorable]
    metrics: Metrics = {
        "accuracy": share(grade.correct for _, grade in first if grade.scorable),
        "reward/before": mean_of(grade.reward for _, grade in first if grade.scorable),
        "reward/after": mean_of(row.grade.reward for row in rows if row.grade.scorable),
        "collapse/before": share(group.collapsed_before for group in groups),
        "collapse/after": share(group.collapsed for group in seen),
        "length/sampled": mean_of(len(rollout.completion_ids) for rollout, _ in first),
        "length/unfinished": share(not rollout.finished for rollout, _ in first),
        "entropy/sampling": mean_of(value for span in spans for value in span.entropies),
        "correction/rows": share(row.strategy is not Strategy.NONE for row in rows),
        "correction/injected_tokens": share(segment is Segment.INJECTED for segment in trained),
        "tokens": (sum(map(_num_sampled, everything)), 1.0),
    }
    for name, right in (("all_wrong", False), ("all_right", True)):
        metrics[f"collapse/before_{name}"] = share(
            group.collapsed_before and _all(group, right, before=True) for group in groups
        )
        metrics[f"collapse/after_{name}"] = share(
            group.collapsed and _all(group, right, before=False) for group in seen
        )
    for name in dict.fromkeys(name for own in parts for name in own):
        metrics[f"reward/part/{name}"] = mean_of(own[name] for own in parts if name in own)
    for verdict in Verdict:
        metrics[f"verdict/{verdict}"] = share(grade.verdict is verdict for _, grade in first)
    for strategy in (Strategy.REFLECT, Strategy.ANSWER, Strategy.REFERENCE):
        chosen = [row for row in corrected if row.strategy is strategy]
        metrics[f"correction/{strategy}"] = (len(chosen), float(len(rows)))
        metrics[f"correction/{strategy}_right"] = share(row.grade.correct for row in chosen)
    return metrics


def _num_sampled(row: Row) -> int:
    """Tokens that the policy sampled for a row, including those that a correction replaced."""
    first = row.first[0] if row.first else row.rollout
    continued = [span for span in row.rollout.spans if row.first and span.segment is Segment.CONTINUED]
    return sum(len(span.token_ids) for span in (*first.spans, *continued))


def _all(group: Group, right: bool, *, before: bool) -> bool:
    grades = [row.first_grade if before else row.grade for row in group.rows]
    return all(grade.correct is right for grade in grades if grade.scorable)
