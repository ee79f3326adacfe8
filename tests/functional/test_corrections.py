import math

import torch

from edge_grpo.functional.corrections import masked_weights, sampler_log_weights, sequence_log_weights, truncated

NAN = float("nan")


def test_tokens_that_were_not_sampled_have_weight_one() -> None:
    old, sampling = torch.tensor([[-1.0, -1.0, NAN]]), torch.tensor([[-2.0, NAN, 3.0]])
    log_weights = sampler_log_weights(old, sampling, torch.tensor([[True, True, False]]))
    assert log_weights.tolist() == [[1, 0, 0]]
    assert truncated(log_weights, clip_max=3.0)[0, 1] == 1


def test_row_weights_are_products_of_token_weights() -> None:
    log_weights = torch.tensor([[0.5, 0.25], [1.0, 5.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert sequence_log_weights(log_weights, mask).tolist() == [[0.75, 0.75], [1, 1]]


def test_large_weights_are_truncated_or_zeroed() -> None:
    log_weights = torch.tensor([[math.log(2.0), math.log(4.0)]])
    assert torch.allclose(truncated(log_weights, clip_max=3.0), torch.tensor([[2.0, 3.0]]))
    assert torch.allclose(masked_weights(log_weights, clip_max=3.0), torch.tensor([[2.0, 0.0]]))


def test_weights_carry_no_gradient() -> None:
    old = torch.zeros(1, 1, requires_grad=True)
    assert not sampler_log_weights(old, old, torch.ones(1, 1).bool()).requires_grad
