"""What a step is made of: prompts, completions, rows, updates, micro-batches and tokens, from the settings alone.

What a method adds (variants, revisions, corrections, rows dropped or repeated) is found by asking its own hooks about
made-up groups, from all wrong to all right; what only a run can tell is given as a range.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_grpo.base.records import Grade, Group, Problem, Rollout, Row, Segment, Span, Verdict
from edge_grpo.base.rng import python_random
from edge_grpo.config.tree import Config
from edge_grpo.evaluation.answers import heldout_draws
from edge_grpo.methods.base import Ask, Method, Repair
from edge_grpo.planning.memory import Load
from edge_grpo.training.batching import group_micro_batches, micro_batch_size, micro_batches, mini_batches

__all__ = ["Counts", "Range", "counts_of", "load_of"]


@dataclass(frozen=True)
class Range:
    """From ``low`` to ``high``, both included; a single number where they are equal."""

    low: int
    high: int

    def __str__(self) -> str:
        """As text.

        Example:
            >>> str(Range(64, 64)), str(Range(64, 1024)), str(Range(0, 32))
            ('64', '64 to 1,024', 'up to 32')
        """
        if self.low == self.high:
            return f"{self.low:,}"
        return f"{self.low:,} to {self.high:,}" if self.low else f"up to {self.high:,}"

    def times(self, count: int) -> "Range":
        """As many of it."""
        return Range(self.low * count, self.high * count)


@dataclass(frozen=True)
class Counts:
    """A step's numbers, and a run's.

    ``prompts`` drawn from the data; ``completions`` sampled of them; ``corrected`` completions among these;
    ``revisions`` sampled on top; ``rows`` trained. ``updates`` per step, each of ``micro_batches`` per rank, of
    ``rows_at_once`` rows with ``prompts_at_once`` different prompts. ``tokens``: at most so many are sampled in a step;
    ``trained_tokens``: at most so many completion tokens are trained. ``longest``: tokens of the longest completion,
    corrections included. ``steps`` of the run; ``max_tokens`` may end it after ``steps_at_cap`` of them (0 = it does
    not). ``evaluations``: how often held-out problems are answered, with ``evaluated`` answers each time.
    """

    steps: int
    prompts: Range
    group_size: int
    variants: int
    completions: Range
    corrected: Range
    revisions: Range
    rows: Range
    passes: int
    updates: int
    micro_batches: Range
    rows_at_once: int
    prompts_at_once: int
    tokens: int
    trained_tokens: int
    longest: int
    steps_at_cap: int
    evaluations: int
    evaluated: int


@dataclass(frozen=True)
class _Family:
    """What becomes of one question: corrections, their tokens at most, revisions, and the groups that are trained."""

    corrected: int
    budget: int
    revisions: int
    trained: tuple[Group, ...]

    @property
    def num_rows(self) -> int:
        return sum(len(group.rows) for group in self.trained)


def counts_of(config: Config, *, ranks: int = 1, prompt: int = 1, packed: bool = True) -> Counts:
    """Count a step of a run.

    Args:
        config: the settings.
        ranks: how many processes share the work.
        prompt: tokens of a usual prompt; some methods do not correct after long ones.
        packed: whether the model computes a prompt once for the rows that share it.
    """
    method, rollout, train = config.method, config.rollout, config.train
    needs, groups = method.needs, rollout.prompts_per_step
    stored = bool(config.data.pairs)
    families = [_stored()] if stored else list(_families(method, needs.variants, rollout.group_size, prompt))
    rounds = 0 if stored else needs.top_up.max_rounds
    prompts = Range(groups, groups * (1 + rounds))
    completions = prompts.times(0 if stored else needs.variants * rollout.group_size)
    corrected, revisions, rows = (
        Range(min(each), max(each))
        for each in zip(*((own.corrected, own.revisions, own.num_rows) for own in families), strict=True)
    )
    most = max(families, key=lambda own: own.num_rows)
    pieces = _pieces(config, most, ranks=ranks, packed=packed)
    budget = max(own.budget for own in families)
    tokens = (completions.high + prompts.high * revisions.high) * rollout.max_new_tokens
    tokens += prompts.high * corrected.high * budget
    longest = rollout.max_new_tokens + budget
    every = needs.every_row or needs.whole_groups
    least = min(rows.low * groups if not rounds or needs.top_up.fill else 0, groups * rows.high)
    return Counts(
        steps=train.steps,
        prompts=prompts,
        group_size=2 if stored else rollout.group_size,
        variants=1 if stored else needs.variants,
        completions=completions,
        corrected=Range(0, prompts.high * corrected.high),
        revisions=Range(prompts.low * revisions.low, prompts.high * revisions.high),
        rows=Range(least, groups * rows.high),
        passes=train.passes,
        updates=train.passes * min(train.mini_batches, groups),
        micro_batches=Range(len(pieces) if every and least == groups * rows.high else 0, len(pieces)),
        rows_at_once=max(map(len, pieces), default=0),
        prompts_at_once=max((len(set(piece)) for piece in pieces), default=0),
        tokens=tokens,
        trained_tokens=groups * rows.high * longest,
        longest=longest,
        steps_at_cap=-(-train.max_tokens // tokens) if train.max_tokens and tokens else 0,
        **_evaluations(config),
    )


def load_of(config: Config, counts: Counts, *, ranks: int, prompt: int) -> Load:
    """What passes over the model at once, on the rank with most of it.

    Args:
        config: the settings.
        counts: of a step.
        ranks: how many processes share the work.
        prompt: tokens of the longest prompt.
    """
    rollout, draws = config.rollout, heldout_draws(config)
    drawn = -(-max(counts.completions.low, counts.revisions.low) // ranks)
    held_out = config.eval.num_problems if counts.evaluations else 0
    answers = -(-held_out // ranks) * max(draws.counts.values(), default=0)
    if counts.revisions.high:
        prompt += rollout.max_new_tokens  # a revision's prompt holds the answer
    asked = ((drawn, counts.longest), (answers, draws.max_new_tokens))
    together = [(min(rollout.max_rows, rows), tokens) for rows, tokens in asked]
    decoded, sampled = max(together, key=lambda each: each[0] * (prompt + each[1]))
    return Load(
        rows=counts.rows_at_once,
        prompts=counts.prompts_at_once,
        prompt=prompt,
        completion=counts.longest,
        repeats=counts.micro_batches.high > 1,
        decoded=decoded,
        sampled=sampled,
    )


def _evaluations(config: Config) -> dict[str, int]:
    """How often the held-out problems are answered, and with how many answers."""
    own, steps, data = config.eval, config.train.steps, config.data
    if data.pairs and not (data.path or data.eval_path):
        return {"evaluations": 0, "evaluated": 0}
    during = steps // own.every if own.every else 0
    end = bool(own.at_end and steps and not (own.every and steps % own.every == 0))
    return {
        "evaluations": int(own.at_start) + during + int(end),
        "evaluated": own.num_problems * sum(heldout_draws(config).counts.values()),
    }


# --- a question, as the method sees it --------------------------------------------------------------------------------


def _families(method: Method, variants: int, size: int, prompt: int) -> Iterator[_Family]:
    """One question with none, some, half and all of its answers right."""
    for right in sorted({0, 1, size // 2, size}):
        groups = [_group(size, right, variant, prompt) for variant in range(variants)]
        planned = method.plan(groups, python_random("plan"))
        repairs = [each for each in planned if isinstance(each, Repair)]
        asks = [each for each in planned if isinstance(each, Ask)]
        second = [_group(ask.count, right and 1, groups[ask.group].variant, prompt, parent=ask.row) for ask in asks]
        yield _Family(
            corrected=len(repairs),
            budget=max((each.budget for each in repairs), default=0),
            revisions=sum(ask.count for ask in asks),
            trained=tuple(method.arrange([*groups, *second])),
        )


def _stored() -> _Family:
    """A stored pair."""
    return _Family(0, 0, 0, (_group(2, 1, 0, 1),))


def _group(size: int, right: int, variant: int, prompt: int, *, parent: int | None = None) -> Group:
    """Made-up answers, all of them different; the first ones are right."""
    rows = tuple(
        Row(
            Rollout((0,) * prompt, (Span((number, variant), Segment.SAMPLED, (-1.0, -1.0)),), finished=True),
            Grade(Verdict.CORRECT, 1.0) if number < right else Grade(Verdict.WRONG, 0.0),
            source=variant,
        )
        for number in range(size)
    )
    problem = Problem("", "", ("0",), solution="0")
    return Group(problem, rows, family=0, variant=variant, layer=1 if parent is None else 2, parent=parent)


def _pieces(config: Config, family: _Family, *, ranks: int, packed: bool) -> list[list[int]]:
    """The micro-batches that one rank makes of the largest update of a step, each as the groups of its rows."""
    train, count = config.train, config.rollout.prompts_per_step
    sizes = [len(group.rows) for group in family.trained] * count
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
    owner = torch.arange(count).repeat_interleave(family.num_rows)
    updates = mini_batches(owner, count=train.mini_batches, rng=python_random("plan")) if len(owner) else []
    rows = max(updates, key=len, default=torch.empty(0, dtype=torch.long))
    every = _split(rows, group, config, ranks=ranks, packed=packed) if len(rows) else []
    return [group[piece].tolist() for piece in every[::ranks]]


def _split(rows: Tensor, group: Tensor, config: Config, *, ranks: int, packed: bool) -> Sequence[Tensor]:
    size = micro_batch_size(config.train.micro_batch_rows, len(rows), ranks=ranks)
    lengths = torch.ones_like(group)
    if config.method.needs.whole_groups:
        return group_micro_batches(rows, lengths, group, size=size)
    return micro_batches(rows, lengths, size=size, prompt=group if packed else None)
