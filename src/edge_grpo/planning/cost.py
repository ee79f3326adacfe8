"""What a run takes: seconds and money, from a measured or a given rate, and never from a guess."""

import math
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.tree import parse_tree
from edge_grpo.planning.counts import Counts, counts_of
from edge_grpo.runs.folder import RunFolder

__all__ = ["Cost", "Rates", "cost", "rates_of"]

PHASES = ("sample", "grade", "correct", "score", "update", "write")


@dataclass(frozen=True)
class Rates:
    """How fast a step goes, and what its completions were like.

    ``tokens_per_s``: sampled tokens per second of whole steps (sampling, grading, updates). ``source``: where it comes
    from. ``length``: tokens sampled in a step per completion that a plan counts at least, those of corrections,
    revisions and further prompts included; None = unknown, then the cap is used. ``eval_s``: seconds of an evaluation;
    None = unknown, then evaluations are left out. ``phases``: shares of a step's time. ``accuracy`` and ``collapse``:
    shares of right completions and of collapsed groups; None = unknown.
    """

    tokens_per_s: float
    source: str
    length: float | None = None
    eval_s: float | None = None
    phases: Mapping[str, float] | None = None
    accuracy: float | None = None
    collapse: float | None = None


@dataclass(frozen=True)
class Cost:
    """What a whole run takes; ``bound``: the tokens are those at the cap, so that it takes at most this."""

    step_s: float
    steps_s: float
    evaluations_s: float | None
    price: float | None
    bound: bool

    @property
    def total_s(self) -> float:
        """Seconds of all steps, and of evaluations where their time is known."""
        return self.steps_s + (self.evaluations_s or 0.0)


def rates_of(folder: str) -> Rates:
    """The rates of an earlier run: medians over its steps.

    Raises:
        ConfigError: it has no step with figures of time.
        CheckpointError: no run there, or its figures are damaged.
    """
    run = RunFolder(Path(folder).expanduser())
    tree = RunFolder.read_config(run.path)[0]
    rows = [row for row in run.rows() if row["step"] > 0]
    speeds = _column(rows, "time/tokens_per_s")
    if not any(speeds):
        raise ConfigError(
            f"--from: {folder} has no step with time/tokens_per_s yet; let it take a step, or name another"
        )
    whole = _column(rows, "time/step_s")
    shares = {
        phase: sum(own) / sum(whole) for phase in PHASES if (own := _column(rows, f"time/{phase}_s")) and sum(whole)
    }
    return Rates(
        statistics.median(speeds),
        f"{folder}, median of {len(speeds)} steps",
        length=_per_completion(tree, rows),
        eval_s=_middle(list(run.rows()), "time/eval_s"),
        phases=shares,
        accuracy=_middle(rows, "accuracy"),
        collapse=_middle(rows, "collapse/before"),
    )


def cost(counts: Counts, rates: Rates, *, price_per_hour: float | None) -> Cost:
    """The time and price of a run at a rate.

    Args:
        counts: of a step.
        rates: how fast.
        price_per_hour: of all machines together, in any currency; None = no price is wanted.
    """
    tokens, bound = float(counts.tokens), True
    if rates.length is not None:
        tokens, bound = rates.length * counts.completions.low, False
    step_s = tokens / rates.tokens_per_s
    steps = counts.steps
    if counts.steps_at_cap and tokens:
        steps = min(steps, math.ceil(counts.steps_at_cap * counts.tokens / tokens))
    evaluations_s = None if rates.eval_s is None else rates.eval_s * counts.evaluations
    total = step_s * steps + (evaluations_s or 0.0)
    price = None if price_per_hour is None else price_per_hour * total / 3600
    return Cost(step_s, step_s * steps, evaluations_s, price, bound)


def _per_completion(tree: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Tokens of a step of a run per completion of its plan; of a custom method, the mean length of what it sampled."""
    tokens = _middle(rows, "tokens")
    with suppress(ConfigError):
        completions = counts_of(parse_tree(tree)).completions.low
        return tokens / completions if tokens and completions else None
    return _middle(rows, "length/sampled")


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """A figure of each row that has it."""
    return [float(row[name]) for row in rows if isinstance(row.get(name), int | float)]


def _middle(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    found = _column(rows, name)
    return statistics.median(found) if found else None
