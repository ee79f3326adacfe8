"""The page of benchmarks/decomposed_gp.py: what its draws say, in tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from edge_grpo.compare.runs import t_interval
from edge_grpo.evaluation.intervals import bootstrap, wilson
from edge_grpo.tune.experiments import synthetic

Values = Mapping[str, float]
Rows = Mapping[tuple[str, str, float | None], Sequence[Values]]
Gains = Mapping[tuple[str, float | None], Sequence[float]]
SCALES = (5.0, 1.0)  # divisors of beta
SAME = 1e-9  # errors that differ by less are called equal
EXACT = 1e-12
FEW = 10  # repeats, up to which Student's interval is taken
PAIRED = ("draws", "D-GPUCB", "GP-UCB", "difference", "draws better")


def page(rows: Rows, used: Iterable[str], timing: Iterable[str], gains: Gains) -> str:
    """The whole page.

    Args:
        rows: the draws.
        used: the section of the real use.
        timing: the section of the time.
        gains: paired differences of the real use, above 0 where the parts help, by what was compared and the divisor
            of beta.
    """
    sections = (_variance(rows), _errors(rows), _regrets(rows), _social(rows), used, timing)
    return "\n".join(line for part in (_head(), _summary(rows, gains), *sections) for line in part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table of the page, with a blank line before it."""
    yield from ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _head() -> Iterator[str]:
    yield """# Decomposed Gaussian processes: what seeing the parts brings

Written by `benchmarks/decomposed_gp.py` (`make tune-evidence`), every number by that command.
What the models are: [the method](../methods/decomposed_gp.md). Every draw is seeded and paired: both models
see the same function, first point and noise. Intervals are 95 %, by the bootstrap over draws, Wilson's for
shares. Nothing was tuned for either arm; $\\delta = 0.05$, $\\beta$ over the finite set of candidates."""


def _summary(rows: Rows, used: Gains) -> Iterator[str]:
    """What came out, in words that follow from the draws."""
    least = min(
        one[f"least_{count}"] for case in synthetic.CASES for one in _of(rows, case) for count in synthetic.COUNTS
    )
    held = (
        "in no draw is it larger from the parts, at any point" if least >= -EXACT else "**it is larger in some draw**"
    )
    yield f"""
## What came out

- The variance: {held} (least difference {least:.1e})."""
    for case in synthetic.CASES:
        means = [_reduction(_of(rows, case), count)[0] for count in synthetic.COUNTS]
        low, high = (signed(end, 1) for end in (min(means), max(means)))
        yield f"- The error, {case}: by {low} to {high} % lower from the parts."
    yield """
Searching with the parts against searching with the sum, by what the tables below compare (*better* and *worse*: the
interval leaves out 0; none is corrected for there being many). With the theory's beta (/ 1) no gain was expected."""
    found = {**_comparisons(rows), **used}
    labels = dict.fromkeys(label for label, _ in found)
    verdicts = ([label, *(_verdict(found.get((label, scale))) for scale in SCALES)] for label in labels)
    yield from table(["from the parts", *(f"beta / {scale:g}" for scale in SCALES)], verdicts)


def _comparisons(rows: Rows) -> dict[tuple[str, float | None], list[float]]:
    """Paired differences of regret, by what was compared and the divisor of beta."""
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
    return "**better**" if low > SAME else "**worse**" if high < -SAME else "not told apart"


def _of(rows: Rows, case: str) -> Sequence[Values]:
    return rows["regression", case, None]


def _reduction(draws: Sequence[Values], count: int) -> tuple[float, float, float]:
    """By how many percent the error is lower from the parts, and the interval of that."""
    gains = [one[f"sum_{count}"] - one[f"parts_{count}"] for one in draws]
    whole = sum(one[f"sum_{count}"] for one in draws) / len(gains)
    mean, low, high = (100 * one / whole for one in (sum(gains) / len(gains), *bootstrap(gains)))
    return mean, low, high


def _variance(rows: Rows) -> Iterator[str]:
    yield f"""
## Variance

On a grid of 200 points, noise 0.01, after 3, 5, 10, 20 and 40 observations of
every draw: the variance from the sum minus that from the parts, at every point. It must never be below
-{EXACT:g}, and for proportional or identical parts it must be 0."""

    def cells(case: str) -> list[str]:
        draws = _of(rows, case)
        least, most, apart = (
            choose(one[f"{name}_{count}"] for one in draws for count in synthetic.COUNTS)
            for choose, name in ((min, "least"), (max, "most"), (max, "mean"))
        )
        held = "none" if least >= -EXACT else "**some**"
        return [case, str(len(draws)), f"{least:.1e}", f"{most:.1e}", held, f"{apart:.1e}"]

    head = ["parts", "draws", "least", "largest", "points below -1e-12 in any draw", "means differ by at most"]
    yield from table(head, map(cells, synthetic.CASES))
    yield ""
    yield from (f"- **{case}**: {text}." for case, text in synthetic.CASES.items())


