import pytest
from methods.steps import by_hand

from edge_grpo.methods.cispo import Cispo


def test_capped_weights_on_the_log_likelihood() -> None:
    x, totals = by_hand([[9.0, 1.5], [0.5]], [1.0, -2.0], logprobs=-3.0)
    loss = Cispo().loss(x, totals)
    loss.backward()
    assert loss.item() == pytest.approx((5 * 3 + 1.5 * 3 - 2 * 0.5 * 3) / 3)
    assert x.logprobs.grad is not None
    assert x.logprobs.grad[0].tolist() == pytest.approx([-5 / 3, -0.5])


def test_the_share_of_capped_tokens_is_observed() -> None:
    x, totals = by_hand([[9.0, 1.5], [9.0]], [1.0, -2.0])
    assert Cispo().observe(x, totals)["clip/high"] == (1.0, 3.0)
