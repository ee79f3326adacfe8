"""BNPO, as TRL names it."""

from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional.losses import clipped_loss
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["Bnpo"]


@final
@settings
class Bnpo(Method):
    r"""The clipped loss of GRPO, averaged over all tokens of the update.

    .. math::
        -\frac{1}{N} \sum_{i,t} \min(w_{i,t} A_i,\; \operatorname{clip}(w_{i,t}, 1 - \epsilon, 1 + \epsilon) A_i)

    Source:
        TRL 1.16.0, ``loss_type="bnpo"``, which averages over each micro-batch, so that its value changes with the
        micro-batch size; here all tokens of the update count once. With one micro-batch per update both are the same,
        and both are DAPO's loss with equal half-widths. The Beta normalisation of rewards in the paper of that name
        (Xiao et al. 2025, arXiv:2506.02864) is in neither.
    """

    kind: Literal["bnpo"] = "bnpo"
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
        """What the modifiers need."""
        return pg.needs_of(self)

    def signal(self, batch: Scored) -> Signal:
        """Each token of a rollout receives the rollout's advantage."""
        return pg.group_signal(batch, self)

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """Clipped surrogate and KL, mean over all tokens of the update, minus the entropy bonus."""
        log_w = pg.log_ratio(x, self.ratio_level)
        surrogate = clipped_loss(
            log_w, x.advantages, x.mask, clip_low=self.clip_low, clip_high=self.clip_high, delta=self.delta
        )
        values = pg.off_policy_corrected(surrogate, x, self) + self.beta * pg.reference_kl(x, log_w, self)
        loss = mean_over_tokens(values, x.mask, tokens=totals.tokens)
        return loss - pg.entropy_bonus(x, totals, self)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift from the old policy and the reference, and the shares of clipped tokens."""
        return pg.observe_clipped(x, self)
