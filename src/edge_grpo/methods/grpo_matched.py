"""The supervision-matched control of EDGE-GRPO: the same injections, trained by likelihood alongside plain GRPO."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group, Row, Strategy
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional.filters import comparable
from edge_grpo.functional.losses import clipped_loss
from edge_grpo.functional.means import mean_over_rows
from edge_grpo.methods import _edge as edge
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.base import Method, Needs, Repair, Skip, TopUp

__all__ = ["GrpoMatched"]


@final
@settings
class GrpoMatched(Method):
    r"""GRPO plus supervised learning of the injections EDGE-GRPO would make.

    .. math::
        -\frac{1}{R} \sum_i \frac{1}{n_i} \sum_t \min(w_{i,t} A_i,\;
        \operatorname{clip}(w_{i,t}, 1 - \epsilon, 1 + \epsilon) A_i)
        - \frac{\omega}{|K|} \sum_{i \in K} \frac{1}{m_i} \sum_{t \text{ injected}} \log \pi_{i,t}

    The policy-gradient term sees rollouts and rewards as first sampled. Corrected rows are added as likelihood rows,
    with K those that ended up right, :math:`m_i` their injected tokens and :math:`\omega` the
    ``correction.likelihood_weight``. Reflections inject no supervision: they are drawn but not carried out, unless
    their outcome decides how many injections follow (``correction.amount=balanced``), and never trained on. ``eda``:
    EDGE-GRPO's entropy-driven advantage, off by default.

    Source:
        This project: the control with equal supervision for Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848. Where it
        matches EDGE-GRPO, the gain comes from the supervision, not from how it is used.
    """

    kind: Literal["grpo_matched"] = "grpo_matched"
    correction: edge.Guidance = Field(default_factory=edge.Guidance)
    eda: edge.EntropyAdvantage = Field(default_factory=lambda: edge.EntropyAdvantage(enabled=False))
    clip_low: f.ClipLow = 0.2
    clip_high: f.ClipHigh = 0.2
    delta: f.RatioCap = None
    scale: f.Scale = "group"
    objectives: f.Objectives = "sum_then_normalize"

    # shared by all policy-gradient methods, documented in _policy_gradient.Modifiers
    ratio_level: f.RatioLevel = "token"
    beta: f.NonNegative = 0.0
    kl_bias_correction: bool = True
    kl_max: f.Positive | None = None
    off_policy_threshold: f.NonNegative | None = None
    entropy_quantile: f.Share = 1.0
    entropy_coef: f.NonNegative = 0.0
    sampler_correction: f.SamplerCorrection = "none"
    sampler_clip_max: f.Positive = 3.0
    mask_unfinished: bool = False
    top_up: TopUp = TopUp()

    @property
    def needs(self) -> Needs:
        """What the modifiers need, and the limit of corrections."""
        return edge.needs_of(pg.needs_of(self), self.correction)

    def plan(self, groups: Sequence[Group], rng: random.Random) -> list[Repair | Skip]:
        """The injections that EDGE-GRPO would make, from the same draws, and any reflections they depend on."""
        planned = edge.plan_repairs(groups, rng, self.correction)
        if self.correction.amount == "balanced":
            return planned
        return [each for each in planned if isinstance(each, Skip) or each.strategy is not Strategy.REFLECT]

    def arrange(self, groups: Sequence[Group]) -> list[Group]:
        """Each row as first sampled; after the group, once more, those with an injection."""
        return [
            replace(group, rows=(*self.compared(group).rows, *filter(_is_injected, group.rows))) for group in groups
        ]

    def compared(self, group: Group) -> Group:
        """The rows as first sampled: no correction reaches the policy-gradient term."""
        return replace(group, rows=tuple(map(_as_sampled, group.rows)))

    def signal(self, batch: Scored) -> Signal:
        """Group-normalised rewards of the rows as first sampled; corrected rows have only a likelihood weight."""
        compared = batch.scorable & ~batch.corrected
        raw = pg.group_advantages(batch, compared, self)
        signal = pg.spread(
            batch,
            self,
            raw=raw,
            advantages=edge.entropy_driven(batch, raw, compared, self.eda),
            keep=comparable(batch.group, compared) | (batch.scorable & batch.corrected),
            mask=batch.mask & ~batch.corrected[:, None],
        )
        return replace(signal, likelihood=edge.imitated(batch, self.correction.likelihood_weight))

    def totals(self, x: LossInputs) -> dict[str, float]:
        """Tokens that the entropy bonus is averaged over; rows of either term where the two differ."""
        return super().totals(x) | edge.count_rows(x)

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """GRPO's loss, plus the likelihood of injected text."""
        log_w = pg.log_ratio(x, self.ratio_level)
        surrogate = clipped_loss(
            log_w, x.advantages, x.mask, clip_low=self.clip_low, clip_high=self.clip_high, delta=self.delta
        )
        values = pg.off_policy_corrected(surrogate, x, self) + self.beta * pg.reference_kl(x, log_w, self)
        loss = mean_over_rows(values, x.mask, rows=edge.policy_rows(totals))
        return loss - pg.entropy_bonus(x, totals, self) + edge.injected_likelihood(x, totals)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift from the old policy and the reference, and the shares of clipped tokens."""
        return pg.observe_clipped(x, self)


def _as_sampled(row: Row) -> Row:
    return Row(*row.first) if row.first else row


def _is_injected(row: Row) -> bool:
    return row.strategy in (Strategy.ANSWER, Strategy.REFERENCE)
