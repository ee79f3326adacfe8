"""EDGE-GRPO: guided error correction makes the rewards of a group differ, entropy-driven advantages weight them."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, final

from jaxtyping import Float
from pydantic import BeforeValidator, Field
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group, Segment
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional.filters import comparable
from edge_grpo.functional.losses import clipped_loss
from edge_grpo.functional.means import mean_over_rows
from edge_grpo.functional.shaping import no_positive_credit
from edge_grpo.methods import _edge as edge
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.base import Method, Needs, Repair, Skip, TopUp

__all__ = ["Correction", "EdgeGrpo", "EntropyAdvantage"]

EntropyAdvantage = edge.EntropyAdvantage


def _without_the_control(injected: object) -> object:
    if injected == "likelihood_only":
        raise ValueError(
            "this is a separate method now: start a new run with method=grpo_matched (and method.eda.enabled=true, if "
            "EDA was on) and drop this setting"
        )
    return injected


@settings
class Correction(edge.Guidance):
    """Guided error correction, and how injected text is trained on.

    ``injected``: injected tokens are trained as if ``on_policy``, or by ``likelihood`` (left out of the policy-gradient
    term, weighted by ``likelihood_weight``, only in rows that ended up right). ``wrong_prefix``: the wrong attempt
    before an injection gets the row's advantage if ``credited``, but never a positive one if ``no_positive_credit``.

    Source:
        Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848; the official training code trains injected tokens as if
        on-policy and credits the wrong attempt.
    """

    injected: Annotated[Literal["on_policy", "likelihood"], BeforeValidator(_without_the_control)] = "on_policy"
    wrong_prefix: Literal["no_positive_credit", "credited"] = "no_positive_credit"


@final
@settings
class EdgeGrpo(Method):
    r"""Entropy-driven GRPO with guided error correction.

    .. math::
        -\frac{1}{R} \sum_i \frac{1}{n_i} \sum_t \min(w_{i,t} \hat A_i,\;
        \operatorname{clip}(w_{i,t}, 1 - \epsilon, 1 + \epsilon) \hat A_i), \qquad
        \hat A_i = A_i \,\Big/\, \operatorname{clamp}\!\Big(\frac{P_i}{\operatorname{mean}_g P}, 0.1, 10\Big)

    with :math:`A_i` the group-normalised reward after correction and :math:`P_i` the mean token entropy of the row.
    Force-reflection is ``correction.reflect=1`` (``answer`` and ``reference`` 0); correction alone
    ``eda.enabled=false``; entropy-driven advantage alone ``correction.amount=none``.

    Source:
        Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848, eq. 3, 6 and 7. Settings of the official training script (clip
        0.2, beta 0). The release averages entropy over padding and over the micro-batch, differentiates through the
        division and does not clamp it.
    """

    kind: Literal["edge_grpo"] = "edge_grpo"
    correction: Correction = Field(default_factory=Correction)
    eda: EntropyAdvantage = Field(default_factory=EntropyAdvantage)
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
        """Which wrong rollouts to correct and how."""
        return edge.plan_repairs(groups, rng, self.correction)

    def signal(self, batch: Scored) -> Signal:
        """Group-normalised rewards over the rows' relative entropy, with injected text treated as configured."""
        on_policy = self.correction.injected == "on_policy"
        raw = pg.group_advantages(batch, batch.scorable, self)
        signal = pg.spread(
            batch,
            self,
            raw=raw,
            advantages=edge.entropy_driven(batch, raw, batch.scorable, self.eda),
            keep=comparable(batch.group, batch.scorable),
            mask=batch.mask if on_policy else batch.mask & (batch.segment != int(Segment.INJECTED)),
        )
        if self.correction.wrong_prefix == "no_positive_credit":
            prefix = batch.segment == int(Segment.WRONG_PREFIX)
            signal = replace(signal, advantages=no_positive_credit(signal.advantages, prefix))
        if on_policy:
            return signal
        return replace(signal, likelihood=edge.imitated(batch, self.correction.likelihood_weight))

    def totals(self, x: LossInputs) -> dict[str, float]:
        """Tokens that the entropy bonus is averaged over; rows of either term where the two differ."""
        return super().totals(x) | edge.count_rows(x)

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """GRPO's loss, plus the likelihood of injected text where ``correction.injected`` asks for it."""
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
