"""Answers for measurements: reproducible, and to the requested problems."""

import torch
from support import tiny_policy

from edge_grpo.config.tree import load_config
from edge_grpo.diagnostics.sampling import sample, sample_held_out, summed_logprobs
from edge_grpo.evaluation.answers import HELD_OUT, SAMPLED, answer, training_draws
from edge_grpo.rollout.open import open_sampler

CONFIG = load_config(
    None, ["rollout.max_new_tokens=5", "rollout.group_size=3", "data.arithmetic.size=5", "reward.workers=1"]
)


def test_training_problems_are_repeated_where_there_are_too_few() -> None:
    policy = tiny_policy()
    drawn = sample(CONFIG, policy, num_problems=7).groups
    assert len(drawn) == 7
    assert len({group.problem.id for group in drawn}) == 5


def test_held_out_answers_are_those_of_an_evaluation() -> None:
    policy = tiny_policy()
    groups = sample_held_out(CONFIG, policy, num_problems=4).groups
    assert [group.problem.id for group in groups] == [f"arithmetic-held-out-{i}" for i in range(4)]
    draws = training_draws(CONFIG, 3)
    with open_sampler(CONFIG, policy=policy) as sampler:
        prompts = sampler.encode([group.problem for group in groups[2:]], max_new_tokens=5).prompts
        evaluated = answer(sampler, HELD_OUT, prompts, draws, SAMPLED)
        texts = sampler.texts([row.rollout for group in groups[2:] for row in group.rows])
    assert [each.completion for each in evaluated] == texts


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
