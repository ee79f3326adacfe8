import torch
from methods.steps import make_step

from edge_grpo.functional import advantages as adv
from edge_grpo.methods import Grpo

EVERY = [torch.arange(12)]


def test_scales_are_the_functions_of_that_name() -> None:
    batch = make_step()
    reward, group, scorable = batch.reward, batch.group, batch.scorable
    wanted = {
        "group": adv.group_normalized(reward, group, scorable),
        "batch": adv.batch_scaled(reward, group, scorable),
        "none": adv.group_centered(reward, group, scorable),
    }
    for scale, values in wanted.items():
        assert torch.equal(Grpo(scale=scale).signal(batch).row_advantages, values)


def test_gdpo_leaves_out_unscorable_rows() -> None:
    batch = make_step()
    signal = Grpo(objectives="normalize_then_sum").signal(batch)
    parts = torch.where(batch.scorable[:, None], batch.reward_parts, torch.nan)
    assert torch.equal(signal.row_advantages, adv.normalized_then_summed(parts, batch.reward_weights, batch.group))
