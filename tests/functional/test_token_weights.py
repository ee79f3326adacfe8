import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edge_grpo.functional import token_weights as tw
from edge_grpo.functional.relative import standardized_reward


class Peak(TorchDispatchMode):
    """Records the shape of the largest tensor that any operation returned, excluding views of the given tensors."""

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.shape: tuple[int, ...] = ()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if not isinstance(leaf, Tensor) or leaf.untyped_storage().data_ptr() in self.known:
                continue
            if leaf.numel() > math.prod(self.shape or (0,)):
                self.shape = tuple(leaf.shape)
        return result


def drawn(seed: int = 0, *, tokens: int = 11, dim: int = 3, vocab: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, token ids, output matrix and anchors."""
    generator = torch.Generator().manual_seed(seed)
    hidden, head = (torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in (tokens, vocab))
    ids = torch.randint(vocab, (tokens,), generator=generator)
    return hidden, ids, head, torch.rand(tokens, generator=generator) < 0.5


def spelled_out(hidden: Tensor, ids: Tensor, head: Tensor, anchors: Tensor, vocabulary: Tensor | None = None) -> Tensor:
    """The definition, over every pair of tokens and every vocabulary entry."""
    errors = torch.nn.functional.one_hot(ids, len(head)).to(hidden.dtype) - (hidden @ head.T).softmax(-1)
    errors = errors if vocabulary is None else errors[:, vocabulary]
    pairs = (errors @ errors.T) * (hidden @ hidden.T)
    return pairs[:, anchors].sum(-1)


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 8), st.booleans())
def test_scores_match_the_definition_at_any_chunk_size(
    seed: int, tokens_at_once: int, vocab_at_once: int, part: bool
) -> None:
    hidden, ids, head, anchors = drawn(seed)
    vocabulary = ids.unique() if part else None
    sizes = {"tokens_at_once": tokens_at_once, "vocab_at_once": vocab_at_once}
    got = tw.token_scores(hidden, ids, head, anchors, vocabulary=vocabulary, **sizes)
    assert torch.allclose(got, spelled_out(hidden, ids, head, anchors, vocabulary), atol=1e-11)


def test_a_score_is_the_slope_of_the_anchors_log_probability() -> None:
    """The effect of a step along one token's log-prob gradient on the anchors' log-prob, through W alone."""
    hidden, ids, head, anchors = drawn()
    head.requires_grad_()
    logprobs = (hidden @ head.T).log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)
    (slope,) = torch.autograd.grad(logprobs[anchors].sum(), head, retain_graph=True)
    wanted = [(torch.autograd.grad(one, head, retain_graph=True)[0] * slope).sum() for one in logprobs]
    got = tw.token_scores(hidden, ids, head, anchors)
    assert torch.allclose(got, torch.stack(wanted), atol=1e-12)
    assert not got.requires_grad
    assert got[anchors].sum() >= 0


def test_gwhes_is_the_slope_along_the_grpo_gradient() -> None:
    hidden, ids, head, _ = drawn(3, tokens=14)
    row = torch.tensor([0] * 3 + [1] * 4 + [2] * 2 + [3] * 5)
    correct = torch.tensor([True, False, True, False])
    advantages = standardized_reward(correct.double(), torch.zeros(4).long(), correct | ~correct, eps=0.0, ddof=0)
    head.requires_grad_()
    logprobs = (hidden @ head.T).log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)
    (step,) = torch.autograd.grad((advantages[row] * logprobs).sum(), head, retain_graph=True)
    scores = [tw.token_scores(hidden, ids, head, side[row]) for side in (correct, ~correct)]
    negative, positive = tw.gwhes(*scores, row, correct)
    for index in (0, 2):
        (slope,) = torch.autograd.grad(logprobs[row == index].sum(), head, retain_graph=True)
        assert (slope * step).sum().item() == pytest.approx((positive - negative)[index].item(), rel=1e-12)
    assert negative[~correct].tolist() == positive[~correct].tolist() == [0, 0]


def test_gwhes_needs_right_and_wrong_responses() -> None:
    scores, row = torch.ones(2), torch.tensor([0, 1])
    for correct in ([True, True], [False, False]):
        assert [term.tolist() for term in tw.gwhes(scores, scores, row, torch.tensor(correct))] == [[0, 0], [0, 0]]


def test_own_scores_count_only_tokens_of_the_same_row() -> None:
    hidden, ids, head, _ = drawn()
    row, chosen = torch.arange(11) % 3, torch.tensor([True, False, True])
    got = tw.own_scores(hidden, ids, head, row, chosen)
    for index in range(3):
        own = row == index
        wanted = spelled_out(hidden, ids, head, own)[own] if chosen[index] else torch.zeros(int(own.sum())).double()
        assert torch.allclose(got[own], wanted, atol=1e-12)
    assert tw.own_scores(hidden, ids, head, row, torch.zeros(3).bool()).tolist() == [0] * 11


def test_a_head_with_a_bias_is_supported() -> None:
    hidden, ids, head, anchors = drawn()
    bias = torch.linspace(-1, 1, len(head), dtype=torch.float64)
    with_one = torch.cat([hidden, torch.ones(len(hidden), 1, dtype=torch.float64)], dim=1)
    got = tw.token_scores(hidden, ids, torch.cat([head, bias[:, None]], 1), anchors, head_input=with_one)
    errors = torch.nn.functional.one_hot(ids, len(head)).double() - (hidden @ head.T + bias).softmax(-1)
    assert torch.allclose(got, ((errors @ errors.T) * (hidden @ hidden.T))[:, anchors].sum(-1), atol=1e-12)


@pytest.mark.parametrize("part", [False, True])
def test_memory_grows_with_neither_vocabulary_nor_tokens(part: bool) -> None:
    """No operation returns anything close to tokens x vocabulary, vocabulary x vocabulary or even vocabulary x dim."""
    tokens, dim, vocab = 600, 8, 3000
    hidden, ids, head, anchors = drawn(tokens=tokens, dim=dim, vocab=vocab)
    row, chosen = torch.arange(tokens) % 2, torch.tensor([True, True])
    sizes: dict[str, Any] = {"tokens_at_once": 50, "vocab_at_once": 100, "vocabulary": ids.unique() if part else None}
    with Peak(head) as scores:
        tw.token_scores(hidden, ids, head, anchors, **sizes)
    with Peak(head) as own:
        tw.own_scores(hidden, ids, head, row, chosen, **sizes)
    for peak in (scores, own):
        assert 50 * 100 <= math.prod(peak.shape) <= max(50 * 100, tokens * dim), peak.shape
    assert max(50 * 100, tokens * dim) < min(tokens * vocab, vocab * vocab, vocab * dim)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_summed_in_float32(dtype: torch.dtype) -> None:
    hidden, ids, head, anchors = drawn(tokens=200)
    hidden, head = hidden.to(dtype), head.to(dtype)
    got = tw.token_scores(hidden, ids, head, anchors)
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), spelled_out(hidden.double(), ids, head.double(), anchors), rtol=1e-4, atol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tw.token_scores(hidden, ids, head, anchors), got)
    assert tw.token_scores(*drawn()).dtype == torch.float64


def test_without_anchors_every_score_is_zero() -> None:
    hidden, ids, head, anchors = drawn()
    assert tw.token_scores(hidden, ids, head, torch.zeros_like(anchors)).tolist() == [0] * 11


def test_thresholds_scale_the_smallest_right_mean() -> None:
    means = torch.tensor([4.0, -6.0, 99.0, 8.0, 1.0])
    group, right = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([True, True, False, True, False])
    assert tw.score_threshold(means, group, right, factor=0.5).tolist() == [-3, -3, -3, 4, math.inf]
    assert tw.score_threshold(means, group, right, factor=0.0).tolist() == [0, 0, 0, 0, math.inf]
    every = tw.score_threshold(means, group, right, factor=-math.inf)
    assert every.tolist() == [-math.inf] * 4 + [math.inf]  # even if the smallest mean is negative


def test_likelihood_change_ignores_wrong_rows_and_garbage_outside_the_mask() -> None:
    nan = torch.nan
    before = torch.tensor([[nan, -1.0, -2.0], [nan, -1.0, nan], [nan, -3.0, nan], [nan, -1.0, nan]])
    after = torch.tensor([[nan, -1.5, -2.5], [nan, -0.8, nan], [nan, -9.0, nan], [nan, -9.0, nan]])
    mask = torch.tensor([[False, True, True], [False, True, False], [False, True, False], [False, True, False]])
    group, right = torch.tensor([0, 0, 0, 1]), torch.tensor([True, True, False, False])
    change = tw.likelihood_change(before, after, mask, group, right)
    assert change[:3].tolist() == pytest.approx([-0.4] * 3)
    assert change[3].isnan()


def test_top_overlap_counts_shared_items() -> None:
    change = torch.tensor([-3.0, -2.0, -1.0, 0.0])
    assert tw.top_overlap(-change, change, k=2) == 1
    assert tw.top_overlap(change, change, k=2) == 0
    assert tw.top_overlap(change, change, k=4) == 1
    assert tw.top_overlap(torch.tensor([9.0, 0.0, 9.0, 0.0]), change, k=2) == 0.5
