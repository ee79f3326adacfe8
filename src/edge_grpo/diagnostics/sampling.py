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
from edge_grpo.methods.grpo import Grpo
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Sampling
from edge_grpo.rollout.open import open_sampler
from edge_grpo.training.batching import collate
from edge_grpo.training.collect import Collector, stream

__all__ = ["Sampled", "sample", "summed_logprobs"]


@dataclass(frozen=True)
class Sampled:
    """Graded answers, one group per question, and what it takes to turn them into tensors."""

    groups: tuple[Group, ...]
    part_names: tuple[str, ...]
    part_weights: tuple[float, ...]
    pad_id: int

    def batch(self, groups: Sequence[Group]) -> Batch:
        """Some of the groups as tensors."""
        return collate(groups, parts=self.part_names, weights=self.part_weights, pad_id=self.pad_id)


def sample(config: Config, policy: Policy, *, num_problems: int, held_out: bool = False) -> Sampled:
    """``rollout.group_size`` answers to each of ``num_problems`` questions, graded, as training samples them.

    Args:
        config: data, rollout and reward; ``train.seed`` determines questions and draws.
        policy: the model.
        num_problems: how many questions; data with fewer is repeated.
        held_out: take the evaluation problems, in order, at most once each.
    Raises:
        EdgeGrpoError: as training would.
    """
    rollout, seed = config.rollout, config.train.seed
    num_eval = num_problems if held_out else config.eval.size
    problems = load_train_eval(config.data, num_eval=num_eval, seed=config.eval.seed)[held_out].problems
    with open_sampler(config, policy=policy) as sampler:
        prompts = sampler.encode(problems, max_new_tokens=rollout.max_new_tokens).prompts
        collector = Collector(
            sampler,
            Grpo(),
            sampling=Sampling.of(rollout),
            group_size=rollout.group_size,
            seed=seed,
        )
        items = iter(prompts) if held_out else stream(prompts, seed=seed, start=0)
        count = min(num_problems, len(prompts)) if held_out else num_problems
        groups = collector.collect(items, step=0, num_groups=count).groups
        grader = sampler.grader
        return Sampled(groups, tuple(grader.part_names), tuple(grader.part_weights), sampler.stop_id)


@torch.no_grad()
def summed_logprobs(policy: Policy, batch: Batch, *, temperature: float, at_once: int) -> Float[Tensor, " rows"]:
    """Log-probability of every completion as a whole, nats, ``at_once`` rows per forward pass."""
    inputs = [column.to(policy.device) for column in (batch.input_ids, batch.attention, batch.mask)]
    pieces = zip(*(column.split(at_once) for column in inputs), strict=True)
    return torch.cat([policy.score(*piece, temperature=temperature).logprobs.sum(-1) for piece in pieces]).cpu()
