r"""The built-in task for vision-language models: two numbers in a picture, each a digit or a group of dots, to add.

A worked answer names both numbers before it adds them::

    <think>3+5</think>
    \boxed{8}
"""

import random
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from pydantic import Field

from edge_grpo.base.records import Picture, Problem
from edge_grpo.base.rng import python_random
from edge_grpo.base.settings import settings
from edge_grpo.data.pictures import PLACEHOLDER, picture_of, pillow

__all__ = ["TEMPLATES", "DigitsSettings", "draw_numbers", "picture", "problems", "solution"]

TEMPLATES: Final = (
    "Add the two numbers in the picture.",
    "What is the sum of the two numbers shown?",
    "The picture shows two numbers. Give their total.",
    "Read both numbers and add them.",
)
"""Equivalent questions; the first is a problem's own prompt, the others are its variants."""

_SYMBOLS: Final = "0123456789"
_CELL: Final = 32  # pixels on a side, one cell for each number


@settings
class DigitsSettings:
    """The built-in task with pictures: how many problems, and what is drawn.

    ``digits`` are those that occur; the usual ones leave out 6 and 9, which look alike when turned. A number is drawn
    as that many dots, in place of its digit, with probability ``dots``. Size, place, colours and background change
    from picture to picture; ``noise`` is the standard deviation of what is added to every pixel (0 to 255). ``seed``
    decides which ``size`` problems are drawn.
    """

    seed: int = 0
    size: int = Field(default=1024, ge=1)
    digits: str = Field(default="01234578", min_length=1)
    dots: float = Field(default=0.3, ge=0, le=1)
    noise: float = Field(default=8.0, ge=0, le=255)

    def __post_init__(self) -> None:
        """Reject symbols that are not digits, or given twice."""
        if not set(self.digits) <= set(_SYMBOLS) or len(set(self.digits)) < len(self.digits):
            raise ValueError(f"digits: got {self.digits!r}, wanted different digits, such as 01234578")


def solution(left: int, right: int) -> str:
    r"""The worked answer.

    Example:
        >>> solution(3, 5)
        '<think>3+5</think>\n\\boxed{8}'
    """
    return f"<think>{left}+{right}</think>\n\\boxed{{{left + right}}}"


def draw_numbers(rng: random.Random, task: DigitsSettings) -> tuple[int, int]:
    """The two numbers of a picture."""
    return int(rng.choice(task.digits)), int(rng.choice(task.digits))


def picture(rng: random.Random, numbers: Sequence[int], task: DigitsSettings, name: str) -> Picture:
    """A picture of numbers side by side, 32 pixels high and 32 wide for each."""
    pil = pillow()
    dark, light = rng.randint(0, 70), rng.randint(185, 255)
    ink, paper = (dark, light) if rng.random() < 0.5 else (light, dark)
    canvas = pil.Image.new("RGB", (_CELL * len(numbers), _CELL), _tinted(rng, paper))
    pen = pil.ImageDraw.Draw(canvas)
    for place, number in enumerate(numbers):
        if rng.random() < task.dots:
            _draw_dots(rng, pen, place * _CELL, number, _tinted(rng, ink))
        else:
            font = pil.ImageFont.load_default(rng.randint(20, 28))
            spot = place * _CELL + _CELL // 2 + rng.randint(-4, 4), _CELL // 2 + rng.randint(-3, 3)
            pen.text(spot, str(number), fill=_tinted(rng, ink), font=font, anchor="mm")
    return picture_of(_noisy(pil, canvas, task.noise, rng.getrandbits(32)), name)


def problems(task: DigitsSettings, *, count: int, on_held_out: bool = False) -> list[Problem]:
    """The first ``count`` problems of one split, determined by the settings; no picture is in both splits.

    Raises:
        ConfigError: Pillow is not installed.
    """
    side = "held-out" if on_held_out else "train"
    rng = python_random("digits", task.seed, side)
    found = []
    for number in range(count):
        left, right = draw_numbers(rng, task)
        name = f"digits-{side}-{number}"
        own, *others = (f"{PLACEHOLDER}\n{text}" for text in TEMPLATES)
        found.append(
            Problem(
                id=name,
                prompt=own,
                answers=(str(left + right),),
                solution=solution(left, right),
                variants=tuple(others),
                meta={"left": left, "right": right},
                images=(picture(rng, (left, right), task, name),),
            )
        )
    return found


def _tinted(rng: random.Random, level: int) -> tuple[int, int, int]:
    """A grey level with a little colour."""
    red, green, blue = (min(255, max(0, level + rng.randint(-25, 25))) for _ in range(3))
    return red, green, blue


def _draw_dots(rng: random.Random, pen: Any, left: int, number: int, ink: tuple[int, int, int]) -> None:
    """As many dots as the number says, in different cells of a grid of 3 x 3."""
    radius = rng.choice((2, 3))
    for cell in rng.sample(range(9), number):
        x, y = left + 6 + 10 * (cell % 3) + rng.randint(-1, 1), 6 + 10 * (cell // 3) + rng.randint(-1, 1)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)


def _noisy(pil: Any, image: Any, deviation: float, seed: int) -> Any:
    noise = np.random.default_rng(seed).normal(0.0, deviation, (image.height, image.width, 3))
    return pil.Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
