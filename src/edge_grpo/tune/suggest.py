"""Which settings to try next: evenly spread ones first, then where the upper confidence bound is highest."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
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

_MOST_EVEN = 2048  # evenly spread points that are looked through for new ones
_NUM_BEST, _NUM_NEIGHBOURS = 3, 48  # so many near each of the best
_REACH, _SWITCH = 0.1, 0.3  # how near: standard deviation in [0, 1]; chance that a category is drawn anew


@dataclass(frozen=True)
class Suggestion:
    """What to try, why (``initial`` or ``bound``), and, for ``bound``, the whole that is expected and its deviation."""

    point: dict[str, Value]
    why: str
    mean: float | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class Belief:
    """What trials say of every point: a Gaussian process of each name, summed with its weight.

    The names are the parts of the objective; without decomposition the whole is the only one.

    Args:
        space: where the points are.
        names: of the processes.
        weights: one a name.
        priors: one a name.
        points: that were tried, as coordinates.
        values: what came out, a row a name.
    """

    space: Space
    names: tuple[str, ...]
    weights: Tensor
    priors: tuple[Part, ...]
    points: Tensor
    values: Tensor

    @cached_property
    def posterior(self) -> Decomposed:
        """Of all names."""
        return Decomposed(self.priors, self.points, self.values)

    def whole_at(self, points: Sequence[Point]) -> Gaussian:
        """The score of some points."""
        return self.posterior.whole_at(_rows(self.space, points), self.weights[:, None].expand(-1, len(points)))

    def parts_at(self, points: Sequence[Point]) -> dict[str, Gaussian]:
        """Each name at some points."""
        return dict(zip(self.names, self.posterior.parts_at(_rows(self.space, points)), strict=True))

    def with_pending(self, points: Sequence[Point]) -> "Belief":
        """The belief as if trials that are under way had come out as expected, which makes their surroundings certain.

        Source: Desautels et al. 2014, JMLR 15:4053 (GP-BUCB).
        """
        if not points:
            return self
        expected = torch.stack([part.mean for part in self.parts_at(points).values()])
        rows = torch.cat([self.points, _rows(self.space, points)])
        return replace(self, points=rows, values=torch.cat([self.values, expected], dim=1))


def believe(space: Space, trials: Sequence[Trial], *, decomposed: bool = True) -> Belief | None:
    """What the trials say, or None where fewer than two have finished.

    The priors, Matern 5/2 with a lengthscale for each coordinate, are fitted to what was observed, each name alone.
    One that has failed or was late counts as if it had the scores of the worst one that has finished; one that was
    stopped as if it had those of the middle one (the lower of two), since all that is known of it is that it lay below.

    Args:
        space: where they were.
        trials: those that are over.
        decomposed: a process of each part, or one of the weighted sum.

    Raises:
        DataError: no prior is to be found for these scores.
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
    if not decomposed:
        names, own, values = (WHOLE,), torch.ones(1, dtype=torch.float64), (own @ values)[None]
    points = _rows(space, [trial.settings for trial in trials])
    priors = tuple(_prior(name, _numbers(points), tuple(of)) for name, of in zip(names, values.tolist(), strict=True))
    return Belief(space, names, own, priors, points, values)


def suggest(
    space: Space, trials: Sequence[Trial], pending: Sequence[Point] = (), *, number: int, decomposed: bool = True
) -> Suggestion | None:
    r"""What trial ``number`` tries; the same whenever the same trials are over and under way.

    .. math:: x_t = \arg\max_x \mu(x) + \sqrt{\beta_t}\,\sigma(x)

    over evenly spread candidates and neighbours of the best trials, or over all points where there are few; none of
    them was tried before.

    Args:
        space: what is searched.
        trials: those that are over.
        pending: the points of those that are not.
        number: of the trial, from 1.
        decomposed: D-GPUCB, a process of each part; False is GP-UCB on the whole, with the same candidates.

    Returns:
        None where every point of the space has been tried.

    Source:
        arXiv:2107.03003, D-GPUCB.
    """
    trials = sorted(trials, key=lambda trial: trial.number)
    tried = {_key(point) for point in (*(trial.settings for trial in trials), *pending)}
    belief = believe(space, trials, decomposed=decomposed) if number > space.initial else None
    if belief is None:
        spread = (*_even(space, _MOST_EVEN, "initial"), *_whole_grid(space))
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
    """All points of a space that has few; else none."""
    values: list[Sequence[Value]] = []
    for each in space.space.values():
        if isinstance(each, Categorical):
            values.append(each.values)
        elif isinstance(each, Integer) and each.high - each.low < _MOST_EVEN:
            values.append(range(each.low, each.high + 1))
        else:
            return []
    if math.prod(map(len, values)) > _MOST_EVEN:
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
    """A value near another one; of a categorical range mostly the same."""
    if isinstance(own, Categorical):
        return own.value(rng.random()) if rng.random() < _SWITCH else value
    return own.value(min(max(own.place(value) + rng.gauss(0.0, _REACH), 0.0), 1.0))


def _even(space: Space, count: int, *purpose: str | int) -> Iterator[dict[str, Value]]:
    """So many points of a scrambled Sobol sequence; the same for the same purpose."""
    seed = derive_seed("tune", space.seed, *purpose) % 2**31
    engine = SobolEngine(len(space.space), scramble=True, seed=seed)
    for row in engine.draw(count, dtype=torch.float64).tolist():
        yield point_at(space, row)


def _rows(space: Space, points: Sequence[Point]) -> Tensor:
    """Points as the processes see them, a row each, float64."""
    return torch.tensor([encode(space, point) for point in points], dtype=torch.float64).reshape(-1, dims(space))


def _key(point: Point) -> str:
    return " ".join(f"{name}={shown(point[name])}" for name in sorted(point))


def _numbers(rows: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, rows.tolist()))


@lru_cache(maxsize=256)
def _prior(name: str, points: tuple[tuple[float, ...], ...], values: tuple[float, ...]) -> Part:
    """The fitted prior; remembered, since the page and the next trial ask for the same ones."""
    try:
        return fit_part(torch.tensor(points, dtype=torch.float64), torch.tensor(values, dtype=torch.float64))
    except DataError as error:
        low, high = min(values), max(values)
        raise DataError(
            f"{name!r}: no prior was found for its scores in {len(values)} trials, {low:g} to {high:g}; "
            f"look for outliers in trials.jsonl ({error})"
        ) from error
