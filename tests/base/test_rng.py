"""Seeds and streams are the same everywhere and do not depend on how they are drawn."""

import numpy as np
import pytest

from edge_grpo.base.rng import derive_seed, python_random, uniforms


def test_seeds_never_change() -> None:
    assert derive_seed(0, "sample", 1, 2, 3) == 7686055138434278489
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert derive_seed("a", 1) != derive_seed("a", "1")
    assert 0 <= derive_seed("x") < 2**64


def test_python_random_is_reproducible() -> None:
    assert python_random(1, "a").random() == python_random(1, "a").random()
    assert python_random(1, "a").random() != python_random(2, "a").random()


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 63, 64, 1001])
def test_any_stretch_of_a_stream_matches_the_whole(start: int) -> None:
    whole = uniforms(2**63 + 5, 0, 1100)
    assert np.array_equal(uniforms(2**63 + 5, start, 64), whole[start : start + 64])
    assert ((whole >= 0) & (whole < 1)).all()
    assert abs(whole.mean() - 0.5) < 0.05
