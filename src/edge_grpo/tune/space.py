"""The search space: settings with their ranges, the objective, the budget, and their encoding in the unit cube."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from edge_grpo.base.settings import settings
from edge_grpo.config.explain import shortened
from edge_grpo.config.tree import Config, load_config

__all__ = [
    "WHOLE",
    "Categorical",
    "Continuous",
    "EarlyStop",
    "Integer",
    "Log",
    "Objective",
    "Point",
    "Range",
    "Space",
    "Value",
    "config_at",
    "dims",
    "encode",
    "misfit",
    "point_at",
    "shown",
    "words_at",
]

Value = bool | int | float | str
Point = Mapping[str, Value]
"""A value for every searched setting, by its dotted name."""

WHOLE = "whole"
"""The key of the weighted sum, beside the names of the parts."""

_DIGITS = 6  # significant digits of a value, so that it survives being written and read back


@settings
class Continuous:
    """A number from ``low`` to ``high``; ``also`` lists settings that get the same value."""

    type: Literal["continuous"] = "continuous"
    low: float
    high: float
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject an empty range."""
        _check_range(self.low, self.high)

    def value(self, place: float) -> float:
        """The value at a position in [0, 1], to six digits."""
        return _rounded(self.low + place * (self.high - self.low), self.low, self.high)

    def place(self, value: float) -> float:
        """The position of a value in [0, 1]."""
        return (value - self.low) / (self.high - self.low)


@settings
class Log:
    """A positive number from ``low`` to ``high``, on a log scale."""

    type: Literal["log"] = "log"
    low: float = Field(gt=0)
    high: float
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject an empty range."""
        _check_range(self.low, self.high)

    def value(self, place: float) -> float:
        """The value at a position in [0, 1], to six digits."""
        return _rounded(self.low * (self.high / self.low) ** place, self.low, self.high)

    def place(self, value: float) -> float:
        """The position of a value in [0, 1]."""
        return math.log(value / self.low) / math.log(self.high / self.low)


@settings
class Integer:
    """A whole number from ``low`` to ``high`` inclusive, all equally likely; ``log`` favours small ones."""

    type: Literal["integer"] = "integer"
    low: int
    high: int
    log: bool = False
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject an empty range."""
        if self.low >= self.high:
            raise ValueError(f"low {self.low} and high {self.high}: wanted low < high")
        if self.log and self.low < 1:
            raise ValueError(f"low {self.low}: wanted at least 1 with log")

    def value(self, place: float) -> int:
        """The whole number at a position in [0, 1]; the ends get as much room as the others."""
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            found = round(math.exp(low + place * (high - low)))
        else:
            found = self.low + math.floor(place * (self.high - self.low + 1))
        return min(max(found, self.low), self.high)

    def place(self, value: int) -> float:
        """The middle of a value's share of [0, 1]."""
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return (math.log(value) - low) / (high - low)
        return (value - self.low + 0.5) / (self.high - self.low + 1)


@settings
class Categorical:
    """One of several unordered values."""

    type: Literal["categorical"] = "categorical"
    values: tuple[Value, ...] = Field(min_length=2)
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject duplicate values."""
        if len({shown(value) for value in self.values}) < len(self.values):
            raise ValueError(f"values {list(self.values)}: wanted no duplicates; drop one")

    def value(self, place: float) -> Value:
        """The value whose share of [0, 1] contains a position."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]

    def index(self, value: Value) -> int:
        """The index of a value; 1 and True are different values."""
        return [shown(each) for each in self.values].index(shown(value))


Range = Annotated[Continuous | Log | Integer | Categorical, Field(discriminator="type")]


@settings
class Objective:
    """The weighted sum of the parts' scores, as `edge-grpo eval` computes them.

    ``weights``: part -> weight. The parts are benchmarks of ``suite`` (with data in ``data_dir``) or, without a suite,
    numbers of operands in the built-in arithmetic, with ``problems`` held-out expressions each. ``metric`` is
    ``pass@1/greedy``, or ``avg@k`` over k sampled answers.
    """

    weights: dict[str | int, float] = Field(min_length=1)
    suite: str = ""
    data_dir: str = ""
    metric: str = "pass@1/greedy"
    problems: int = Field(default=100, ge=1)

    def __post_init__(self) -> None:
        """Reject an unknown metric and meaningless weights."""
        if not re.fullmatch(r"pass@1/greedy|avg@[1-9]\d{0,3}", self.metric):
            raise ValueError(f"metric {shortened(self.metric)!r}: wanted pass@1/greedy or avg@k, such as avg@4")
        if not all(self.weights.values()):
            raise ValueError(f"weights {dict(self.weights)}: wanted none equal to 0; drop that part")
        if len(self.parts) < len(self.weights):
            raise ValueError(f"weights {dict(self.weights)}: a part is listed twice; drop one")
        if WHOLE in self.parts:
            raise ValueError(f"weights: '{WHOLE}' is reserved for the weighted sum; rename that benchmark")

    @property
    def parts(self) -> dict[str, float]:
        """Weights by part name."""
        return {str(name): weight for name, weight in self.weights.items()}

    @property
    def samples(self) -> int:
        """Sampled answers per problem; 0 for greedy decoding."""
        return int(self.metric.removeprefix("avg@")) if self.metric.startswith("avg@") else 0

    def resolution(self, problems: int = 0) -> float:
        """The smallest difference that a part's scores can show: one answer of ``problems`` (0 = the setting's)."""
        return 1 / ((problems or self.problems) * max(1, self.samples))


