"""The page of benchmarks/decomposed_gp.py: its draws in tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from edge_grpo.evaluation.intervals import bootstrap, t_interval, wilson
from gp import synthetic

Values = Mapping[str, float]
Rows = Mapping[tuple[str, str, float | None], Sequence[Values]]
Gains = Mapping[tuple[str, float | None], Sequence[float]]
SCALES = (5.0, 1.0)  # divisors of beta
SAME = 1e-9  # errors that differ by less count as equal
EXACT = 1e-12
FEW = 10  # up to this many repeats, Student's interval
PAIRED = ("draws", "D-GPUCB", "GP-UCB", "difference", "draws better")


def page(rows: Rows, used: Iterable[str], timing: Iterable[str], gains: Gains) -> str:
    """The whole page.

    Args:
        rows: the draws.
        used: the section on real use.
        timing: the section on time.
        gains: paired differences in real use, above 0 where the parts help, by measure and divisor of beta.
    """
    sections = (_variance(rows), _errors(rows), _regrets(rows), _social(rows), used, timing)
    return "\n".join(line for part in (_head(), _summary(rows, gains), *sections) for line in part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table after a blank line."""
    yield from ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _head() -> Iterator[str]:
    yield """# Decomposed Gaussian processes: the benefit of seeing the parts

Written by `benchmarks/decomposed_gp.py` (`make tune-evidence`), including every number.
The models are described in [the method](../methods/decomposed_gp.md). Every draw is seeded and paired: both models
see the same function, first point and noise. Intervals are 95 %: the bootstrap over draws, Wilson's for
shares. Neither arm was tuned; $\\delta = 0.05$, $\\beta$ over the finite set of candidates."""


def _summary(rows: Rows, used: Gains) -> Iterator[str]:
    """The findings, worded according to the draws."""
    least = min(
        one[f"least_{count}"] for case in synthetic.CASES for one in _of(rows, case) for count in synthetic.COUNTS
    )
    held = (
        "in no draw is it larger with the parts, at any point" if least >= -EXACT else "**it is larger in some draw**"
    )
    yield f"""
## Findings

- Variance: {held} (smallest difference {least:.1e})."""
    for case in synthetic.CASES:
        means = [_reduction(_of(rows, case), count)[0] for count in synthetic.COUNTS]
        low, high = (signed(end, 1).removeprefix("+") for end in (min(means), max(means)))
        yield f"- Error, {case}: reduced by {low} to {high} % with the parts."
    yield """
Searching with the parts against searching with the sum, by the measures of the tables below (*better* and *worse*: the
interval excludes 0; not corrected for multiple comparisons). With the theory's beta (/ 1) no gain was expected."""
    found = {**_comparisons(rows), **used}
    labels = dict.fromkeys(label for label, _ in found)
    verdicts = ([label, *(_verdict(found.get((label, scale))) for scale in SCALES)] for label in labels)
    yield from table(["with the parts", *(f"beta / {scale:g}" for scale in SCALES)], verdicts)


def _comparisons(rows: Rows) -> dict[tuple[str, float | None], list[float]]:
    """Paired differences of regret, by measure and divisor of beta."""
    arms = {
        "regret": {"regret": ("parts", "sum")},
        "epidemic": {"against the sum of kernels": ("parts", "sum"), "against its own kernel": ("parts", "own")},
        "weather": {"delta method": ("delta", "sum"), "safe width": ("safe", "sum")},
    }
    return {
        (f"{name if name == 'epidemic' else case}, {text}", scale): [one[coarse] - one[fine] for one in draws]
        for (name, case, scale), draws in rows.items()
        if name in arms
        for text, (fine, coarse) in arms[name].items()
    }


def _verdict(gains: Sequence[float] | None) -> str:
    if gains is None:
        return "-"
    low, high = t_interval(gains)[1:] if len(gains) <= FEW else bootstrap(gains)
    return "**better**" if low > SAME else "**worse**" if high < -SAME else "no difference shown"


def _of(rows: Rows, case: str) -> Sequence[Values]:
    return rows["regression", case, None]


def _reduction(draws: Sequence[Values], count: int) -> tuple[float, float, float]:
    """By how many percent the parts lower the error, with its interval."""
    gains = [one[f"sum_{count}"] - one[f"parts_{count}"] for one in draws]
    whole = sum(one[f"sum_{count}"] for one in draws) / len(gains)
    mean, low, high = (100 * one / whole for one in (sum(gains) / len(gains), *bootstrap(gains)))
    return mean, low, high


def _variance(rows: Rows) -> Iterator[str]:
    yield f"""
## Variance

On a grid of 200 points, noise 0.01, after 3, 5, 10, 20 and 40 observations of
every draw: the variance given the sum minus that given the parts, at every point. It must never fall below
-{EXACT:g}, and for proportional or identical parts it must be 0."""

    def cells(case: str) -> list[str]:
        draws = _of(rows, case)
        least, most, apart = (
            choose(one[f"{name}_{count}"] for one in draws for count in synthetic.COUNTS)
            for choose, name in ((min, "least"), (max, "most"), (max, "mean"))
        )
        held = "none" if least >= -EXACT else "**some**"
        return [case, str(len(draws)), f"{least:.1e}", f"{most:.1e}", held, f"{apart:.1e}"]

    head = ["parts", "draws", "smallest", "largest", "points below -1e-12 in any draw", "means differ by at most"]
    yield from table(head, map(cells, synthetic.CASES))
    yield ""
    yield from (f"- **{case}**: {text}." for case, text in synthetic.CASES.items())


