"""What DisCO and DisCO-b share: scores instead of clipped ratios, two classes, and a limit on the drift per update."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional import discriminative as disc
from edge_grpo.functional.losses import log_ratio
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.functional.ops import masked_sum, where_mask
from edge_grpo.methods.base import Method, TopUp

__all__ = ["Discriminative"]


@settings
class Discriminative(Method):
    """Right answers are to score above wrong ones of their question; a subclass says how the two classes are compared.

    ``score``: a row's mean log-probability (``log_likelihood``) or mean ratio to the policy before the step
    (``likelihood_ratio``). The drift per token of each optimizer update, estimated by ``kl_estimator`` over all its
    rows, is to stay below ``delta`` nats; what exceeds it is priced with ``beta``: by a ``multiplier`` that carries no
    gradient, or ``squared``, which pushes twice as hard at the same ``beta``. The drift is exactly zero at the first
    update of a step: with ``train.mini_batches=1`` the limit does nothing. Right and wrong are the graders' flags,
    whatever the rewards; unscorable rows take no part. ``top_up``: dynamic sampling, off by default; mixed groups are
    useful.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 4 (squared); the official training scripts for ``delta`` 1e-4,
        ``beta`` 1000, ``kl_estimator`` (``kl_type=kl`` is k1, ``low_var_kl`` k3), four updates a step, and the
        multiplier, with which the published figures were made. They take all sums over 32 rows at a time, here it is
        the whole update; they draw no further prompts.
    """

    train_defaults: ClassVar[Mapping[str, Any]] = {"mini_batches": 4}

    score: Literal["log_likelihood", "likelihood_ratio"] = "log_likelihood"
    delta: float = Field(default=1e-4, ge=0)
    beta: float = Field(default=1e3, ge=0)
    kl_estimator: Literal["k1", "k3"] = "k1"
    penalty: Literal["multiplier", "squared"] = "multiplier"
    top_up: TopUp = Field(default_factory=TopUp)

    @property
    def whole_groups(self) -> bool:
        """The two classes of a group are compared within a micro-batch."""
        return True

    @property
    def totals_need_forward(self) -> bool:
        """The drift of the whole update decides what a nat of it costs."""
        return self.beta > 0

    @property
    def dynamic_sampling(self) -> TopUp | None:
        """How to draw further prompts; None = never."""
        return self.top_up if self.top_up.max_rounds else None

    def useful(self, group: Group) -> bool:
        """Whether a group has a right and a wrong answer."""
        return len({row.grade.correct for row in group.rows if row.grade.scorable}) == 2

    def signal(self, batch: Scored) -> Signal:
        """Each token has its row's weight in the contrast of its group: positive if right, negative if wrong."""
        classed = batch.scorable & batch.mask.any(-1)
        right, wrong = classed & batch.correct, classed & ~batch.correct
        weights = disc.class_weights(batch.group, right, wrong, like=batch.old_logprobs)
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

    @abstractmethod
    def contrast(
        self,
        scores: Float[Tensor, " rows"],
        group: Int[Tensor, " rows"],
        right: Bool[Tensor, " rows"],
        wrong: Bool[Tensor, " rows"],
    ) -> Float[Tensor, ""]:
        """How far the right answers score above the wrong ones, summed over the mixed groups; to be maximised."""

    def totals(self, x: LossInputs) -> dict[str, float]:
        """Groups, mixed or not, and the drift summed over tokens."""
        drift = masked_sum(self.drift(x).detach(), x.mask)
        return {"groups": float(len(x.group[x.keep].unique())), "kl": float(drift)}

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """Minus the contrast, averaged over all groups of the update, plus the price of too much drift."""
        contrast = self.contrast(self.scores(x), x.group, *_classes(x))
        loss = -contrast / max(totals.extra["groups"], 1.0)
        share = mean_over_tokens(self.drift(x), x.mask, tokens=totals.tokens)
        limit = {"total": self.mean_drift(totals), "delta": self.delta, "beta": self.beta}
        if self.penalty == "multiplier":
            return loss + disc.multiplier_penalty(share, **limit)
        return loss + disc.squared_penalty(share, **limit, part=float(x.mask.sum()) / max(totals.tokens, 1.0))

    def scores(self, x: LossInputs) -> Float[Tensor, " rows"]:
        """The rows' scores under the policy now."""
        if self.score == "log_likelihood":
            return disc.log_likelihood_score(x.logprobs, x.mask)
        return disc.likelihood_ratio_score(log_ratio(x.logprobs, x.old_logprobs, x.mask), x.mask)

    def drift(self, x: LossInputs) -> Float[Tensor, "rows tokens"]:
        """Divergence of the policy before the step's updates from the policy now, at each token."""
        estimate = disc.old_kl_k1 if self.kl_estimator == "k1" else disc.old_kl_k3
        return estimate(log_ratio(x.logprobs, x.old_logprobs, x.mask), x.mask)

    def mean_drift(self, totals: Totals) -> float:
        """Nats a token over the whole update, before it."""
        return totals.extra["kl"] / max(totals.tokens, 1.0)

    def observe(self, x: LossInputs) -> Metrics:
        """Drift at these weights, and the mean scores of right and of wrong answers of mixed groups."""
        scores = self.scores(x).detach()
        metrics: Metrics = {"kl/old": (float(masked_sum(self.drift(x).detach(), x.mask)), float(x.mask.sum()))}
        for name, chosen in zip(("right", "wrong"), _classes(x), strict=True):
            metrics[f"score/{name}"] = (float(masked_sum(scores, chosen)), float(chosen.sum()))
        return metrics

    def observe_update(self, totals: Totals) -> Metrics:
        """Whether the drift exceeded its limit when the update began."""
        return {"kl/violated": (float(self.mean_drift(totals) > self.delta), 1.0)}


def _classes(x: LossInputs) -> tuple[Bool[Tensor, " rows"], Bool[Tensor, " rows"]]:
    """Right and wrong rows, by the sign of their weights."""
    weights = where_mask(x.advantages, x.mask)
    right: Tensor = torch.any(weights > 0, -1)
    wrong: Tensor = torch.any(weights < 0, -1)
    return right, wrong