def _errors(rows: Rows) -> Iterator[str]:
    yield """
## Error of the whole

Root mean squared error on the grid: the mean over draws from the sum
and from the parts, how much lower the latter is (mean paired difference over the former mean),
and in what share of the draws it is lower (differences below 1e-9 are equal)."""

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

    head = ["parts", "observations", "from the sum", "from the parts", "reduction", "draws better", "draws equal"]
    yield from table(
        head, (cells(_of(rows, case), case, count) for case in synthetic.CASES for count in synthetic.COUNTS)
    )
    yield """
With known priors, that is. The same with a Matern 5/2 prior fitted to each part, or to the sum, from the
observations alone, as `edge-grpo tune` does; nothing is proved of these."""
    fitted = [(case, draws) for (name, case, _), draws in rows.items() if name == "fitted"]
    yield from table(head, (cells(draws, case, count) for case, draws in fitted for count in synthetic.FITTED))


def _regrets(rows: Rows) -> Iterator[str]:
    yield """
## Regret on synthetic draws

Average regret over 60 rounds on the grid of 200; the difference
is GP-UCB minus D-GPUCB, so above 0 the parts help. $\\beta$ is the theory's, divided by 5 or by 1.
For identical parts both bounds are equal but for rounding, which then decides between tied candidates."""
    found = (
        [case, f"{scale:g}", *_paired(draws, "parts", "sum", 3)]
        for (name, case, scale), draws in rows.items()
        if name == "regret"
    )
    yield from table(["parts", "beta divided by", *PAIRED], found)


def _social(rows: Rows) -> Iterator[str]:
    yield """
## An epidemic with a budget

Five age groups, a made-up contact matrix, 365 days; shares of contacts prevented in each group lie within
0.05 and 0.6 and sum to 1.25. Parts are infected days of each group per 1,000 people, read with 5 % noise;
their sum is minimised over 300 random policies in 50 rounds. Kernels (Matern 5/2) were fitted once, to 200
other policies. GP-UCB has the sum of the groups' kernels, or one kernel of its own, fitted to the sum.
`src/edge_grpo/tune/experiments/epidemic.py`."""
    found = (
        [f"{scale:g}", text, *_paired(draws, "parts", arm, 1)]
        for (name, _, scale), draws in rows.items()
        if name == "epidemic"
        for arm, text in (("sum", "sum of kernels"), ("own", "own kernel"))
    )
    yield from table(["beta divided by", "against", *PAIRED], found)
    yield """
## Perceived temperature

Temperature, humidity and wind at 250 synthetic stations a day, with noise (1 degree, 3 points, 1 mile an
hour); heat index above 70 F, wind chill below 50 F. The hottest station of a summer day, or the coldest of
a winter day, in 40 rounds; regret in degrees F. Kernels (RBF + Matern 3/2 + rational quadratic) were
fitted once, to 250 stations of another day; GP-UCB sees the perceived temperature of the same readings. The
safe width bounds the slopes by the steepest of that day; it guarantees nothing here, since perceived
temperature jumps at 50 and 70 F. `src/edge_grpo/tune/experiments/weather.py`."""
    found = (
        [season, f"{scale:g}", text, *_paired(draws, arm, "sum", 2)]
        for (name, season, scale), draws in rows.items()
        if name == "weather"
        for arm, text in (("delta", "delta method"), ("safe", "safe"))
    )
    yield from table(["search", "beta divided by", "width", *PAIRED], found)


def _paired(draws: Sequence[Values], fine: str, coarse: str, digits: int) -> list[str]:
    """The cells of ``PAIRED``."""
    gains = [one[coarse] - one[fine] for one in draws]
    low, high = bootstrap(gains)
    better = sum(gain > SAME for gain in gains)
    means = (sum(one[name] for one in draws) / len(draws) for name in (fine, coarse))
    difference = f"{signed(sum(gains) / len(gains), digits)} ({signed(low, digits)} to {signed(high, digits)})"
    return [str(len(draws)), *(f"{mean:.{digits}f}" for mean in means), difference, f"{better} of {len(draws)}"]


def signed(value: float, digits: int) -> str:
    """With its sign, which a value that rounds to 0 has not."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text