def _errors(rows: Rows) -> Iterator[str]:
    yield """
## Error of the whole

Root mean squared error on the grid: the mean over draws given the sum and given the parts, the
reduction (mean paired difference over the former mean), and the share of draws in which the parts
do better (differences below 1e-9 count as equal)."""

    def cells(draws: Sequence[Values], case: str, count: int) -> list[str]:
        gains = [one[f"sum_{count}"] - one[f"parts_{count}"] for one in draws]
        whole = sum(one[f"sum_{count}"] for one in draws) / len(draws)
        better, equal = sum(g > SAME for g in gains), sum(abs(g) <= SAME for g in gains)
        mean, low, high = _reduction(draws, count)
        share = " to ".join(f"{100 * end:.0f}" for end in wilson(better, len(draws)))
        return [
            case,
            str(count),
            f"{whole:.3f}",
            f"{whole * (1 - mean / 100):.3f}",
            f"{signed(mean, 1)} % ({signed(low, 1)} to {signed(high, 1)})",
            f"{100 * better / len(draws):.0f} % ({share})",
            f"{equal} of {len(draws)}",
        ]

    head = ["parts", "observations", "with the sum", "with the parts", "reduction", "draws better", "draws equal"]
    yield from table(
        head, (cells(_of(rows, case), case, count) for case in synthetic.CASES for count in synthetic.COUNTS)
    )
    yield """
The table above uses known priors. The next one uses a Matern 5/2 prior fitted to the observations of each part,
or of the sum, as `edge-grpo tune` does; no theorem covers it."""
    fitted = [(case, draws) for (name, case, _), draws in rows.items() if name == "fitted"]
    yield from table(head, (cells(draws, case, count) for case, draws in fitted for count in synthetic.FITTED))


def _regrets(rows: Rows) -> Iterator[str]:
    yield """
## Regret on synthetic draws

Average regret over 60 rounds on the grid of 200; the difference
is GP-UCB minus D-GPUCB, so above 0 the parts help. $\\beta$ is the theory's, divided by 5 or by 1.
For identical parts both bounds are equal up to rounding, which then breaks ties between candidates."""
    found = (
        [case, f"{scale:g}", *_paired(draws, "parts", "sum", 3)]
        for (name, case, scale), draws in rows.items()
        if name == "regret"
    )
    yield from table(["parts", "beta divided by", *PAIRED], found)


def _social(rows: Rows) -> Iterator[str]:
    yield """
## An epidemic with a budget

Five age groups, an invented contact matrix, 365 days; the shares of contacts prevented in each group lie between
0.05 and 0.6 and sum to 1.25. The parts are each group's infected person-days per 1,000 people, observed with 5 %
noise; their sum is minimised over 300 random policies in 50 rounds. Kernels (Matern 5/2) were fitted once, to 200
other policies. GP-UCB uses the sum of the groups' kernels, or one kernel of its own, fitted to the sum.
Code: `benchmarks/gp/epidemic.py`."""
    found = (
        [f"{scale:g}", text, *_paired(draws, "parts", arm, 1)]
        for (name, _, scale), draws in rows.items()
        if name == "epidemic"
        for arm, text in (("sum", "sum of kernels"), ("own", "own kernel"))
    )
    yield from table(["beta divided by", "against", *PAIRED], found)
    yield """
## Perceived temperature

Temperature, humidity and wind at 250 synthetic stations per day, with noise (1 degree, 3 points, 1 mile per
hour); heat index above 70 F, wind chill below 50 F. The task is to find the hottest station of a summer day, or the
coldest of a winter day, in 40 rounds; regret in degrees F. Kernels (RBF + Matern 3/2 + rational quadratic) were
fitted once, to 250 stations of another day; GP-UCB sees the perceived temperature of the same readings. The
safe width bounds the slopes by the steepest of that day; it guarantees nothing here, since perceived
temperature jumps at 50 and 70 F. Code: `benchmarks/gp/weather.py`."""
    found = (
        [season, f"{scale:g}", text, *_paired(draws, arm, "sum", 2)]
        for (name, season, scale), draws in rows.items()
        if name == "weather"
        for arm, text in (("delta", "delta method"), ("safe", "safe"))
    )
    yield from table(["search", "beta divided by", "width", *PAIRED], found)


def _paired(draws: Sequence[Values], fine: str, coarse: str, digits: int) -> list[str]:
    """The cells under ``PAIRED``."""
    gains = [one[coarse] - one[fine] for one in draws]
    low, high = bootstrap(gains)
    better = sum(gain > SAME for gain in gains)
    means = (sum(one[name] for one in draws) / len(draws) for name in (fine, coarse))
    difference = f"{signed(sum(gains) / len(gains), digits)} ({signed(low, digits)} to {signed(high, digits)})"
    return [str(len(draws)), *(f"{mean:.{digits}f}" for mean in means), difference, f"{better} of {len(draws)}"]


def signed(value: float, digits: int) -> str:
    """With its sign, unless the value rounds to 0."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text
