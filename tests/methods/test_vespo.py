import math
from dataclasses import replace

import pytest
from methods.steps import by_hand
from pydantic import ValidationError

from edge_grpo.methods.vespo import Vespo


def test_weights_of_rows_on_the_log_likelihood() -> None:
    x, totals = by_hand([[1.5, 0.8], [0.5]], [1.0, -2.0], logprobs=-3.0)
    positive = (1.5 * 0.8) ** 2 * math.exp(3 * (1 - 1.5 * 0.8))
    negative = 0.5**3 * math.exp(2 * (1 - 0.5))
    assert Vespo().loss(x, totals).item() == pytest.approx((2 * positive * 3 - 2 * negative * 3) / 3)


def test_a_sampler_correction_enters_once() -> None:
    x, totals = by_hand([[1.0]], [1.0])
    x = replace(x, sampling_logprobs=x.old_logprobs - math.log(2.0))
    wanted = 2.0**2 * math.exp(3 * (1 - 2.0))
    assert Vespo(sampler_correction="token_truncate").loss(x, totals).item() == pytest.approx(wanted)


def test_only_corrections_by_token_are_known() -> None:
    with pytest.raises(ValidationError, match="sampler_correction"):
        Vespo(sampler_correction="sequence_mask")  # type: ignore[arg-type]
