"""The in-process engine beside a server: 32 prompts, greedy, the same policy."""

import torch

from edge_grpo.base.records import Rollout
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Engine, Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine

GREEDY = Sampling(24, temperature=0.0)


def prompts() -> list[Request]:
    """Short and long ones: beyond 128 tokens vLLM reuses what it computed for the prompt before."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 400, (32,), generator=generator).tolist()
    return [Request(tuple(torch.randint(3, 262, (n,), generator=generator).tolist()), (0,)) for n in lengths]


def in_process(policy: Policy) -> DecodeEngine:
    return DecodeEngine(policy, stop_ids=(policy.tokenizer.eos_token_id,), pad_id=0)


def largest_gap(engine: Engine, policy: Policy) -> float:
    """The largest difference of log-probs, of which all tokens must be the same."""
    asked = prompts()
    theirs, ours = engine.sample(asked, GREEDY), in_process(policy).sample(asked, GREEDY)
    assert [ids(own) for own in theirs] == [ids(own) for own in ours]
    pairs = [(one.spans[0].logprobs, two.spans[0].logprobs) for (one,), (two,) in zip(theirs, ours, strict=True)]
    return max(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True))


def ids(group: tuple[Rollout, ...]) -> tuple[int, ...]:
    return group[0].completion_ids


def perturb(policy: Policy, seed: int, scale: float = 0.02) -> None:
    """Move all trained weights, as a large step would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in policy.trained():
            weight.add_(scale * torch.randn(weight.shape, generator=generator))
