r"""The built-in task: chains of ``+``, ``-`` and ``*`` over small numbers, with a worked solution for each.

``7-2*8+5`` is solved by rewriting it one operation at a time, products first, then left to right::

    =7-16+5
    =-9+5
    =-4
    \boxed{-4}
"""

import math
import random
import re
from collections.abc import Iterator

from pydantic import Field

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.records import Problem
from edge_grpo.base.rng import derive_seed, python_random
from edge_grpo.base.settings import settings

__all__ = [
    "PARAPHRASES",
    "ArithmeticSettings",
    "draw_expression",
    "held_out",
    "problems",
    "reduce",
    "solution",
]

PARAPHRASES = ("Compute {}.", "What is {}?", "Find the value of {}.")
"""Equivalent questions; the first is a problem's own prompt, the others are its variants."""

HELD_OUT_SHARE = 5  # one expression in five is held out
_HELD_OUT_POOL = 1000  # drawn together and shuffled, so asking for fewer does not make them easier
_TRIES = 2000
_FIRST_PRODUCT = re.compile(r"(?<!\d)(\d+)\*(\d+)")
_FIRST_SUM = re.compile(r"^(-?\d+)([+-])(\d+)")


@settings
class ArithmeticSettings:
    """The built-in task: how many problems, how long, how large.

    ``operands`` maps a number of operands to its weight in the mix; once the short expressions run out, longer ones
    take their share. No operand exceeds ``max_operand``, and no intermediate value ``max_value`` in magnitude;
    ``product_share`` is the probability that an operation is a product, unless the one before it is. ``seed`` decides
    which ``size`` problems are drawn.
    """

    seed: int = 0
    size: int = Field(default=1536, ge=1)
    operands: dict[int, float] = Field(default_factory=lambda: {2: 1.0, 3: 1.0, 4: 2.0, 5: 3.0, 6: 4.0})
    max_operand: int = Field(default=9, ge=2, le=99)
    max_value: int = Field(default=30, ge=4, le=999)
    product_share: float = Field(default=0.3, ge=0, le=1)

    def __post_init__(self) -> None:
        """Reject a mix that cannot be drawn from."""
        bad = [count for count, weight in self.operands.items() if count < 2 or weight < 0]
        if bad or not 0 < sum(self.operands.values()) < math.inf:
            raise ValueError(
                f"operands {dict(self.operands)}: wanted counts of at least 2 with finite weights, none negative, "
                "not all 0"
            )


def reduce(expression: str) -> str:
    """Perform one operation: the leftmost product, or else the leftmost sum or difference.

    Example:
        >>> reduce("7-2*8+5"), reduce("7-16+5"), reduce("-9+5")
        ('7-16+5', '-9+5', '-4')
    """
    found = _FIRST_PRODUCT.search(expression)
    if found:
        return expression[: found.start()] + str(int(found[1]) * int(found[2])) + expression[found.end() :]
    found = _FIRST_SUM.match(expression)
    if not found:
        raise ValueError(f"nothing to reduce in {expression!r}")
    left, right = int(found[1]), int(found[3])
    return str(left + right if found[2] == "+" else left - right) + expression[found.end() :]


def solution(expression: str) -> str:
    r"""The step-by-step derivation, one operation per line, ending in ``\boxed{}``.

    Example:
        >>> solution("2+3*4")
        '=2+12\n=14\n\\boxed{14}'
    """
    lines = [f"={line}" for line in _reductions(expression)]
    return "\n".join([*lines, f"\\boxed{{{lines[-1][1:]}}}"])


def held_out(expression: str) -> bool:
    """Whether an expression is in the held-out split: a function of its text alone, so the splits never overlap."""
    return derive_seed("arithmetic", "side", expression) % HELD_OUT_SHARE == 0


def draw_expression(rng: random.Random, settings: ArithmeticSettings, *, on_held_out: bool = False) -> str:
    """Draw an expression of one split from the mix.

    Raises:
        ConfigError: no expression fits ``settings``.
    """
    counts, weights = zip(*settings.operands.items(), strict=True)
    for _ in range(_TRIES):
        (count,) = rng.choices(counts, weights)
        expression = _draw(rng, count, settings)
        if held_out(expression) is on_held_out and _fits(expression, settings.max_value):
            return expression
    raise ConfigError(
        f"data.arithmetic: no expression with {' or '.join(map(str, counts))} operands keeps all results within "
        f"{settings.max_value}; raise max_value or allow fewer operands"
    )


def problems(settings: ArithmeticSettings, *, count: int, on_held_out: bool = False) -> list[Problem]:
    """The first ``count`` distinct problems of one split, determined by the settings.

    Up to 1000 held-out problems are a shuffled part of one fixed set, so any number of them is equally hard. (Training
    problems keep their drawing order: short expressions run out, so a larger set is slightly harder.)

    Raises:
        ConfigError: the settings do not allow that many distinct expressions.
    """
    side = "held-out" if on_held_out else "train"
    rng = python_random("arithmetic", settings.seed, side)
    drawn = _distinct(rng, settings, max(count, _HELD_OUT_POOL if on_held_out else 0), on_held_out=on_held_out)
    if len(drawn) < count:
        raise ConfigError(
            f"data.arithmetic: only {len(drawn)} distinct {side} expressions found, {count} wanted; "
            "ask for fewer, or allow more operands"
        )
    if on_held_out:
        rng.shuffle(drawn)
    return [_problem(expression, f"arithmetic-{side}-{number}") for number, expression in enumerate(drawn[:count])]


def _distinct(rng: random.Random, settings: ArithmeticSettings, count: int, *, on_held_out: bool) -> list[str]:
    """``count`` distinct expressions in drawing order; fewer if no new ones turn up."""
    drawn: dict[str, None] = {}
    misses = 0
    while len(drawn) < count and misses < _TRIES:
        before = len(drawn)
        drawn[draw_expression(rng, settings, on_held_out=on_held_out)] = None
        misses = 0 if len(drawn) > before else misses + 1
    return list(drawn)


def _problem(expression: str, name: str) -> Problem:
    *_, value = _reductions(expression)
    prompt, *others = (form.format(expression) for form in PARAPHRASES)
    return Problem(
        id=name,
        prompt=prompt,
        answers=(value,),
        solution=solution(expression),
        variants=tuple(others),
        meta={"expression": expression, "num_operands": len(re.findall(r"\d+", expression))},
    )


def _draw(rng: random.Random, count: int, settings: ArithmeticSettings) -> str:
    text = str(rng.randint(1, settings.max_operand))
    product = False
    for _ in range(count - 1):
        product = not product and rng.random() < settings.product_share  # never two in a row
        text += ("*" if product else rng.choice("+-")) + str(rng.randint(1, settings.max_operand))
    return text


def _reductions(expression: str) -> Iterator[str]:
    while not expression.lstrip("-").isdigit():
        expression = reduce(expression)
        yield expression


def _fits(expression: str, limit: int) -> bool:
    return all(int(number) <= limit for line in _reductions(expression) for number in re.findall(r"\d+", line))
