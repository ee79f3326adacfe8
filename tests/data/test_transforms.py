import re
from typing import get_args

import numpy as np
import pytest

from edge_grpo.data.transforms import SENTENCES, Transform, transformed

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
NAMES = get_args(Transform)
UNDO = {
    "rotate_90cw": "rotate_90ccw",
    "rotate_90ccw": "rotate_90cw",
    **{name: name for name in NAMES if name.endswith("flipped") or name == "rotate_180cw"},
}


@pytest.mark.parametrize("name", UNDO)
def test_what_moves_pixels_is_undone_by_its_opposite(name: str) -> None:
    moved = transformed(PIXELS, name)
    assert not np.array_equal(moved, PIXELS)
    assert np.array_equal(transformed(moved, UNDO[name]), PIXELS)


def test_a_clockwise_turn_brings_the_left_edge_to_the_top() -> None:
    assert np.array_equal(transformed(PIXELS, "rotate_90cw")[0], PIXELS[::-1, 0])
    assert np.array_equal(transformed(PIXELS, "rotate_90ccw")[0], PIXELS[:, -1])


def test_sentences_name_what_was_done_and_how_to_undo_it() -> None:
    assert set(SENTENCES) == set(NAMES)
    clockwise = [re.findall(r"(counter)?clockwise", SENTENCES[name]) for name in ("rotate_90cw", "rotate_90ccw")]
    assert clockwise == [["", "counter"], ["counter", ""]]  # done, to undo
    assert "top and bottom" in SENTENCES["vertically_flipped"]
    assert "left and right" in SENTENCES["horizontally_flipped"]


@pytest.mark.parametrize("deviation", [10, 25, 50])
def test_noise_has_its_deviation_and_comes_from_its_seed(deviation: int) -> None:
    name, grey = f"gaussian_noise_mean0_std{deviation}", np.full((100, 100, 3), 127, dtype=np.uint8)
    noisy = transformed(grey, name, seed=1)
    assert np.array_equal(noisy, transformed(grey, name, seed=1))
    assert not np.array_equal(noisy, transformed(grey, name, seed=2))
    assert float(noisy.std()) == pytest.approx(deviation, rel=0.05)
    assert float(noisy.mean()) == pytest.approx(126.5, abs=1)  # fractions are dropped


def test_values_stay_between_0_and_255() -> None:
    for level in (0, 255):
        noisy = transformed(np.full((50, 50, 3), level, dtype=np.uint8), "gaussian_noise_mean0_std50")
        assert noisy.min() >= 0
        assert abs(int(np.median(noisy)) - level) < 40


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        transformed(PIXELS, "sheared")
