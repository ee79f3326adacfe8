"""What is searched: settings with their ranges, the score, the budget; and the cube in which the search sees them."""

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
"""A value for every setting that is searched, by its dotted name."""

WHOLE = "whole"
"""The name of the weighted sum beside those of the parts."""

_DIGITS = 6  # of the values that are tried: what is written down and read again is what was tried


@settings
class Continuous:
    """A number from ``low`` to ``high``; ``also`` names settings that get the same value."""

    type: Literal["continuous"] = "continuous"
    low: float
    high: float
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject an empty range."""
        _check_range(self.low, self.high)

    def value(self, place: float) -> float:
        """The value at a place in [0, 1], in six digits."""
        return _rounded(self.low + place * (self.high - self.low), self.low, self.high)

    def place(self, value: float) -> float:
        """Where in [0, 1] a value is."""
        return (value - self.low) / (self.high - self.low)


@settings
class Log:
    """A positive number from ``low`` to ``high`` of which the order of magnitude matters."""

    type: Literal["log"] = "log"
    low: float = Field(gt=0)
    high: float
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject an empty range."""
        _check_range(self.low, self.high)

    def value(self, place: float) -> float:
        """The value at a place in [0, 1], in six digits."""
        return _rounded(self.low * (self.high / self.low) ** place, self.low, self.high)

    def place(self, value: float) -> float:
        """Where in [0, 1] a value is."""
        return math.log(value / self.low) / math.log(self.high / self.low)


@settings
class Integer:
    """A whole number from ``low`` to ``high``, both included and all equally likely; ``log``: small ones more so."""

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
        """The whole number nearest to a place in [0, 1]; the ends get as much room as the others."""
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            found = round(math.exp(low + place * (high - low)))
        else:
            found = self.low + math.floor(place * (self.high - self.low + 1))
        return min(max(found, self.low), self.high)

    def place(self, value: int) -> float:
        """The middle of its room in [0, 1]."""
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return (math.log(value) - low) / (high - low)
        return (value - self.low + 0.5) / (self.high - self.low + 1)


@settings
class Categorical:
    """One of several values, none nearer to another than to a third."""

    type: Literal["categorical"] = "categorical"
    values: tuple[Value, ...] = Field(min_length=2)
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject a value that is there twice."""
        if len({shown(value) for value in self.values}) < len(self.values):
            raise ValueError(f"values {list(self.values)}: one of them is there twice")

    def value(self, place: float) -> Value:
        """The value in whose share of [0, 1] a place is."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]

    def index(self, value: Value) -> int:
        """Which of the values it is; 1 is not True here."""
        return [shown(each) for each in self.values].index(shown(value))


Range = Annotated[Continuous | Log | Integer | Categorical, Field(discriminator="type")]


@settings
class Objective:
    """The weighted sum of the scores of parts, as `edge-grpo eval` computes them.

    ``weights``: part -> weight. The parts are the benchmarks of ``suite`` (looked for in ``data_dir``) or, without one,
    numbers of operands of the built-in arithmetic, each with ``problems`` held-out expressions. ``metric`` is
    ``pass@1/greedy`` or ``avg@k`` of k sampled answers.
    """

    weights: dict[str | int, float] = Field(min_length=1)
    suite: str = ""
    data_dir: str = ""
    metric: str = "pass@1/greedy"
    problems: int = Field(default=100, ge=1)

    def __post_init__(self) -> None:
        """Reject an unknown metric and weights that say nothing."""
        if not re.fullmatch(r"pass@1/greedy|avg@[1-9]\d{0,3}", self.metric):
            raise ValueError(f"metric {shortened(self.metric)!r}: wanted pass@1/greedy or avg@k, such as avg@4")
        if not all(self.weights.values()):
            raise ValueError(f"weights {dict(self.weights)}: wanted none that is 0; leave such a part out")
        if len(self.parts) < len(self.weights):
            raise ValueError(f"weights {dict(self.weights)}: a part is there twice")
        if WHOLE in self.parts:
            raise ValueError(f"weights: '{WHOLE}' is what their sum is called; name that benchmark otherwise")

    @property
    def parts(self) -> dict[str, float]:
        """Weights by the name of the part."""
        return {str(name): weight for name, weight in self.weights.items()}

    @property
    def samples(self) -> int:
        """Sampled answers a problem."""
        return int(self.metric.removeprefix("avg@")) if self.metric.startswith("avg@") else 0


@settings
class EarlyStop:
    """The median rule: a trial ends where its best held-out accuracy so far lies below the median of the others'.

    It is compared with trials that have finished, at equal steps from ``after_steps`` on, once there are
    ``after_trials`` of them. Needs ``eval.every``.

    Source: Golovin et al. 2017, Google Vizier, section 3.2.2; the best in place of the mean so far.
    """

    enabled: bool = False
    after_steps: int = Field(default=1, ge=1)
    after_trials: int = Field(default=5, ge=2)


@settings
class Space:
    """A search: ``space`` over the settings that are fixed (``base``, a file, with ``settings`` on top of it).

    ``initial`` of the ``trials`` are spread evenly (Sobol); each later one is where the upper confidence bound is
    highest, with the theory's squared width divided by ``scale`` and holding but for a chance of ``delta``.
    ``trial_s`` bounds the seconds of a trial (0: no bound).
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
            raise ValueError(f"space: {', '.join(twice)} is there twice ('also' counts); a setting has one range")


def words_at(space: Space, point: Point) -> list[str]:
    """The fixed settings and the values of a point, or of some of its settings, as ``key=value`` words.

    Sections stand before what is in them, so a ``method`` that is searched leaves the fixed settings of it in force.
    """
    named = {name: point[key] for key, each in space.space.items() if key in point for name in (key, *each.also)}
    words = [*space.settings, *(f"{name}={shown(value)}" for name, value in named.items())]
    return sorted(words, key=lambda word: word.partition("=")[0].count("."))


def config_at(space: Space, point: Point) -> Config:
    """The configuration of a point, or of some of its settings.

    Raises:
        ConfigError: these values do not go together.
    """
    return load_config(space.base or None, words_at(space, point))


def misfit(space: Space, point: Point) -> str:
    """Why a point is none of this space, or nothing."""
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
    """A value as YAML that reads as the same value again.

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
    """Coordinates of a point: one a range, one a value of a categorical one."""
    return sum(len(each.values) if isinstance(each, Categorical) else 1 for each in space.space.values())


def point_at(space: Space, places: Sequence[float]) -> dict[str, Value]:
    """The point at some places in [0, 1], one a range."""
    return {name: each.value(place) for (name, each), place in zip(space.space.items(), places, strict=True)}


def encode(space: Space, point: Point) -> list[float]:
    """The coordinates of a point, each in [0, 1]; a categorical one has a 1 at its value and 0 elsewhere."""
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
        raise ValueError(f"low {low:g} and high {high:g}: wanted low < high, and not the same in three digits")


def _rounded(value: float, low: float, high: float) -> float:
    return min(max(float(f"{value:.{_DIGITS}g}"), low), high)
