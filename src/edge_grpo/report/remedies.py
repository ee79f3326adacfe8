r"""What the usual remedies for dead groups would recover: estimates, each with the assumption it stands on.

They say what would have happened to these rollouts, not how training would then have gone. With :math:`G` groups of
which :math:`L` are live, ``completions`` below is what a live group costs: now :math:`N / L` for :math:`N` completions.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edge_grpo.report.diagnosis import Diagnosis, Group
from edge_grpo.report.groups import Kind

__all__ = [
    "Remedy",
    "beta_prior",
    "dynamic_sampling",
    "guided_correction",
    "larger_groups",
    "partial_rewards",
    "remedies",
    "screening",
]

_LIMIT = 7.0  # natural logarithm of the largest parameter of the prior, and of one over the smallest


@dataclass(frozen=True)
class Remedy:
    """What a remedy would recover.

    ``live`` is the expected share of live groups with it, ``before`` that without it, among the same groups;
    ``revived`` how many dead groups of these rollouts would be live or replaced by live ones; ``completions`` the
    completions that must be sampled per live group. All are None where ``missing`` says why nothing can be said.
    """

    name: str
    reading: Literal["estimate", "upper bound"]
    assumption: str
    before: float | None = None
    live: float | None = None
    revived: float | None = None
    completions: float | None = None
    missing: str = ""

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def remedies(found: Diagnosis) -> list[Remedy]:
    """All of them, in the order in which they are shown."""
    return [
        dynamic_sampling(found),
        larger_groups(found, 2),
        larger_groups(found, 4),
        guided_correction(found),
        partial_rewards(found),
        screening(found),
    ]


def dynamic_sampling(found: Diagnosis) -> Remedy:
    r"""Sampling further prompts until the batch is full of live groups, as DAPO does.

    .. math:: \frac{N}{L} \text{ completions per live group, } \frac{N}{L} - \frac{N}{G} \text{ of them extra}

    Source: Yu et al. 2025, arXiv:2503.14476, section 3.2.
    """
    name = "dynamic sampling (DAPO)"
    assumption = (
        "further prompts are drawn like these and live as often; asking the same prompts again would cost more, "
        "because those that die once die again"
    )
    tally = found.overall
    if not tally.live:
        return Remedy(name, "estimate", assumption, missing="no group is live, so no number of further ones would be")
    return Remedy(
        name,
        "estimate",
        assumption,
        before=tally.live / tally.groups,
        live=1.0,
        revived=float(tally.dead),
        completions=tally.completions / tally.live,
    )


def larger_groups(found: Diagnosis, factor: int) -> Remedy:
    r"""Groups of ``factor`` times as many completions.

    Live groups stay live. A group of :math:`n` completions, all of them wrong, dies again with probability

    .. math:: \frac{B(a, b + \mathit{factor} \cdot n)}{B(a, b + n)}

    where pass rates are distributed as Beta(a, b), fitted to all groups; likewise with a and b exchanged if all are
    right. Pass rates below one in the group size cannot be told from 0, so this prior decides about them.
    """
    name, assumption = (
        f"groups {factor} times as large",
        "pass rates of the prompts follow a beta distribution (fitted to these groups), and only right against wrong "
        "revives a group; too high where part of the prompts cannot be solved at all, too low for graded rewards",
    )
    counts = [(group, _right(group)) for group in found.groups]
    known = [(group, *pair) for group, pair in counts if pair is not None and group.kind is not Kind.UNSCORABLE]
    if not known:
        return Remedy(name, "estimate", assumption, missing="what is right is not known (--correct COLUMN)")
    a, b = beta_prior(Counter((right, scored) for _, right, scored in known))
    revived = 0.0
    for group, _, scored in known:
        if group.kind is Kind.ALL_WRONG:
            revived += 1 - _dies_again(a, b, scored, factor)
        elif group.kind is Kind.ALL_RIGHT:
            revived += 1 - _dies_again(b, a, scored, factor)
    return _revived(found, name, "estimate", assumption, revived, cost=factor)


def guided_correction(found: Diagnosis) -> Remedy:
    """Giving one answer of every group that is all wrong its reference, as EDGE-GRPO's guided error correction does.

    Source: Zhang et al. 2025, arXiv:2507.21848.
    """
    assumption = (
        "every group that is all wrong has a reference answer that grades right when it is injected; the tokens of the "
        "corrections are not counted"
    )
    name, wrong = "guided error correction (EDGE-GRPO)", found.overall.kinds[Kind.ALL_WRONG]
    if not wrong and found.overall.kinds[Kind.EQUAL]:
        return Remedy(name, "upper bound", assumption, missing="what is wrong is not known (--correct COLUMN)")
    return _revived(found, name, "upper bound", assumption, float(wrong))


def partial_rewards(found: Diagnosis) -> Remedy:
    """A reward with degrees, which tells answers that are not right apart."""
    assumption = (
        "the reward tells any two different completions apart; groups that are all wrong or equal count if their "
        "completions are not all the same text"
    )
    name = "partial rewards"
    dead = [group for group in found.groups if group.kind in (Kind.ALL_WRONG, Kind.EQUAL)]
    if any(row.text is None for group in dead for row in group.rows):
        return Remedy(name, "upper bound", assumption, missing="the completions are not known (--completion COLUMN)")
    apart = sum(len({row.text for row in group.rows if row.reward is not None}) > 1 for group in dead)
    return _revived(found, name, "upper bound", assumption, float(apart))


def screening(found: Diagnosis) -> Remedy:
    """Leaving out prompts that have been dead whenever they were seen.

    Judged where it can be: a prompt is left out if all its groups but the last were dead, and the last ones are
    counted.
    """
    name = "leaving out prompts dead so far"
    seen: dict[str, list[Group]] = {}
    for group in found.groups:
        seen.setdefault(group.prompt, []).append(group)
    again = [own for own in seen.values() if len(own) > 1]
    kept = [own[-1] for own in again if not all(group.dead for group in own[:-1])]
    assumption = (
        f"the policy changes little between two groups of a prompt; measured on the last groups of the {len(again):,} "
        "prompts seen more than once, leaving out by the groups before"
    )
    if not again:
        return Remedy(name, "estimate", assumption, missing="no prompt was seen twice; see also `edge-grpo screen`")
    if not kept:
        return Remedy(name, "estimate", assumption, missing="every prompt was dead each time before its last")
    live = sum(not group.dead for group in kept) / len(kept)
    size = sum(len(group.rows) for group in kept) / len(kept)
    before = sum(not own[-1].dead for own in again) / len(again)
    return Remedy(name, "estimate", assumption, before, live, completions=size / live if live else None)


def beta_prior(counts: Mapping[tuple[int, int], int]) -> tuple[float, float]:
    r"""The beta distribution of pass rates under which the counts are likeliest.

    .. math:: \arg\max_{a, b} \sum_{k, n} m_{kn} \log \frac{B(a + k, b + n - k)}{B(a, b)}

    Args:
        counts: how many groups had ``k`` right answers of ``n``, by ``(k, n)``.
    Returns:
        a and b, each between e^-7 and e^7.
    """
    import numpy as np  # noqa: PLC0415 - slow imports, needed here only
    from scipy.optimize import minimize  # noqa: PLC0415
    from scipy.special import betaln  # noqa: PLC0415

    right, scored = np.array(list(counts), dtype=float).T
    times = np.array(list(counts.values()), dtype=float)

    def loss(logs: Any) -> float:
        a, b = np.exp(logs)
        return float(-(times * (betaln(a + right, b + scored - right) - betaln(a, b))).sum() / times.sum())

    best = minimize(loss, [0.0, 0.0], method="Nelder-Mead", bounds=[(-_LIMIT, _LIMIT)] * 2)
    a, b = np.exp(best.x)
    return float(a), float(b)


def _dies_again(a: float, b: float, scored: int, factor: int) -> float:
    """The probability that all further answers are wrong, too, after ``scored`` wrong ones."""
    return math.exp(_betaln(a, b + factor * scored) - _betaln(a, b + scored))


def _betaln(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _right(group: Group) -> tuple[int, int] | None:
    """How many of how many scored completions are right; None if that is not known of all."""
    flags = [row.correct for row in group.rows if row.reward is not None]
    return None if None in flags else (sum(map(bool, flags)), len(flags))


def _revived(
    found: Diagnosis,
    name: str,
    reading: Literal["estimate", "upper bound"],
    assumption: str,
    revived: float,
    *,
    cost: float = 1.0,
) -> Remedy:
    """A remedy that revives some groups and samples ``cost`` times as many completions."""
    tally = found.overall
    live = tally.live + revived
    return Remedy(
        name,
        reading,
        assumption,
        before=tally.live / tally.groups,
        live=live / tally.groups,
        revived=revived,
        completions=cost * tally.completions / live if live else None,
    )
