"""GPG."""

from dataclasses import replace
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional import advantages as adv
from edge_grpo.functional.debiasing import debiasing_factor, useful_share
from edge_grpo.functional.filters import comparable
from edge_grpo.functional.losses import policy_gradient_loss
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["Gpg"]


@final
@settings
class Gpg(Method):
    r"""Group policy gradient: no ratio, no clip, no reference, and a mean that collapsed groups do not shrink.

    .. math::
        -\frac{\alpha}{N} \sum_{i,t} A_i \log \pi_{i,t}, \qquad A_i = r_i - \operatorname{mean}_g r, \qquad
        \alpha = \frac{B}{B - M}

    with M of the B groups in the mean collapsed. ``debias``: ``groups`` is this factor; ``tokens`` takes the collapsed
    groups out of the mean instead, which is exact where rows differ in length; ``none`` is alpha = 1. ``scale`` (the
    paper's F_norm): what a centred reward is divided by, ``none`` or the deviation of the ``group`` or of the
    ``batch``. ``aggregation``: mean over all ``tokens``, or over ``rows`` of the mean over tokens. There is no ratio,
    so ``train.passes`` and ``train.mini_batches`` above 1 have no correction.

    Source:
        Chu et al. 2025, GPG, arXiv:2504.02546 (F_norm = 1, alpha, and prompts resampled while fewer than 0.6 of the
        groups are useful; the release's script: 0.5). Official code: alpha for each micro-batch, every round draws as
        many prompts as the first, the 20th round is an error; its image trainers have ``aggregation="rows"``.
    """

    kind: Literal["gpg"] = "gpg"
    scale: f.Scale = "none"
    debias: Literal["groups", "tokens", "none"] = "groups"
    aggregation: f.Aggregation = "tokens"

    # shared by all policy-gradient methods, documented in _policy_gradient.Modifiers
    ratio_level: Literal["token"] = "token"
    beta: f.NonNegative = 0.0
    kl_bias_correction: bool = False
    kl_max: f.Positive | None = None
    off_policy_threshold: f.NonNegative | None = None
    entropy_quantile: f.Share = 1.0
    entropy_coef: f.NonNegative = 0.0
    sampler_correction: f.SamplerCorrection = "none"
    sampler_clip_max: f.Positive = 3.0
    mask_unfinished: bool = False
    top_up: TopUp = TopUp(max_rounds=19, min_share=0.6, fill=True)

    @property
    def needs(self) -> Needs:
        """What the modifiers need."""
        return pg.needs_of(self)

    def signal(self, batch: Scored) -> Signal:
        """The centred reward times alpha; collapsed groups get none."""
        scaled = {"none": adv.group_centered, "group": adv.group_normalized, "batch": adv.batch_scaled}[self.scale]
        raw = scaled(batch.reward, batch.group, batch.scorable)
        keep = comparable(batch.group, batch.scorable)
        differing = keep & ~adv.collapsed(batch.reward, batch.group, batch.scorable)
        share = useful_share(len(batch.group[differing].unique()), len(batch.group[keep].unique()))
        alpha = debiasing_factor(share) if self.debias == "groups" else 1.0
        if self.debias == "tokens":
            keep = differing
        signal = pg.spread(batch, self, raw=raw, advantages=alpha * raw, keep=keep)
        return replace(signal, metrics=signal.metrics | {"gpg/alpha": (alpha, 1.0), "gpg/useful": (share, 1.0)})

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """Weighted log-likelihood and KL, averaged according to ``aggregation``, minus the entropy bonus."""
        log_w = pg.log_ratio(x, self.ratio_level)
        surrogate = policy_gradient_loss(x.logprobs, x.advantages, x.mask)
        values = pg.off_policy_corrected(surrogate, x, self) + self.beta * pg.reference_kl(x, log_w, self)
        loss = pg.mean_over(self.aggregation, values, x, totals)
        return loss - pg.entropy_bonus(x, totals, self)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift from the old policy and the reference."""
        return pg.observe_drift(x, pg.log_ratio(x, self.ratio_level), self)
