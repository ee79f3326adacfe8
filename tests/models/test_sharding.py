"""Divided weights: gradients are those of one process, weights come back whole, and nothing stays undivided unseen."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rank_jobs
import torch
from families import FAMILIES
from rank_jobs import Arrays
from rank_pool import Pool, RankError
from support import padded_rows, save_tiny
from torch import nn

from edge_grpo.base.errors import EngineError
from edge_grpo.models.scoring import Scorer
from edge_grpo.models.sharding import check_divided

Pools = Callable[[int], Pool]


def assert_equal(found: Arrays, wanted: Arrays) -> None:
    """Equal to 1e-5 of the largest value of each tensor."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.abs(found[name] - value).max() <= 1e-5 * max(np.abs(value).max(), 1e-3), name


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_gradients_are_sums_over_ranks(pool: Pools, name: str, size: int) -> None:
    wanted = rank_jobs.learn(rank_jobs.whole_policy(name))
    for found in pool(size).call(rank_jobs.divided_gradients, name):
        assert_equal(found, wanted)


SOME = ("gemma3_text", "gpt2", "mixtral", "qwen3_next", "zamba2")


@pytest.mark.parametrize(
    "name", [each if each in SOME else pytest.param(each, marks=pytest.mark.slow) for each in FAMILIES]
)
def test_gradients_of_families_are_sums_over_ranks(pool: Pools, name: str) -> None:
    wanted = rank_jobs.learn(rank_jobs.whole_policy(name))
    for found in pool(2).call(rank_jobs.divided_gradients, name):
        assert_equal(found, wanted)


@pytest.mark.parametrize("name", ["tied", "qwen3_next"])
def test_recomputed_activations_give_the_same_gradients(pool: Pools, name: str) -> None:
    wanted = rank_jobs.learn(rank_jobs.whole_policy(name))
    for found, passes in pool(2).call(rank_jobs.recomputed_gradients, name):
        assert_equal(found, wanted)
        assert passes == 2 * 3  # each of a rank's three rows, forwards and again backwards


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_weights_are_whole_inside_a_block_and_divided_after_it(pool: Pools, name: str) -> None:
    policy = rank_jobs.whole_policy(name)
    wanted = rank_jobs.arrays(dict(policy.trained()))
    with torch.no_grad():
        scores = policy.score(*padded_rows(), temperature=1.0).logprobs.numpy()
    for rank, (inside, after, found) in enumerate(pool(2).call(rank_jobs.opened_weights, name)):
        for weights in (inside, after):
            assert weights.keys() == wanted.keys()
            assert all(np.array_equal(weights[key], value) for key, value in wanted.items())
        assert len(found) == (2 if rank == 0 else 0)
        assert all(np.allclose(each, scores, atol=1e-6) for each in found.values())


def test_ranks_agree_on_the_dtype_and_keep_no_undivided_weights(pool: Pools, tmp_path: Path) -> None:
    found = pool(2).call(rank_jobs.half_by_rank, str(save_tiny(tmp_path)))
    assert found == [("bfloat16", 0), ("bfloat16", 0)]


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_the_head_and_hidden_states_are_those_of_the_model(pool: Pools, name: str) -> None:
    policy = rank_jobs.whole_policy(name)
    for found in pool(2).call(rank_jobs.head_matrix, name):
        assert np.array_equal(found["head"], policy.head_weight(temperature=0.5).numpy())
        assert np.allclose(found["hidden"], policy.hidden_states(*padded_rows()).numpy(), atol=1e-6)


def test_weights_that_were_not_divided_are_an_error() -> None:
    with pytest.raises(
        EngineError, match=r"distributed\.shard: 2 weights .*\(model\.weight, \.\.\.\); set .*shard=none"
    ):
        check_divided(Scorer(nn.Linear(2, 2)))


@pytest.mark.parametrize("why", ["scalar", "strided"])
def test_a_model_that_cannot_be_divided_is_one_line(pool: Pools, why: str) -> None:
    with pytest.raises(
        RankError, match=r"EngineError: distributed\.shard: .* cannot be divided .*; set distributed\.shard=none"
    ):
        pool(2).call(rank_jobs.indivisible, why)
