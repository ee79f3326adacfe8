"""Answers sampled from a model outside a training run, for per-question measurements."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.records import Group
from edge_grpo.base.tensors import Batch
from edge_grpo.config.tree import Config
from edge_grpo.data.problems import load_train_eval
from edge_grpo.evaluation.answers import HELD_OUT, SAMPLED, sample_rows, training_draws
from edge_grpo.methods.grpo import Grpo
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Sampling
from edge_grpo.rollout.open import open_sampler
from edge_grpo.rollout.sampler import Sampler
from edge_grpo.training.batching import batch_of
from edge_grpo.training.collect import Collector, stream

__all__ = ["Sampled", "sample", "sample_held_out", "summed_logprobs"]


@dataclass(frozen=True)
class Sampled:
    """Graded answers, one group per question, and the sampler whose rewards graded them."""

    groups: tuple[Group, ...]
    sampler: Sampler

    def batch(self, groups: Sequence[Group]) -> Batch:
        """Some of the groups as tensors."""
        return batch_of(groups, self.sampler)


def sample(config: Config, policy: Policy, *, num_problems: int) -> Sampled:
    """``rollout.group_size`` answers to each of ``num_problems`` training questions, graded, as training draws them.

    Args:
        config: data, rollout and reward; ``train.seed`` determines questions and draws.
        policy: the model.
        num_problems: how many questions; data with fewer is repeated.
    Raises:
        EdgeGrpoError: as training would.
    """
    rollout, seed = config.rollout, config.train.seed
    problems = load_train_eval(config.data, num_eval=config.eval.size, seed=config.eval.seed)[0].problems
    with open_sampler(config, policy=policy) as sampler:
        prompts = sampler.encode(problems, max_new_tokens=rollout.max_new_tokens).prompts
        sampling = Sampling.of(rollout)
        collector = Collector(sampler, Grpo(), sampling=sampling, group_size=rollout.group_size, seed=seed)
        collected = collector.collect(stream(prompts, seed=seed, start=0), step=0, num_groups=num_problems)
        return Sampled(collected.groups, sampler)


def sample_held_out(config: Config, policy: Policy, *, num_problems: int) -> Sampled:
    """``rollout.group_size`` answers to each of at most ``num_problems`` held-out questions, graded.

    They are those of ``edge-grpo eval`` with as many samples, the rollout's decoding and ``train.seed``.

    Args:
        config: data, rollout and reward.
        policy: the model.
        num_problems: how many questions, at most.
    Raises:
        EdgeGrpoError: as evaluation would.
    """
    problems = load_train_eval(config.data, num_eval=num_problems, seed=config.eval.seed)[1].problems
    draws = training_draws(config, config.rollout.group_size)
    with open_sampler(config, policy=policy) as sampler:
        prompts = sampler.encode(problems, max_new_tokens=draws.max_new_tokens).prompts
        rows = sample_rows(sampler, HELD_OUT, prompts, draws, SAMPLED)
        groups = (Group(prompt.problem, own) for prompt, own in zip(prompts, rows, strict=True))
        return Sampled(tuple(groups), sampler)


@torch.no_grad()
def summed_logprobs(policy: Policy, batch: Batch, *, temperature: float, at_once: int) -> Float[Tensor, " rows"]:
    """Log-probability of every completion as a whole, nats, ``at_once`` rows per forward pass."""
    found = []
    for start in range(0, len(batch.mask), at_once):
        own = slice(start, start + at_once)
        ids, attention, mask = (c[own].to(policy.device) for c in (batch.input_ids, batch.attention, batch.mask))
        scores = policy.score(ids, attention, mask, batch.scenes[own], temperature=temperature)
        found.append(scores.logprobs.sum(-1))
    return torch.cat(found).cpu()
