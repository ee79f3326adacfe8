"""Did training lift rare right answers as often as likely ones? Uplift rates by rank, and pass@N before and after."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.config.tree import Config
from edge_grpo.diagnostics.sampling import sample_held_out, summed_logprobs
from edge_grpo.evaluation.scores import pass_sizes
from edge_grpo.functional.coverage import pass_at_k
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy

__all__ = ["Uplift", "measure", "report"]

_BANDS = 4


@dataclass(frozen=True)
class Uplift:
    """The first model's answers scored under both models: log-probs ``before`` and ``after``, nats.

    ``correct`` says which of them are right, ``correct_after`` which of the second model's own answers are.
    """

    correct: Bool[Tensor, "problems samples"]
    before: Float[Tensor, "problems samples"]
    after: Float[Tensor, "problems samples"]
    correct_after: Bool[Tensor, "problems samples"]


def measure(config: Config, *, before: str, after: str, num_problems: int) -> Uplift:
    """Sample from both models on the same held-out problems, and score the first one's answers under both.

    Args:
        config: data, rollout and reward.
        before: the starting model.
        after: the trained one.
        num_problems: how many held-out problems, at most.
    Raises:
        ConfigError: the models have different tokenizers.
        DataError: an answer could not be graded.
    """
    one, two = (load_policy(replace(config.model, path=path)) for path in (before, after))
    if one.tokenizer.get_vocab() != two.tokenizer.get_vocab():
        raise ConfigError(f"{before} and {after} have different tokenizers; the same answer is not the same tokens")
    drawn, own = (sample_held_out(config, policy, num_problems=num_problems) for policy in (one, two))
    if not all(row.grade.scorable for each in (drawn, own) for group in each.groups for row in group.rows):
        raise DataError("an answer could not be graded; check reward.timeout_s and reward.function")
    batch, shape = drawn.batch(drawn.groups), (len(drawn.groups), -1)

    def scores(policy: Policy) -> Tensor:
        summed = summed_logprobs(
            policy, batch, temperature=config.rollout.temperature, at_once=config.train.micro_batch_rows
        )
        return summed.reshape(shape)

    return Uplift(
        correct=batch.correct.reshape(shape),
        before=scores(one),
        after=scores(two),
        correct_after=own.batch(own.groups).correct.reshape(shape),
    )


def report(found: Uplift) -> list[str]:
    """A measurement as text, one figure per line."""
    problems, samples = found.correct.shape
    lines = [f"{problems} problems, {samples} answers each"]
    for k in (1, *pass_sizes(samples)):
        shares = [
            sum(pass_at_k(samples, int(row.sum()), k) for row in flags) / problems
            for flags in (found.correct, found.correct_after)
        ]
        lines.append(f"pass@{k}: {shares[0]:.1%} -> {shares[1]:.1%}")
    order = found.before.argsort(dim=-1, descending=True, stable=True)
    right, change = found.correct.gather(-1, order), (found.after - found.before).gather(-1, order)
    for part in torch.arange(samples).chunk(min(_BANDS, samples)):
        rose, fell = change[:, part][right[:, part]] > 0, change[:, part][~right[:, part]] < 0
        lines.append(
            f"answers {int(part[0]) + 1}-{int(part[-1]) + 1} by likelihood before: "
            f"right ones rose {_share(rose)}, wrong ones fell {_share(fell)}"
        )
    return lines


def _share(flags: Bool[Tensor, " answers"]) -> str:
    return f"{float(flags.double().mean()):.1%} of {len(flags)}" if len(flags) else "- of 0"
