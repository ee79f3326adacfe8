"""Which settings to try next: evenly spread ones first, then those with the highest upper confidence bound."""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from edge_grpo.base.errors import DataError
from edge_grpo.base.rng import derive_seed, python_random
from edge_grpo.tune.acquisition import beta_finite, confidence_bound
from edge_grpo.tune.fit import fit_part
from edge_grpo.tune.posterior import Decomposed, Gaussian, Part
from edge_grpo.tune.record import Trial
from edge_grpo.tune.space import WHOLE, Categorical, Integer, Point, Range, Space, Value, dims, encode, point_at, shown

__all__ = ["Belief", "Suggestion", "believe", "suggest"]

_MAX_POINTS = 2048  # evenly spread points searched for untried ones; largest space that is enumerated
_NUM_BEST, _NUM_NEIGHBOURS = 3, 48  # the best trials, and candidates near each of them
_REACH, _SWITCH = 0.1, 0.3  # of a neighbour: standard deviation in [0, 1]; probability of redrawing a category


@dataclass(frozen=True)
class Suggestion:
    """What to try, why (``initial`` or ``bound``) and, for ``bound``, the expected whole and its standard deviation."""

    point: dict[str, Value]
    why: str
    mean: float | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class Belief:
    """The belief about every point, given some trials: a weighted sum of Gaussian processes, one per name.

    The names are the parts of the objective; without decomposition, the whole alone.

    Args:
        space: the search space.
        names: names of the processes.
        weights: one per name.
        priors: one per name.
        points: coordinates of the points tried.
        values: scores at those points, one row per name.
    """

    space: Space
    names: tuple[str, ...]
    weights: Tensor
    priors: tuple[Part, ...]
    points: Tensor
    values: Tensor

    @cached_property
    def posterior(self) -> Decomposed:
        """The joint posterior of all names."""
        return Decomposed(self.priors, self.points, self.values)

    def whole_at(self, points: Sequence[Point]) -> Gaussian:
        """The score at the given points."""
        return self.posterior.whole_at(_rows(self.space, points), self.weights[:, None].expand(-1, len(points)))

    def parts_at(self, points: Sequence[Point]) -> dict[str, Gaussian]:
        """Each name at the given points."""
        return dict(zip(self.names, self.posterior.parts_at(_rows(self.space, points)), strict=True))

    def with_pending(self, points: Sequence[Point]) -> "Belief":
        """The belief as if running trials had scored as expected, which makes their neighbourhoods less uncertain.

        Source: Desautels et al. 2014, JMLR 15:4053 (GP-BUCB).
        """
        if not points:
            return self
        expected = torch.stack([part.mean for part in self.parts_at(points).values()])
        rows = torch.cat([self.points, _rows(self.space, points)])
        return replace(self, points=rows, values=torch.cat([self.values, expected], dim=1))


