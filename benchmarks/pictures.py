"""Draws the pictures of docs/images.md: what the task `digits` looks like, and one picture shown in every way.

.venv/bin/python benchmarks/pictures.py
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

from edge_grpo.base.records import Picture
from edge_grpo.data.digits import DigitsSettings, problems
from edge_grpo.data.pictures import open_picture, pillow
from edge_grpo.data.transforms import Transform

FOLDER: Final = Path("docs/images")
_SCALE: Final = 3
_GAP: Final = 8


def sheet(pictures: Sequence[Picture], columns: int, titles: Sequence[str] = ()) -> Any:
    """Pictures side by side, enlarged, each over its title."""
    pil = pillow()
    images = [open_picture(each) for each in pictures]
    shown = [each.resize((each.width * _SCALE, each.height * _SCALE), pil.Image.Resampling.NEAREST) for each in images]
    width, height = (max(sizes) for sizes in zip(*(each.size for each in shown), strict=True))
    line = 14 if titles else 0
    rows = -(-len(shown) // columns)
    size = (columns * (width + _GAP) + _GAP, rows * (height + line + _GAP) + _GAP)
    canvas = pil.Image.new("RGB", size, "white")
    pen = pil.ImageDraw.Draw(canvas)
    for number, each in enumerate(shown):
        left, top = _GAP + number % columns * (width + _GAP), _GAP + number // columns * (height + line + _GAP)
        canvas.paste(each, (left, top))
        if titles:
            pen.text((left, top + each.height), titles[number], fill="black")
    return canvas


def main() -> None:
    """Write both sheets."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    drawn = [problem.images[0] for problem in problems(DigitsSettings(), count=24)]
    sheet(drawn, 6).save(FOLDER / "digits.png", optimize=True)
    names = ["as it is", *get_args(Transform)]
    ways = [drawn[10], *(replace(drawn[10], transform=name, seed=1) for name in names[1:])]
    sheet(ways, 5, names).save(FOLDER / "transforms.png", optimize=True)


if __name__ == "__main__":
    main()