@settings
class EarlyStop:
    """The median rule: stop a trial whose best held-out accuracy so far is below the others' median.

    It is compared with finished trials at the same step, from ``after_steps`` on and once ``after_trials`` of them have
    reached it. Needs ``eval.every``.

    Source: Golovin et al. 2017, Google Vizier, section 3.2.2; with the best so far in place of the running mean.
    """

    enabled: bool = False
    after_steps: int = Field(default=1, ge=1)
    after_trials: int = Field(default=5, ge=2)


@settings
class Space:
    """A search: the ranges in ``space``, on top of fixed settings (the file ``base``, overridden by ``settings``).

    The first ``initial`` of ``trials`` are evenly spread (Sobol); each later one maximises the upper confidence bound,
    which uses the theoretical squared width divided by ``scale`` and fails with probability ``delta``. ``trial_s``
    limits the seconds per trial (0: no limit).
    """

    base: str = ""
    settings: tuple[str, ...] = ()
    space: dict[str, Range] = Field(min_length=1)
    objective: Objective
    trials: int = Field(default=20, ge=1)
    initial: int = Field(default=6, ge=2)
    seed: int = Field(default=0, ge=0)
    trial_s: float = Field(default=0.0, ge=0)
    scale: float = Field(default=5.0, gt=0)
    delta: float = Field(default=0.05, gt=0, lt=1)
    candidates: int = Field(default=512, ge=2, le=2048)
    early_stop: EarlyStop = Field(default_factory=EarlyStop)

    def __post_init__(self) -> None:
        """Reject a setting that has two ranges."""
        names = [name for key, each in self.space.items() for name in (key, *each.also)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"space: {', '.join(twice)} is listed twice ('also' counts); give each setting one range")


def words_at(space: Space, point: Point) -> list[str]:
    """The fixed settings and those of a (possibly partial) point, as ``key=value`` words.

    Sections precede their contents, so a searched ``method`` keeps its fixed settings in force.
    """
    named = {name: point[key] for key, each in space.space.items() if key in point for name in (key, *each.also)}
    words = [*space.settings, *(f"{name}={shown(value)}" for name, value in named.items())]
    return sorted(words, key=lambda word: word.partition("=")[0].count("."))


def config_at(space: Space, point: Point) -> Config:
    """The configuration at a (possibly partial) point.

    Raises:
        ConfigError: the values contradict each other.
    """
    return load_config(space.base or None, words_at(space, point))


def misfit(space: Space, point: Point) -> str:
    """Why a point does not belong to this space; empty if it does."""
    if set(point) != set(space.space):
        return f"it sets {', '.join(sorted(point)) or 'nothing'}, the space has {', '.join(sorted(space.space))}"
    for name, each in space.space.items():
        value: Any = point[name]
        if isinstance(each, Categorical):
            fits = shown(value) in map(shown, each.values)
        else:
            kinds = int if isinstance(each, Integer) else (int, float)
            fits = isinstance(value, kinds) and not isinstance(value, bool) and each.low <= value <= each.high
        if not fits:
            return f"{name} is {shortened(repr(value))}, which is not in the range of the space"
    return ""


def shown(value: Value) -> str:
    """A value as YAML that reads back as the same value.

    Example:
        >>> shown(1e-5), shown(True), shown("all"), shown(3)
        ('1.0e-05', 'true', '"all"', '3')
    """
    if isinstance(value, str):
        quoted: str = yaml.safe_dump(value, default_style='"', width=math.inf)
        return quoted.strip()
    text = json.dumps(value)
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text


def dims(space: Space) -> int:
    """Number of coordinates of a point: one per numeric range, one per value of a categorical range."""
    return sum(len(each.values) if isinstance(each, Categorical) else 1 for each in space.space.values())


def point_at(space: Space, places: Sequence[float]) -> dict[str, Value]:
    """The point at the given positions in [0, 1], one per range."""
    return {name: each.value(place) for (name, each), place in zip(space.space.items(), places, strict=True)}


def encode(space: Space, point: Point) -> list[float]:
    """The coordinates of a point, each in [0, 1]; categorical values are one-hot."""
    found: list[float] = []
    for name, each in space.space.items():
        value: Any = point[name]
        if isinstance(each, Categorical):
            index = each.index(value)
            found += [float(place == index) for place in range(len(each.values))]
        else:
            found.append(min(max(each.place(value), 0.0), 1.0))
    return found


def _check_range(low: float, high: float) -> None:
    if high - low <= 1e-3 * max(abs(low), abs(high)):
        raise ValueError(f"low {low:g} and high {high:g}: wanted low < high, differing within three digits")


def _rounded(value: float, low: float, high: float) -> float:
    return min(max(float(f"{value:.{_DIGITS}g}"), low), high)