def believe(
    space: Space,
    trials: Sequence[Trial],
    *,
    decomposed: bool = True,
    resolutions: Mapping[str, float] | None = None,
) -> Belief | None:
    """The belief given these trials; None if fewer than two have finished.

    The priors, Matern 5/2 with one lengthscale per coordinate, are fitted to the scores of each name separately; a part
    whose scores are all equal so far, such as a benchmark stuck at 0, is believed to vary by its resolution. A
    failed or late trial counts as if it had the scores of the worst finished one; a stopped trial as if it had those of
    the median one (the lower of two), since all we know is that it was below the median.

    Args:
        space: the search space.
        trials: the trials that are over.
        decomposed: one process per part, or a single one of the weighted sum.
        resolutions: the smallest difference that each part's scores can show; by default that of ``objective.problems``
            problems.

    Raises:
        DataError: no prior can be fitted to these scores.
    """
    finished = [trial for trial in trials if trial.whole is not None]
    if len(finished) < 2:
        return None
    weights, ranked = space.objective.parts, sorted(finished, key=lambda trial: (trial.whole or 0.0, trial.number))
    worst, middle = ranked[0].parts, ranked[(len(ranked) - 1) // 2].parts
    rows = [
        [(trial.parts or (middle if trial.state == "stopped" else worst))[name] for name in weights] for trial in trials
    ]
    names, own = tuple(weights), torch.tensor([*weights.values()], dtype=torch.float64)
    values = torch.tensor(rows, dtype=torch.float64).T.contiguous()
    least = {**dict.fromkeys(weights, space.objective.resolution()), **(resolutions or {})}
    if not decomposed:
        least = {WHOLE: min(abs(weight) * least[name] for name, weight in weights.items())}
        names, own, values = (WHOLE,), torch.ones(1, dtype=torch.float64), (own @ values)[None]
    points = _rows(space, [trial.settings for trial in trials])
    priors = tuple(
        _prior(name, _numbers(points), tuple(of), least[name]) for name, of in zip(names, values.tolist(), strict=True)
    )
    return Belief(space, names, own, priors, points, values)


def suggest(
    space: Space,
    trials: Sequence[Trial],
    pending: Sequence[Point] = (),
    *,
    number: int,
    decomposed: bool = True,
    resolutions: Mapping[str, float] | None = None,
) -> Suggestion | None:
    r"""The settings for trial ``number``, determined by the trials that are over and those still running.

    .. math:: x_t = \arg\max_x \mu(x) + \sqrt{\beta_t}\,\sigma(x)

    over evenly spread candidates and neighbours of the best trials, or over all points of a small space; points already
    tried are excluded.

    Args:
        space: the search space.
        trials: the trials that are over.
        pending: the points of running trials.
        number: number of the trial, from 1.
        decomposed: True is D-GPUCB, one process per part; False is GP-UCB on the whole, with the same candidates.
        resolutions: see :func:`believe`.

    Returns:
        None if every point of the space has been tried.

    Source:
        arXiv:2107.03003, D-GPUCB.
    """
    trials = sorted(trials, key=lambda trial: trial.number)
    tried = {_key(point) for point in (*(trial.settings for trial in trials), *pending)}
    begun = number > space.initial
    belief = believe(space, trials, decomposed=decomposed, resolutions=resolutions) if begun else None
    if belief is None:
        spread = (*_even(space, _MAX_POINTS, "initial"), *_whole_grid(space))
        point = next((each for each in spread if _key(each) not in tried), None)
        return None if point is None else Suggestion(point, "initial")
    candidates = {_key(point): point for point in _whole_grid(space) or _candidates(space, trials, number)}
    new = [point for key, point in candidates.items() if key not in tried]
    if not new:
        return None
    whole = belief.with_pending(pending).whole_at(new)
    deviation = whole.variance.clamp(min=0).sqrt()
    beta = beta_finite(len(new), number - space.initial, delta=space.delta, scale=space.scale)
    chosen = int(confidence_bound(whole.mean, deviation, beta).argmax())
    return Suggestion(new[chosen], "bound", float(whole.mean[chosen]), float(deviation[chosen]))


def _whole_grid(space: Space) -> list[dict[str, Value]]:
    """All points of a small space; empty for a large one."""
    values: list[Sequence[Value]] = []
    for each in space.space.values():
        if isinstance(each, Categorical):
            values.append(each.values)
        elif isinstance(each, Integer) and each.high - each.low < _MAX_POINTS:
            values.append(range(each.low, each.high + 1))
        else:
            return []
    if math.prod(map(len, values)) > _MAX_POINTS:
        return []
    return [dict(zip(space.space, point, strict=True)) for point in itertools.product(*values)]


def _candidates(space: Space, trials: Sequence[Trial], number: int) -> Iterator[dict[str, Value]]:
    yield from _even(space, space.candidates, "candidates", number)
    finished = [trial for trial in trials if trial.whole is not None]
    best = sorted(finished, key=lambda trial: (-(trial.whole or 0.0), trial.number))[:_NUM_BEST]
    rng = python_random("neighbours", space.seed, number)
    for trial in best:
        for _ in range(_NUM_NEIGHBOURS):
            yield {name: _near(each, trial.settings[name], rng) for name, each in space.space.items()}


def _near(own: Range, value: Any, rng: random.Random) -> Value:
    """A value near the given one; for a categorical range, usually the same."""
    if isinstance(own, Categorical):
        return own.value(rng.random()) if rng.random() < _SWITCH else value
    return own.value(min(max(own.place(value) + rng.gauss(0.0, _REACH), 0.0), 1.0))


def _even(space: Space, count: int, *purpose: str | int) -> Iterator[dict[str, Value]]:
    """The first ``count`` points of a scrambled Sobol sequence that is seeded by the purpose."""
    seed = derive_seed("tune", space.seed, *purpose) % 2**31
    engine = SobolEngine(len(space.space), scramble=True, seed=seed)
    for row in engine.draw(count, dtype=torch.float64).tolist():
        yield point_at(space, row)


def _rows(space: Space, points: Sequence[Point]) -> Tensor:
    """Encoded points, one row each, float64."""
    return torch.tensor([encode(space, point) for point in points], dtype=torch.float64).reshape(-1, dims(space))


def _key(point: Point) -> str:
    return " ".join(f"{name}={shown(point[name])}" for name in sorted(point))


def _numbers(rows: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, rows.tolist()))


@lru_cache(maxsize=256)
def _prior(name: str, points: tuple[tuple[float, ...], ...], values: tuple[float, ...], resolution: float) -> Part:
    """The fitted prior; cached, since the page and the next trial need the same ones."""
    rows, scores = (torch.tensor(each, dtype=torch.float64) for each in (points, values))
    try:
        return fit_part(rows, scores, resolution=resolution)
    except DataError as error:
        low, high = min(values), max(values)
        raise DataError(
            f"{name!r}: found no prior for its scores in {len(values)} trials, {low:g} to {high:g}; "
            f"look for outliers in trials.jsonl ({error})"
        ) from error
