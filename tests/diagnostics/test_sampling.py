"""Answers for measurements: reproducible, and to the requested problems."""

import torch
from support import tiny_policy

from edge_grpo.config.tree import load_config
from edge_grpo.diagnostics.sampling import sample, summed_logprobs

CONFIG = load_config(
    None, ["rollout.max_new_tokens=5", "rollout.group_size=3", "data.arithmetic.size=5", "reward.workers=1"]
)


def test_training_problems_go_round_and_held_out_ones_do_not() -> None:
    policy = tiny_policy()
    assert len(sample(CONFIG, policy, num_problems=7).groups) == 7
    held_out = sample(CONFIG, policy, num_problems=4, held_out=True)
    assert [group.problem.id for group in held_out.groups] == [f"arithmetic-held-out-{i}" for i in range(4)]
    assert sample(CONFIG, policy, num_problems=4, held_out=True) == held_out


def test_summed_log_probs_are_those_of_the_engine() -> None:
    policy = tiny_policy()
    drawn = sample(CONFIG, policy, num_problems=2)
    batch = drawn.batch(drawn.groups)
    recorded = torch.tensor(
        [sum(s for x in row.rollout.spans for s in x.logprobs) for g in drawn.groups for row in g.rows]
    )
    for at_once in (1, 4):
        scored = summed_logprobs(policy, batch, temperature=1.0, at_once=at_once)
        assert torch.allclose(scored, recorded, atol=1e-4)
