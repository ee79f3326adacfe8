from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_grpo.base.errors import ShapeError
from edge_grpo.functional.coverage import block_pass_at_k, pass_at_k, uplift_rate


@given(right=st.lists(st.booleans(), min_size=1, max_size=7), data=st.data())
def test_pass_at_k_matches_counting_every_draw(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    draws = [any(drawn) for drawn in combinations(right, k)]
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(sum(draws) / len(draws))


def test_large_numbers_stay_exact() -> None:
    assert pass_at_k(512, 1, 512) == 1.0
    assert pass_at_k(512, 1, 256) == 0.5
    assert pass_at_k(20, 10, 11) == 1.0


def test_too_few_answers_are_an_error() -> None:
    with pytest.raises(ShapeError, match="pass@5 needs at least 5"):
        pass_at_k(4, 1, 5)
    with pytest.raises(ShapeError, match="blocks of 5"):
        block_pass_at_k(torch.zeros(2, 4).bool(), k=5)


def test_blocks_match_hand_calculation() -> None:
    correct = torch.tensor([[1, 0, 0, 0, 1], [0, 0, 0, 1, 1]]).bool()
    assert block_pass_at_k(correct, k=1).tolist() == [0.5, 0, 0, 0.5, 1]
    assert block_pass_at_k(correct, k=2).tolist() == [0.5, 0.5]  # the fifth answer is in no block
    assert block_pass_at_k(correct, k=5).tolist() == [1.0]


@given(right=st.lists(st.booleans(), min_size=6, max_size=6))
def test_blocks_of_one_average_to_pass_at_one(right: list[bool]) -> None:
    assert block_pass_at_k(torch.tensor([right]), k=1).mean() == pytest.approx(pass_at_k(6, sum(right), 1))


def test_uplift_matches_hand_calculation() -> None:
    correct = torch.tensor([[True, False, True], [True, True, False]])
    before = torch.tensor([[-5.0, -1.0, -3.0], [-1.0, -2.0, -3.0]])
    after = torch.tensor([[-4.0, -2.0, -3.5], [-0.5, -2.0, -2.0]])
    rose, fell = uplift_rate(correct, before, after)
    # likeliest first: wrong fell, right fell, right rose; right rose, right unchanged, wrong rose
    assert rose.tolist() == [1.0, 0.0, 1.0]
    assert fell[0] == 1.0
    assert fell[1].isnan()
    assert fell[2] == 0.0


@given(seed=st.integers(0, 99))
def test_the_order_of_samples_does_not_matter(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    correct = torch.rand(4, 6, generator=generator) < 0.5
    before = torch.rand(4, 6, generator=generator, dtype=torch.float64)
    after = before + torch.rand(4, 6, generator=generator, dtype=torch.float64) - 0.5
    order = torch.randperm(6, generator=generator)
    here = uplift_rate(correct, before, after)
    there = uplift_rate(correct[:, order], before[:, order], after[:, order])
    assert all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(here, there, strict=True))
