"""Entropy-driven advantages in a trainer of your own: two functions on tensors that it already holds.

python examples/in_your_trainer.py

The trainer here stands for any other: a toy policy writes four tokens per prompt and is rewarded if the last one is the
prompt's own. It holds rewards, prompt numbers, log-probs and an integer completion mask, as TRL and verl do.
"""

import torch
from torch import Tensor, nn

from edge_grpo.functional import (
    clipped_loss,
    entropy_driven_advantage,
    group_normalized,
    log_ratio,
    logprobs_and_entropy,
    mean_over_rows,
    relative_entropy,
)

PROMPTS, GROUP_SIZE, TOKENS, VOCABULARY, TEMPERATURE = 8, 8, 4, 8, 1.0


def edge_advantages(rewards: Tensor, prompt: Tensor, entropy: Tensor, completion_mask: Tensor) -> Tensor:
    """What replaces a trainer's group-normalised advantages: one number per completion."""
    relative = relative_entropy(entropy, completion_mask.bool(), prompt)  # each group's mean is 1
    return entropy_driven_advantage(group_normalized(rewards, prompt), relative)


def main(steps: int = 40) -> float:
    """Train the toy policy; returns the share of right completions at the end."""
    generator = torch.Generator().manual_seed(0)
    policy = nn.Embedding.from_pretrained(torch.zeros(PROMPTS * TOKENS, VOCABULARY), freeze=False)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    prompt = torch.arange(PROMPTS).repeat_interleave(GROUP_SIZE)
    states = prompt[:, None] * TOKENS + torch.arange(TOKENS)
    share = 0.0
    for step in range(steps):
        logits = policy(states)
        probabilities = torch.softmax(logits.detach() / TEMPERATURE, dim=-1)
        ids = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).view(states.shape)
        completion_mask = torch.ones_like(ids)
        rewards = (ids[:, -1] == prompt).float()

        logprobs, entropy = logprobs_and_entropy(logits, ids, temperature=TEMPERATURE)
        advantages = edge_advantages(rewards, prompt, entropy, completion_mask)
        mask = completion_mask.bool()
        ratio = log_ratio(logprobs, logprobs.detach(), mask)  # one update per batch: 1, but with a gradient
        per_token = clipped_loss(ratio, advantages[:, None].expand_as(ratio), mask, clip_low=0.2, clip_high=0.2)
        loss = mean_over_rows(per_token, mask, rows=len(rewards))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        share = float(rewards.mean())
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step:2d}: {share:4.0%} right, advantages {advantages.min():+.2f} to {advantages.max():+.2f}")
    return share


if __name__ == "__main__":
    main()
