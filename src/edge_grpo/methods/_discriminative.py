"""What DisCO and DisCO-b share: scores in place of clipped ratios, two classes, and a limit on the drift per update."""

from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional import discriminative
from edge_grpo.functional.losses import log_ratio
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.functional.ops import masked_sum, where_mask

__all__ = [
    "Discriminative",
    "Estimator",
    "Penalty",
    "Score",
    "class_signal",
    "classes",
    "count_groups_and_drift",
    "drift",
    "drift_penalty",
    "is_mixed",
    "mean_drift",
    "observe",
    "scores",
]

Score = Literal["log_likelihood", "likelihood_ratio"]
Estimator = Literal["k1", "k3"]
Penalty = Literal["multiplier", "squared"]


@runtime_checkable
class Discriminative(Protocol):
    """The settings of both methods, documented here once.

    ``delta`` (nats) limits the drift per token of each optimizer update, estimated over all its rows; ``beta``
    penalises the excess. The drift is exactly zero at the first update of a step: with ``train.mini_batches=1`` the
    limit does nothing. Right and wrong are the grader's flags, regardless of rewards; unscorable rows are excluded.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 4 (squared); the official training scripts for ``delta`` 1e-4,
        ``beta`` 1000, ``kl_estimator`` (``kl_type=kl`` is k1, ``low_var_kl`` k3), four updates per step, and the
        multiplier, used for the published figures. They sum over 32 rows at a time (here: over the whole update) and do
        not resample prompts.
    """

    @property
    def score(self) -> Score:
        """A row's mean log-probability, or its mean ratio to the policy before the step."""

    @property
    def delta(self) -> float:
        """Limit on the drift, nats per token."""

    @property
    def beta(self) -> float:
        """Penalty per nat beyond the limit."""

    @property
    def kl_estimator(self) -> Estimator:
        """How the drift is estimated."""

    @property
    def penalty(self) -> Penalty:
        """A ``multiplier`` without gradient, or ``squared``, which pushes twice as hard at the same ``beta``."""


def is_mixed(group: Group) -> bool:
    """Whether a group has both right and wrong answers."""
    return len({row.grade.correct for row in group.rows if row.grade.scorable}) == 2


def class_signal(batch: Scored) -> Signal:
    """The signal in which each token has its row's weight in the contrast: positive if right, negative if wrong."""
    classed = batch.scorable & batch.mask.any(-1)
    right, wrong = classed & batch.correct, classed & ~batch.correct
    weights = discriminative.class_weights(batch.group, right, wrong, like=batch.old_logprobs)
    trained = weights != 0
    metrics: Metrics = {
        "groups/mixed": (float(len(batch.group[trained].unique())), float(len(batch.group.unique()))),
        "rows/trained": (float(trained.sum()), float(trained.numel())),
    }
    return Signal(
        advantages=where_mask(weights[:, None].expand_as(batch.old_logprobs), batch.mask),
        mask=batch.mask,
        keep=batch.scorable,
        raw_advantages=weights,
        row_advantages=weights,
        metrics=metrics,
    )


def classes(x: LossInputs) -> tuple[Bool[Tensor, " rows"], Bool[Tensor, " rows"]]:
    """Right and wrong rows, by the sign of their weights."""
    weights = where_mask(x.advantages, x.mask)
    right: Tensor = torch.any(weights > 0, -1)
    wrong: Tensor = torch.any(weights < 0, -1)
    return right, wrong


def scores(x: LossInputs, kind: Score) -> Float[Tensor, " rows"]:
    """The rows' scores under the current policy."""
    if kind == "log_likelihood":
        return discriminative.log_likelihood_score(x.logprobs, x.mask)
    return discriminative.likelihood_ratio_score(log_ratio(x.logprobs, x.old_logprobs, x.mask), x.mask)


def drift(x: LossInputs, estimator: Estimator) -> Float[Tensor, "rows tokens"]:
    """Divergence of the policy before the step's updates from the current one at each token, nats."""
    estimate = discriminative.old_kl_k1 if estimator == "k1" else discriminative.old_kl_k3
    return estimate(log_ratio(x.logprobs, x.old_logprobs, x.mask), x.mask)


def count_groups_and_drift(x: LossInputs, method: Discriminative) -> dict[str, float]:
    """Groups, mixed or not, and the drift summed over tokens, for ``totals``."""
    total = masked_sum(drift(x, method.kl_estimator).detach(), x.mask)
    return {"groups": float(len(x.group[x.keep].unique())), "kl": float(total)}


def mean_drift(totals: Totals) -> float:
    """Drift over the whole update, measured before it, nats per token."""
    return totals.extra["kl"] / max(totals.tokens, 1.0)


def drift_penalty(x: LossInputs, totals: Totals, method: Discriminative) -> Float[Tensor, ""]:
    """This micro-batch's share of the drift penalty."""
    share = mean_over_tokens(drift(x, method.kl_estimator), x.mask, tokens=totals.tokens)
    limit = {"total": mean_drift(totals), "delta": method.delta, "beta": method.beta}
    if method.penalty == "multiplier":
        return discriminative.multiplier_penalty(share, **limit)
    return discriminative.squared_penalty(share, **limit, part=float(x.mask.sum()) / max(totals.tokens, 1.0))


def observe(x: LossInputs, totals: Totals, method: Discriminative) -> Metrics:
    """Drift, whether it was above its limit before the update, and the mean scores of right and wrong answers."""
    count = float(x.mask.sum())
    total = float(masked_sum(drift(x, method.kl_estimator).detach(), x.mask))
    part = count / max(totals.tokens, 1.0)  # the shares of an update add up to 1, so that each update counts once
    violated = float(mean_drift(totals) > method.delta)
    metrics: Metrics = {"kl/old": (total, count), "kl/violated": (violated * part, part)}
    own = scores(x, method.score).detach()
    for name, chosen in zip(("right", "wrong"), classes(x), strict=True):
        metrics[f"score/{name}"] = (float(masked_sum(own, chosen)), float(chosen.sum()))
    return metrics
