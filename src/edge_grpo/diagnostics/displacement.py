"""Measure lazy likelihood displacement: does one update make a question's right answers less likely?

Every update starts from the same weights, so that only the question's own group acts on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_grpo.base.errors import DataError
from edge_grpo.base.tensors import Batch
from edge_grpo.base.world import World
from edge_grpo.config.sections import TrainSettings
from edge_grpo.config.tree import Config
from edge_grpo.diagnostics.sampling import sample
from edge_grpo.evaluation.intervals import t_interval
from edge_grpo.functional import token_weights
from edge_grpo.methods.nthr import Nthr
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy
from edge_grpo.trackers.console import Display
from edge_grpo.training.update import Updater, make_optimizer

__all__ = ["ARMS", "Displacement", "measure", "report"]

ARMS = {
    "GRPO": Nthr(eta=1.0, beta=0.0),
    "NTHR": Nthr(eta=0.0, beta=0.0),
    "right answers alone": Nthr(threshold="all", eta=0.0, beta=0.0),
}
"""One update each: all wrong tokens penalised, those that resemble right ones spared, none penalised."""


@dataclass(frozen=True)
class Displacement:
    """A question with right and wrong answers.

    ``gwhes`` predicts a fall (mean over right answers); ``change`` is each arm's mean gain in the right answers' summed
    log-probs from one update, nats; ``selected`` is the share of wrong answers' tokens that NTHR spares.
    """

    problem: str
    num_right: int
    num_answers: int
    gwhes: float
    selected: float
    change: Mapping[str, float]


def measure(config: Config, *, num_problems: int, display: Display) -> list[Displacement]:
    """Sample groups and take one update per arm on each mixed one, always from the model's original weights.

    Args:
        config: model, data, rollout and ``train.learning_rate``; its method is ignored.
        num_problems: how many questions to sample.
        display: shows progress.
    Raises:
        DataError: no question has both right and wrong answers.
    """
    policy = load_policy(config.model)
    sampled = sample(config, policy, num_problems=num_problems)
    found = []
    mixed = [g for g in sampled.groups if len({row.grade.correct for row in g.rows if row.grade.scorable}) == 2]
    for number, group in enumerate(mixed, 1):
        found.append(_one(policy, sampled.batch([group]), group.problem.id, config))
        if number % 10 == 0:
            display.say(f"{number}/{len(mixed)} questions")
    if not found:
        raise DataError(f"none of {num_problems} questions has both right and wrong answers; sample more questions")
    return found


def _one(policy: Policy, batch: Batch, name: str, config: Config) -> Displacement:
    before = [weight.detach().clone() for _, weight in policy.trained()]
    change: dict[str, float] = {}
    gwhes = selected = 0.0
    for arm, method in ARMS.items():
        train = TrainSettings(
            learning_rate=config.train.learning_rate,
            schedule="constant",
            max_grad_norm=config.train.max_grad_norm,
            micro_batch_rows=config.train.micro_batch_rows,
        )
        updater = Updater(
            policy=policy,
            optimizer=make_optimizer(policy, train),
            method=method,
            train=train,
            temperature=config.rollout.temperature,
            max_new_tokens=config.rollout.max_new_tokens,
            world=World(),
        )
        scored = updater.score(batch)
        if arm == "NTHR":
            chosen, wrong = method.selected(scored), scored.mask & (~scored.correct & scored.scorable)[:, None]
            selected, gwhes = float(chosen.sum() / wrong.sum()), _gwhes(policy, batch, config)
        updater.step(scored, updater.signal(scored), step=0)
        after = updater.score(batch).old_logprobs
        right = scored.correct & scored.scorable
        gain = token_weights.likelihood_change(scored.old_logprobs, after, scored.mask, scored.group, right)
        change[arm] = float(gain[0])
        with torch.no_grad():
            for (_, weight), old in zip(policy.trained(), before, strict=True):
                weight.copy_(old)
    return Displacement(name, int(right.sum()), len(right), gwhes, selected, change)


@torch.no_grad()
def _gwhes(policy: Policy, batch: Batch, config: Config) -> float:
    """GWHES of the question over the full vocabulary, mean over its right answers."""
    hidden = policy.hidden_states(batch.input_ids, batch.attention, batch.mask, batch.scenes)
    head, ids = policy.head_weight(temperature=config.rollout.temperature), batch.input_ids[batch.mask]
    row, right = batch.mask.nonzero()[:, 0], batch.correct & batch.scorable

    def scores(anchors: Tensor) -> Tensor:
        return token_weights.token_scores(hidden, ids, head, anchors[row])

    wrong_side, right_side = token_weights.gwhes(scores(right), scores(~right & batch.scorable), row, right)
    return float((wrong_side - right_side)[right].mean())


def report(found: Sequence[Displacement]) -> list[str]:
    """A measurement as text, one figure per line; 95% intervals over questions (Student's t)."""
    lines = [f"{len(found)} questions with right and wrong answers"]
    for arm in ARMS:
        values = torch.tensor([one.change[arm] for one in found], dtype=torch.float64)
        fell = float((values <= 0).double().mean())
        lines.append(f"{arm}: right answers gain {_mean(values)} nats; displaced on {fell:.1%} of the questions")
    spared = [one for one in found if one.selected > 0]
    share = sum(one.selected for one in found) / len(found)
    lines.append(f"NTHR spares {share:.1%} of the wrong tokens, some on {len(spared)} questions")
    if spared:
        gain = torch.tensor([one.change["NTHR"] - one.change["GRPO"] for one in spared], dtype=torch.float64)
        better = float((gain > 0).double().mean())
        lines.append(f"on these, NTHR gains {_mean(gain)} nats over GRPO, more on {better:.1%} of them")
    k = max(1, len(found) // 5)
    gwhes = torch.tensor([one.gwhes for one in found], dtype=torch.float64)
    change = torch.tensor([one.change["GRPO"] for one in found], dtype=torch.float64)
    overlap = float(token_weights.top_overlap(gwhes, change, k=k))
    chance = k / len(found)
    lines.append(
        f"the {k} questions with the highest GWHES include {overlap:.1%} of the {k} with the lowest gain "
        f"(chance: {chance:.1%})"
    )
    return lines


def _mean(values: Tensor) -> str:
    mean, low, high = t_interval(values.tolist())
    return f"{mean:.4f} ({low:.4f} to {high:.4f})"
