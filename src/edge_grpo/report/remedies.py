r"""What the usual remedies for dead groups would recover: estimates, each with the assumption it stands on.

They say what would have happened to these rollouts, not how training would then have gone. With :math:`G` groups of
which :math:`L` are live, ``completions`` below is what a live group costs: now :math:`N / L` for :math:`N` completions.
"""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from edge_grpo.report.diagnosis import Diagnosis, Group
from edge_grpo.report.groups import DEAD, Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "PassRates",
    "Remedy",
    "dynamic_sampling",
    "fitted",
    "guided_correction",
    "larger_groups",
    "partial_rewards",
    "remedies",
    "screening",
]

_LOG_ODDS, _GRID, _ROUNDS = 7.0, 141, 1000  # of the pass rates of the prior: range, number, and rounds of fitting
_RESAMPLES = 100
_TINY = 1e-300  # instead of 0, for cells that a resample has none of


@dataclass(frozen=True)
class Remedy:
    """What a remedy would recover.

    ``live`` is the expected share of live groups with it, ``before`` that without it, among the same groups; where it
    is extrapolated, ``low`` and ``high`` are the ends of its 95% interval, over which groups there happened to be.
    ``revived`` how many dead groups of these rollouts would be live or replaced by live ones; ``completions`` the
    completions that must be sampled per live group. All are None where ``missing`` says why nothing can be said.
    """

    name: str
    reading: Literal["estimate", "upper bound"]
    assumption: str
    before: float | None = None
    live: float | None = None
    low: float | None = None
    high: float | None = None
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

    .. math:: \frac{\sum_p w_p (1 - p)^{\mathit{factor} \cdot n}}{\sum_p w_p (1 - p)^n}

    where :math:`w_p` is the share of prompts with pass rate :math:`p`, fitted to all groups; likewise with :math:`p`
    for :math:`1 - p` if all are right.
    """
    name, assumption = (
        f"groups {factor} times as large",
        "pass rates are distributed as is likeliest given these groups, and only right against wrong revives a group; "
        "with few completions a group, small pass rates are taken for none, and the estimate is too low",
    )
    import numpy as np  # noqa: PLC0415 - slow imports, needed here only

    told = [(group, _right(group)) for group in found.groups if group.kind is not Kind.UNSCORABLE]
    cells = Counter((group.kind, *pair) for group, pair in told if pair is not None)
    if not cells:
        return Remedy(name, "estimate", assumption, missing="what is right is not known (--correct COLUMN)")
    fit = fitted(tuple((right, scored) for _, right, scored in cells), tuple(cells.values()), _RESAMPLES)
    alive = np.stack([_alive(fit, kind, scored, factor) for kind, _, scored in cells])
    known = cells.total()
    others = sum(not group.dead for group, pair in told if pair is None)
    live = (fit.weights * alive.T).sum(1) * known + others
    low, high = np.quantile(live[1:], (0.025, 0.975)) / found.overall.groups
    revived = float(live[0]) - found.overall.live
    estimate = _revived(found, name, "estimate", assumption, revived, cost=factor)
    return replace(estimate, low=float(low), high=float(high))


def guided_correction(found: Diagnosis) -> Remedy:
    """Giving one answer of every group that is all wrong its reference, as EDGE-GRPO's guided error correction does.

    Source: Zhang et al. 2025, arXiv:2507.21848.
    """
    assumption = (
        "every group that is all wrong has a reference answer that grades right when it is injected; the tokens of the "
        "corrections are not counted"
    )
    name, wrong = "guided correction (EDGE)", found.overall.kinds[Kind.ALL_WRONG]
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
    name = "leaving out dead prompts"
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


@dataclass(frozen=True)
class PassRates:
    """Distributions of pass rates: ``shares[i]`` of the ``rates``, fitted to cells of groups by ``weights[i]``.

    The first is that of the groups as they are, the others those of groups drawn from them with replacement.
    """

    rates: "NDArray[np.float64]"
    shares: "NDArray[np.float64]"
    weights: "NDArray[np.float64]"


@lru_cache(maxsize=1)  # every factor asks for the same
def fitted(cells: tuple[tuple[int, int], ...], times: tuple[int, ...], resamples: int = 0) -> PassRates:
    r"""The distribution of pass rates, of whatever shape, under which the counts are likeliest.

    .. math:: \arg\max_w \sum_i m_i \log \sum_p w_p \, p^{k_i} (1 - p)^{n_i - k_i}

    over rates that are 0, 1, or evenly spaced in log-odds between -7 and 7, by expectation maximisation from equal
    shares. (A beta distribution that is wide enough for a few easy prompts puts the hard ones near 0.)

    Args:
        cells: ``k`` right answers of ``n``.
        times: how many groups had them.
        resamples: how many further distributions to fit, to groups drawn with replacement from these.
    Source:
        Laird 1978, Nonparametric maximum likelihood estimation of a mixing distribution, JASA 73; Efron 1979, Bootstrap
        methods, Annals of Statistics 7.
    """
    import numpy as np  # noqa: PLC0415
    from scipy.special import xlog1py, xlogy  # noqa: PLC0415

    right, scored = np.array(cells, dtype=float).T[..., None]
    own = np.array(times) / sum(times)
    rates = np.concatenate([[0.0], 1 / (1 + np.exp(-np.linspace(-_LOG_ODDS, _LOG_ODDS, _GRID))), [1.0]])
    logs = xlogy(right, rates) + xlog1py(scored - right, -rates)
    likelihood = np.exp(logs - logs.max(1, keepdims=True))  # large groups would underflow
    drawn = np.random.default_rng(0).multinomial(sum(times), own, size=resamples)
    weights = np.concatenate([own[None], drawn / sum(times)])
    shares = np.full((len(weights), len(rates)), 1 / len(rates))
    for _ in range(_ROUNDS):
        shares = shares * ((weights / np.maximum(shares @ likelihood.T, _TINY)) @ likelihood)
    return PassRates(rates, shares, weights)


def _alive(fit: PassRates, kind: Kind, scored: int, factor: int) -> "NDArray[np.float64]":
    """Under each distribution, the probability that a group is live once it is ``factor`` times as large."""
    import numpy as np  # noqa: PLC0415

    if kind not in (Kind.ALL_WRONG, Kind.ALL_RIGHT):
        return np.full(len(fit.shares), float(kind not in DEAD))
    same = fit.rates if kind is Kind.ALL_RIGHT else 1 - fit.rates
    dies: NDArray[np.float64] = fit.shares @ same ** (factor * scored) / np.maximum(fit.shares @ same**scored, _TINY)
    return 1 - dies


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
