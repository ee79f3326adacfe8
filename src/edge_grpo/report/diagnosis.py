"""What is wrong with the groups of a run: which are dead and why, per step and overall, and what that cost.

A group is dead if its rewards are all equal or fewer than two of its completions could be scored: every advantage is
then zero, and it adds nothing to the gradient. The loss does not show it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import pairwise
from operator import add
from typing import Any, Final, Literal

from edge_grpo.base.errors import DataError
from edge_grpo.report.groups import DEAD, Kind, kind_of, near_bound
from edge_grpo.report.sources import Completion, Rollouts

__all__ = ["DeadPrompt", "Diagnosis", "Group", "Span", "Tally", "Unit", "diagnose", "grouped", "in_ranges", "plain"]

Unit = Literal["tokens", "characters", "completions"]
"""What the cost of completions is counted in: tokens where all are known, else characters, else completions."""

MAX_SPANS: Final = 20
"""A longer run is shown in so many ranges of steps."""


@dataclass(frozen=True)
class Group:
    """The completions of one group and what kind it is."""

    step: int | None
    prompt: str
    rows: Sequence[Completion]
    kind: Kind

    @property
    def dead(self) -> bool:
        """Whether all its advantages are zero."""
        return self.kind in DEAD


@dataclass(frozen=True)
class Tally:
    """Counts over some groups.

    ``effective`` are the completions of groups that are not dead, those whose own reward is missing left out: the
    completions that the gradient sees. ``cost`` is what all completions cost, in the diagnosis's unit; ``wasted`` what
    those of dead groups did.
    """

    kinds: Mapping[Kind, int]
    completions: int
    effective: int
    cost: int
    wasted: int

    @property
    def groups(self) -> int:
        """How many groups."""
        return sum(self.kinds.values())

    @property
    def dead(self) -> int:
        """How many of them are dead."""
        return sum(self.kinds[kind] for kind in DEAD)

    @property
    def live(self) -> int:
        """How many are not."""
        return self.groups - self.dead

    def share(self, kind: Kind) -> float:
        """The share of groups of a kind."""
        return self.kinds[kind] / self.groups if self.groups else math.nan

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            {kind: self.kinds[kind] + other.kinds[kind] for kind in Kind},
            self.completions + other.completions,
            self.effective + other.effective,
            self.cost + other.cost,
            self.wasted + other.wasted,
        )


@dataclass(frozen=True)
class Span:
    """The groups of steps ``first`` to ``last``; None = the files name no steps."""

    first: int | None
    last: int | None
    tally: Tally

    def __str__(self) -> str:
        if self.first is None:
            return "all"
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True)
class DeadPrompt:
    """A prompt of which every group was dead: how many there were, and of which kinds."""

    prompt: str
    times: int
    completions: int
    kinds: Mapping[Kind, int]


@dataclass(frozen=True)
class Diagnosis:
    """What the rollouts say.

    ``spans`` has one for each of the ``steps``; see :func:`in_ranges`. ``always_dead`` holds every such prompt, those
    seen most often first, of ``prompts`` in all. ``singles`` are groups of one completion, which are counted nowhere
    else. ``group_sizes`` says how many groups have which size.
    """

    rollouts: Rollouts
    notes: Sequence[str]
    unit: Unit
    steps: int
    spans: Sequence[Span]
    overall: Tally
    prompts: int
    always_dead: Sequence[DeadPrompt]
    singles: int
    groups: Sequence[Group]

    @cached_property
    def group_sizes(self) -> Counter[int]:
        """How many groups have which number of completions."""
        return Counter(len(group.rows) for group in self.groups)

    @property
    def size(self) -> int:
        """The most frequent size of a group."""
        return max(self.group_sizes, key=lambda size: (self.group_sizes[size], size))

    @property
    def size_range(self) -> str:
        """The size of a group in words: one number if it is that of all."""
        sizes = self.group_sizes
        return str(self.size) if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}, mostly {self.size}"


def diagnose(rollouts: Rollouts) -> Diagnosis:
    """The diagnosis of some rollouts.

    Raises:
        DataError: no group has two completions.
    """
    known, inferred = _with_correctness(rollouts.completions)
    groups, singles = grouped(known)
    if not groups:
        raise DataError(
            f"all {singles:,} groups have one completion, so there is nothing to compare; name what groups them: "
            "--group COLUMN or --prompt COLUMN"
        )
    notes = [*rollouts.notes, *([inferred] if inferred else [])]
    if singles:
        notes.append(
            f"groups of one completion left out: {singles:,}; if that is unexpected, the grouping is wrong: name "
            "it with --group COLUMN or --prompt COLUMN"
        )
    unit = _unit(groups)
    by_step: dict[int | None, list[Group]] = {}
    for group in groups:
        by_step.setdefault(group.step, []).append(group)
    found = Diagnosis(
        replace(rollouts, completions=()),
        notes,
        unit,
        len(by_step),
        [
            Span(step, step, _tally(by_step[step], unit))
            for step in sorted(by_step, key=lambda step: -1 if step is None else step)
        ],
        _tally(groups, unit),
        len({group.prompt for group in groups}),
        _always_dead(groups),
        singles,
        groups,
    )
    return replace(found, notes=[*notes, *_odd_sizes(found)])


def grouped(completions: Iterable[Completion]) -> tuple[list[Group], int]:
    """The groups of two and more completions, and how many have one."""
    rows: dict[int, list[Completion]] = {}
    for one in completions:
        rows.setdefault(one.group, []).append(one)
    near = near_bound(one.reward for own in rows.values() for one in own if one.reward is not None)
    groups = [
        Group(own[0].step, own[0].prompt, own, kind_of([c.reward for c in own], [c.correct for c in own], near=near))
        for own in rows.values()
        if len(own) > 1
    ]
    return groups, len(rows) - len(groups)


def _with_correctness(completions: Sequence[Completion]) -> tuple[Sequence[Completion], str]:
    """Completions whose correctness is taken from the reward, if nothing else says it.

    Of two rewards, the higher one is right; where every reward is 0, every answer is wrong.

    Returns:
        them, and a sentence for the reader; empty if correctness is known.
    """
    if any(one.correct is not None for one in completions):
        return completions, ""
    values: set[float] = set()
    for one in completions:
        if one.reward is not None:
            values.add(one.reward)
            if len(values) > 2:
                break
    if values == {0.0}:
        told = "every reward is 0, which is taken for wrong (--correct COLUMN)"
        return [one if one.reward is None else one._replace(correct=False) for one in completions], told
    if len(values) != 2:
        return completions, "what is right is not known (--correct COLUMN), so dead groups are 'equal'"
    low, high = sorted(values)
    told = f"the rewards are {low:g} or {high:g}: {high:g} is taken for right, {low:g} for wrong (--correct COLUMN)"
    return [one if one.reward is None else one._replace(correct=one.reward == high) for one in completions], told


def _unit(groups: Sequence[Group]) -> Unit:
    rows = [row for group in groups for row in group.rows]
    if all(row.tokens is not None for row in rows):
        return "tokens"
    return "characters" if all(row.characters is not None for row in rows) else "completions"


def _cost(row: Completion, unit: Unit) -> int:
    return 1 if unit == "completions" else (row.tokens if unit == "tokens" else row.characters) or 0


def _tally(groups: Sequence[Group], unit: Unit) -> Tally:
    counts = Counter(group.kind for group in groups)
    completions = effective = cost = wasted = 0
    for group in groups:
        own = sum(_cost(row, unit) for row in group.rows)
        completions, cost = completions + len(group.rows), cost + own
        if group.dead:
            wasted += own
        else:
            effective += sum(row.reward is not None for row in group.rows)
    return Tally({kind: counts[kind] for kind in Kind}, completions, effective, cost, wasted)


def in_ranges(spans: Sequence[Span], most: int = MAX_SPANS) -> list[Span]:
    """Spans joined into at most ``most`` ranges of about as many steps each; as they are if there are no more."""
    count = min(len(spans), most)
    cuts = [i * len(spans) // count for i in range(count + 1)] if count else []
    own = [spans[start:end] for start, end in pairwise(cuts)]
    return [Span(part[0].first, part[-1].last, reduce(add, (span.tally for span in part))) for part in own]


def _always_dead(groups: Sequence[Group]) -> list[DeadPrompt]:
    live = {group.prompt for group in groups if not group.dead}
    seen: dict[str, list[Group]] = {}
    for group in groups:
        if group.prompt not in live:
            seen.setdefault(group.prompt, []).append(group)
    found = [
        DeadPrompt(prompt, len(own), sum(len(group.rows) for group in own), Counter(group.kind for group in own))
        for prompt, own in seen.items()
    ]
    return sorted(found, key=lambda one: (-one.times, -one.completions))


def _odd_sizes(found: Diagnosis) -> list[str]:
    """Groups larger than usual may be several groups of one prompt."""
    large = sum(count for size, count in found.group_sizes.items() if size > found.size)
    small = sum(count for size, count in found.group_sizes.items() if size < found.size)
    told = []
    if large:
        told.append(
            f"groups with more than the usual {found.size} completions: {large:,}, perhaps several groups of one "
            "prompt; --group-size N or --group COLUMN tells them apart"
        )
    if small:
        told.append(f"groups with fewer than the usual {found.size} completions: {small:,}")
    return told


def plain(found: Diagnosis, remedies: Sequence[Any], prompts: int) -> dict[str, Any]:
    """The diagnosis as plain data for JSON; at most ``prompts`` always-dead prompts."""
    return {
        "format": found.rollouts.name,
        "files": found.rollouts.files,
        "columns": [one._asdict() for one in found.rollouts.columns],
        "notes": list(found.notes),
        "unit": found.unit,
        "group_sizes": {str(size): count for size, count in sorted(found.group_sizes.items())},
        "single_completions": found.singles,
        "overall": _counts(found.overall),
        "steps": [{"first": s.first, "last": s.last, **_counts(s.tally)} for s in found.spans],
        "prompts": found.prompts,
        "always_dead": {
            "count": len(found.always_dead),
            "first": [
                {
                    "prompt": one.prompt,
                    "times": one.times,
                    "completions": one.completions,
                    "kinds": {str(kind): count for kind, count in one.kinds.items()},
                }
                for one in found.always_dead[:prompts]
            ],
        },
        "remedies": [one.as_json() for one in remedies],
    }


def _counts(tally: Tally) -> dict[str, Any]:
    return {
        "groups": tally.groups,
        "dead": tally.dead,
        "kinds": {str(kind): count for kind, count in tally.kinds.items()},
        "completions": tally.completions,
        "effective": tally.effective,
        "cost": tally.cost,
        "wasted": tally.wasted,
    }
