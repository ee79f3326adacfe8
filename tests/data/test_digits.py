import numpy as np
import pytest

from edge_grpo.base.rng import python_random
from edge_grpo.data.digits import TEMPLATES, DigitsSettings, picture, problems, solution
from edge_grpo.data.pictures import open_picture
from edge_grpo.data.problems import load_train_eval
from edge_grpo.data.settings import DataSettings


def test_problems_are_determined_by_the_settings() -> None:
    task = DigitsSettings()
    assert problems(task, count=5) == problems(task, count=9)[:5]
    assert problems(DigitsSettings(seed=1), count=5) != problems(task, count=5)


def test_a_problem_has_a_picture_and_its_numbers_sum() -> None:
    for one in problems(DigitsSettings(), count=20):
        left, right = one.meta["left"], one.meta["right"]
        assert one.answers == (str(int(str(left)) + int(str(right))),)
        assert one.solution == solution(int(str(left)), int(str(right)))
        assert one.images[0].size == (64, 32)
        assert one.prompt == f"<image>\n{TEMPLATES[0]}"
        assert len(one.variants) == len(TEMPLATES) - 1


def test_the_splits_share_no_picture() -> None:
    train, held_out = load_train_eval(DataSettings(task="digits"), num_eval=50, seed=0)
    seen = {one.images[0].digest for one in train.problems}
    assert len(train.problems) == 1024
    assert len(held_out.problems) == 50
    assert seen.isdisjoint(one.images[0].digest for one in held_out.problems)


def test_dots_are_as_many_as_the_number() -> None:
    task = DigitsSettings(dots=1.0, noise=0.0)
    for number in range(9):
        pixels = np.asarray(open_picture(picture(python_random("dots", number), (number,), task, "p"))).astype(int)
        paper = pixels[0, 0]
        ink = np.abs(pixels - paper).sum(-1) > 60
        assert _blobs(ink) == number


def _blobs(ink: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]") -> int:
    """The number of connected groups of set pixels."""
    left = {(int(y), int(x)) for y, x in np.argwhere(ink)}
    count = 0
    while left:
        front, count = [left.pop()], count + 1
        while front:
            y, x = front.pop()
            near = left & {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)}
            left -= near
            front += near
    return count


@pytest.mark.parametrize("digits", ["", "00", "1a"])
def test_only_different_digits_are_drawn(digits: str) -> None:
    with pytest.raises(ValueError, match="digits"):
        DigitsSettings(digits=digits)
