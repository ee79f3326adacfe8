"""The page of benchmarks/decomposed_gp.py: what its draws say, in tables."""

from collections.abc import Iterator, Mapping, Sequence

from edge_grpo.intervals import bootstrap, wilson
from edge_grpo.tune.experiments import synthetic

Values = Mapping[str, float]
Rows = Mapping[tuple[str, str, float | None], Sequence[Values]]
SAME = 1e-9  # errors that differ by less are called equal
EXACT = 1e-12


def page(rows: Rows, timing: Sequence[str]) -> str:
    """The whole page."""
    return "\n".join([*_head(), *_variance(rows), *_errors(rows), *_regrets(rows), *_social(rows), *timing]) + "\n"


def _head() -> Iterator[str]:
    yield "# Decomposed Gaussian processes: what seeing the parts brings"
    yield ""
    yield "Written by `benchmarks/decomposed_gp.py` (`make tune-evidence`), every number by that command."
    yield "What the models are: [the method](../methods/decomposed_gp.md). Every draw is seeded and paired: both models"
    yield "see the same function, first point and noise. Intervals are 95 %, by the bootstrap over draws, Wilson's for"
    yield "shares. Nothing was tuned for either arm; $\\delta = 0.05$, $\\beta$ over the finite set of candidates."


def _variance(rows: Rows) -> Iterator[str]:
    yield from ["", "## Variance", "", "On a grid of 200 points, noise 0.01, after 3, 5, 10, 20 and 40 observations of"]
    yield "every draw: the variance from the sum minus that from the parts, at every point. It must never be below"
    yield f"-{EXACT:g}, and for proportional or identical parts it must be 0."
    yield from ["", "| parts | draws | least | largest | points below -1e-12 in any draw | means differ by at most |"]
    yield "|---|---|---|---|---|---|"
    for case in synthetic.CASES:
        draws = rows["regression", case, None]
        least = min(one[f"least_{count}"] for one in draws for count in synthetic.COUNTS)
        most = max(one[f"most_{count}"] for one in draws for count in synthetic.COUNTS)
        apart = max(one[f"mean_{count}"] for one in draws for count in synthetic.COUNTS)
        held = "none" if least >= -EXACT else "**some**"
        yield f"| {case} | {len(draws)} | {least:.1e} | {most:.1e} | {held} | {apart:.1e} |"
    yield ""
    yield from (f"- **{case}**: {text}." for case, text in synthetic.CASES.items())


def _errors(rows: Rows) -> Iterator[str]:
    yield from [
        "",
        "## Error of the whole",
        "",
        "Root mean squared error on the grid: the mean over draws from the sum",
    ]
    yield "and from the parts, how much lower the latter is (mean paired difference over the former mean),"
    yield "and in what share of the draws it is lower (differences below 1e-9 are equal)."
    yield from ["", "| parts | observations | from the sum | from the parts | reduction | draws better | draws equal |"]
    yield "|---|---|---|---|---|---|---|"
    for case in synthetic.CASES:
        draws = rows["regression", case, None]
        for count in synthetic.COUNTS:
            gains = [one[f"sum_{count}"] - one[f"parts_{count}"] for one in draws]
            whole = sum(one[f"sum_{count}"] for one in draws) / len(draws)
            better, equal = sum(g > SAME for g in gains), sum(abs(g) <= SAME for g in gains)
            low, high = (100 * end / whole for end in bootstrap(gains))
            mean = 100 * sum(gains) / len(gains) / whole
            share = " to ".join(f"{100 * end:.0f}" for end in wilson(better, len(draws)))
            yield (
                f"| {case} | {count} | {whole:.3f} | {whole * (1 - mean / 100):.3f} | "
                f"{_zero(mean, 1)} % ({_zero(low, 1)} to {_zero(high, 1)}) | "
                f"{100 * better / len(draws):.0f} % ({share}) | {equal} of {len(draws)} |"
            )


def _regrets(rows: Rows) -> Iterator[str]:
    yield from [
        "",
        "## Regret on synthetic draws",
        "",
        "Average regret over 60 rounds on the grid of 200; the difference",
    ]
    yield "is GP-UCB minus D-GPUCB, so above 0 the parts help. $\\beta$ is the theory's, divided by 5 or by 1."
    yield from ["", "| parts | beta divided by | draws | D-GPUCB | GP-UCB | difference | draws better |"]
    yield "|---|---|---|---|---|---|---|"
    for (name, case, scale), draws in rows.items():
        if name == "regret":
            yield f"| {case} | {scale:g} | {len(draws)} | {_paired(draws, 'parts', 'sum', 3)} |"


def _social(rows: Rows) -> Iterator[str]:
    yield from ["", "## An epidemic with a budget", ""]
    yield "Five age groups, a made-up contact matrix, 365 days; shares of contacts prevented in each group lie within"
    yield "0.05 and 0.6 and sum to 1.25. Parts are infected days of each group per 1,000 people, read with 5 % noise;"
    yield "their sum is minimised over 300 random policies in 50 rounds. Kernels (Matern 5/2) were fitted once, to 200"
    yield "other policies. GP-UCB has the sum of the groups' kernels, or one kernel of its own, fitted to the sum."
    yield "`src/edge_grpo/tune/experiments/epidemic.py`."
    yield from ["", "| beta divided by | against | draws | D-GPUCB | GP-UCB | difference | draws better |"]
    yield "|---|---|---|---|---|---|---|"
    for (name, _, scale), draws in rows.items():
        if name == "epidemic":
            for arm, text in (("sum", "sum of kernels"), ("own", "own kernel")):
                yield f"| {scale:g} | {text} | {len(draws)} | {_paired(draws, 'parts', arm, 1)} |"
    yield from ["", "## Perceived temperature", ""]
    yield "Temperature, humidity and wind at 250 synthetic stations a day, with noise (1 degree, 3 points, 1 mile an"
    yield "hour); heat index above 70 F, wind chill below 50 F. The hottest station of a summer day, or the coldest of"
    yield "a winter day, in 40 rounds; regret in degrees F. Kernels (RBF + Matern 3/2 + rational quadratic) were"
    yield "fitted once, to 250 stations of another day; GP-UCB sees the perceived temperature of the same readings. The"
    yield "safe width bounds the slopes by the steepest of that day. `src/edge_grpo/tune/experiments/weather.py`."
    yield from ["", "| search | beta divided by | width | draws | D-GPUCB | GP-UCB | difference | draws better |"]
    yield "|---|---|---|---|---|---|---|---|"
    for (name, season, scale), draws in rows.items():
        if name == "weather":
            for arm, text in (("delta", "delta method"), ("safe", "safe")):
                yield f"| {season} | {scale:g} | {text} | {len(draws)} | {_paired(draws, arm, 'sum', 2)} |"


def _paired(draws: Sequence[Values], fine: str, coarse: str, digits: int) -> str:
    gains = [one[coarse] - one[fine] for one in draws]
    low, high = bootstrap(gains)
    better = sum(gain > SAME for gain in gains)
    means = (sum(one[name] for one in draws) / len(draws) for name in (fine, coarse))
    cells = [f"{mean:.{digits}f}" for mean in means]
    middle, ends = sum(gains) / len(gains), f"{_zero(low, digits)} to {_zero(high, digits)}"
    return " | ".join([*cells, f"{_zero(middle, digits)} ({ends})", f"{better} of {len(draws)}"])


def _zero(value: float, digits: int) -> str:
    """Signed, and without the sign where it rounds to 0."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text
